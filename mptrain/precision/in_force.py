"""The record of what precision is really in force: printed before the run, kept in plan.json and result.json.

Owns: its wording. Must not: decide anything.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class InForce:
    """What precision is really in force."""

    requested: str
    mode: str
    reason: str
    backend: str
    """`native` or `emulated`."""
    param_dtype: str
    compute_dtype: str
    grad_dtype: str
    optimizer_dtype: str
    loss_dtype: str
    reduce_dtype: str
    """Format in which gradients of several devices would be summed."""
    autocast: bool
    master_weights: bool
    rounding: str | None
    """How updates are rounded into `-pure` weights."""
    formats: dict[str, object] | None
    """Operand formats of the layers whose products run below compute_dtype, and how many layers those are."""
    overrides: int
    """Rules of precision.overrides."""
    loss_scale: str
    tf32: dict[str, str]
    device: str

    def line(self) -> str:
        """Return it as one line for a person."""
        asked = f" (auto: {self.reason})" if self.requested == "auto" else ""
        emulated = " emulated" if self.backend == "emulated" else ""
        weights = f"weights {self.param_dtype}"
        weights += ", master weights fp32" if self.master_weights else ""
        weights += f" rounded {self.rounding}" if self.rounding else ""
        compute = f"compute {self.compute_dtype}"
        if self.formats:
            compute += (
                f", {_count(self.formats['layers'], 'layer')} in {self.formats['input']}/{self.formats['grad_output']}"
            )
        compute += f", {_count(self.overrides, 'override')}" if self.overrides else ""
        scaling = "no loss scaling" if self.loss_scale == "none" else f"{self.loss_scale} loss scaling"
        return f"{self.mode}{emulated}{asked}: {weights}, {compute}, {scaling}"

    def as_dict(self) -> dict[str, object]:
        """Return it as JSON-able data."""
        return asdict(self)


def _count(number: object, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
