"""Built-in tasks; importing this package registers them, without importing torch.

Owns: losses and metrics. Must not: know of particular models or datasets, of precision or of the loop.
"""

from mptrain.tasks import entries as entries

__all__: list[str] = []
