"""The runtime: the program as data, the native runner and its thread pool, kernels' building blocks, weights, training.

``native``, ``simd``, ``tile``, ``math``, ``random``, ``runner`` and ``pool`` import Numba: import them only when
something is compiled or run.  Nothing here imports the compiler.
"""
