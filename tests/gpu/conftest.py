"""Settings for the tests that need a GPU."""

from mptrain.environment import set_cublas_workspace

# cuBLAS reads it at its first product, whatever the test: later it is too late for the deterministic ones.
set_cublas_workspace()
