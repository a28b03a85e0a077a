"""Checkpoints: atomic save, verified load, retention.

    checkpoints/step-00000312/   model.pt  optimizer.pt  trainer.pt  [ema.pt]   manifest.json (written last)

`store.py` says which are kept, and how they come and go; `files.py` what is in one, `manifest.py` what makes it whole.

A folder without a manifest whose sizes and checksums match is not a checkpoint. Nothing here knows what the parts
mean: the trainer hands in plain state (tensors, numbers, strings, lists, dicts) and gets it back. Loading never runs
code: `weights_only=True` throughout.
"""

from mptrain.checkpoint.files import load, verify
from mptrain.checkpoint.manifest import read_manifest
from mptrain.checkpoint.store import Checkpoint, CheckpointStore, Found

__all__ = ["Checkpoint", "CheckpointStore", "Found", "load", "read_manifest", "verify"]
