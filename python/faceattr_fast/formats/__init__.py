"""The number formats of a plan: :mod:`.dtypes` is the way in, for what ``dtype`` says.

:mod:`.storage` keeps weights in 16 bits, :mod:`.quantize` computes in int8, :mod:`.mixed` chooses for each phase;
:mod:`.deviation` says how far the results are from float32's.
"""
