"""Measurements of mptrain against plain PyTorch and its peers; not part of the installed package.

Owns: the scripts `python -m benchmarks.overhead`, `.coldstart` and `.gpu_resnet50`. Must not: be imported by mptrain.
"""
