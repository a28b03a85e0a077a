"""What the built-in tasks' metrics are: which way is better, and which are shares of 1 that read as percentage points.

Must not: know values. A run's own record of its main metric stands above this table.
"""

from __future__ import annotations

_LOWER = frozenset({"loss", "mse", "perplexity", "bits_per_byte"})
_HIGHER = frozenset({"r2", "bleu", "chrf"})
_LOWER_SHARES = frozenset({"wer", "cer", "error_rate"})
_HIGHER_SHARES = frozenset({"accuracy", "top5_accuracy", "token_accuracy", "pixel_accuracy", "f1", "exact", "mean_iou"})
_HIGHER_SHARE_PREFIXES = ("iou_", "map", "mar")


def is_share(metric: str) -> bool:
    """Say whether a metric is a share of 1."""
    return metric in _LOWER_SHARES | _HIGHER_SHARES or metric.startswith(_HIGHER_SHARE_PREFIXES)


def higher_is_better(metric: str) -> bool | None:
    """Return which way a metric is better; None where it is no built-in one."""
    if metric in _LOWER | _LOWER_SHARES:
        return False
    return True if metric in _HIGHER or is_share(metric) else None
