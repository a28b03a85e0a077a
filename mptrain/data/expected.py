"""What the data will be like, before any of their files are there: for plans of runs whose data are elsewhere.

Owns: the one function; each dataset that knows registers its Config class. Must not: read files, or import torch.
"""

from __future__ import annotations

from functools import singledispatch

from mptrain.config.schema import DataConfig
from mptrain.interfaces import DataSpec


@singledispatch
def expected_spec(config: DataConfig) -> DataSpec | None:
    """Return what a model needs to know of the data where the config alone tells; None where only the files do.

    A dataset registers its own: `@expected_spec.register` on a function whose argument is annotated with its Config.
    """
    del config
    return None
