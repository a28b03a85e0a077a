"""Names and descriptions of the models for text classification and translation.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations
