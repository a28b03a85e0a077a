"""What the detectors share: padded tables of targets and detections.

Owns: these few functions. Must not: know a network.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from mptrain.interfaces import Detections


def trained_on(objects: Tensor) -> Tensor:
    """Return which rows of (N, boxes, 6) are objects to learn, bool (N, boxes): no padding, no crowds."""
    return (objects[..., 0] >= 0) & (objects[..., 5] == 0)


def pad_detections(found: Sequence[tuple[Tensor, Tensor, Tensor]], places: int) -> Detections:
    """Return each image's (boxes (n, 4), scores (n,), classes (n,)), n <= places, in tables of `places` rows."""
    boxes, scores, classes = zip(*found, strict=True)
    return Detections(
        torch.stack([functional.pad(b.float(), (0, 0, 0, places - len(b))) for b in boxes]),
        torch.stack([functional.pad(s.float(), (0, places - len(s))) for s in scores]),
        torch.stack([functional.pad(c, (0, places - len(c)), value=-1) for c in classes]),
    )
