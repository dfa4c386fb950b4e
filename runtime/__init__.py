"""The runtime: the program as data, the native runner and its thread pool, kernels' building blocks, weights, training.

``builders`` and all that it imports import LLVM's bindings: import them only when something is compiled;
``numba_backend`` imports Numba: import it only for the target "numba".  Nothing here imports the compiler.
"""
