"""Built-in models; importing this package registers them, without importing torch.

Owns: names, Config classes and how to build each network in FP32. Must not: know of data, tasks or precision.
"""

from mptrain.models import entries as entries

__all__: list[str] = []
