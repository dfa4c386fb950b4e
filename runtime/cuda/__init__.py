"""The CUDA target's run time: memory, kernels and programs on an NVIDIA GPU.

``door`` is the only module that imports numba-cuda; ``device`` and ``simulated`` are its two rooms, of which it opens
one. ``driver`` is what is asked of NVIDIA's driver and linker directly. Nothing here is imported unless the target is
"cuda".
"""
