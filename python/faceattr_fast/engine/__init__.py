"""A plan as a network that can be called: on the CPU's engine, or on CUDA.

:mod:`.backend` compiles a plan for the extension modules, :mod:`.network` and :mod:`.cuda` call what it made;
:mod:`.arrays` and :mod:`.device_arrays` are callers' arrays in main and in GPU memory.
"""
