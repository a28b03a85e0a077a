"""Names and descriptions of the models for object detection.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations
