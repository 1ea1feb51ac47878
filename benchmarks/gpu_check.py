"""Check and measure the CUDA engine on the GPU of this machine, in ten minutes: what is measured lies in OUT as JSON.

python benchmarks/gpu_check.py OUT                       # everything
python benchmarks/gpu_check.py OUT --steps peer-compile  # once more, or those that there was no time for

Steps run one after the other in processes of their own, each until its own time limit; what a step found is kept
whatever happens to others. benchmarks/README.md says what they do. With FACEATTR_GPU=emulated those that need no GPU
run on a small network.
"""

from gpu.main import main

if __name__ == "__main__":
    raise SystemExit(main())
