"""Built-in datasets and how they are loaded; importing this package registers them, without importing torch.

Owns: names, Config classes, splits, loaders. Must not: know of models, tasks or precision.
"""

from mptrain.data import entries as entries

__all__: list[str] = []
