"""The one place that imports torchvision, and says in one line what is wrong when it does not import.

Owns: the import guard shared by models and data. Must not: import torch or torchvision before it is called.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from mptrain.errors import CapabilityError, first_line

REMEDY = "install both in one command so that they match: pip install --force-reinstall torch torchvision"


def import_torchvision(submodule: str = "") -> ModuleType:
    """Return torchvision (or e.g. its `models`); raise CapabilityError when it is absent or does not fit torch."""
    name = f"torchvision.{submodule}" if submodule else "torchvision"
    try:
        return importlib.import_module(name)
    # A torchvision built for another torch fails with RuntimeError (operator torchvision::nms does not exist) or
    # OSError (undefined symbol); a second attempt in the same process then fails with AttributeError.
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        raise CapabilityError(f"torchvision cannot be imported ({first_line(error)}); {REMEDY}") from error
