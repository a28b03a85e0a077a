"""Names and descriptions of the models for keywords and transcription from speech.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations
