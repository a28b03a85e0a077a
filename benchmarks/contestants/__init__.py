"""Who takes part: each contestant trains the same problem its own way and returns the trained model.

Owns: the list of names. Must not: import torch or a framework; the worker imports only the one that it runs.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """Where to find `train(problem) -> nn.Module`, what it needs, and what it is compared with."""

    name: str
    module: str
    function: str
    what: str
    needs: str | None = None
    """The distribution that must be installed; None for torch and mptrain alone."""
    baseline: str = "plain"
    """The contestant whose time in the same round is 1.00."""


def _here(name: str, module: str, function: str, what: str, **more: str) -> Contestant:
    return Contestant(name, f"benchmarks.contestants.{module}", function, what, **more)


CONTESTANTS: dict[str, Contestant] = {
    contestant.name: contestant
    for contestant in (
        _here("plain", "plain", "train", "hand-written loop, DataLoader, no statistics, no guard (the floor)"),
        _here("plain-index", "plain", "train_by_index", "the same, batches indexed straight from the tensors"),
        _here("mptrain", "mptrain_cli", "train", "`mptrain run`: non-finite guard, statistics, jsonl, console lines"),
        _here("amp-recipe", "plain", "train_amp_recipe", "plain + autocast + GradScaler as PyTorch documents it"),
        _here("timm-style", "plain", "train_timm_style", "plain + loss.item() meters, schedule, log lines"),
        _here("plain-clip", "plain", "train_clipped", "plain + clip_grad_norm_", baseline="plain-clip"),
        _here("mptrain-clip", "mptrain_cli", "train_clipped", "mptrain with train.clip_norm", baseline="plain-clip"),
        _here("ignite", "ignite_engine", "train", "create_supervised_trainer", needs="pytorch-ignite"),
        _here("fabric", "lightning_fabric", "train", "plain loop through Fabric", needs="lightning"),
        _here("accelerate", "accelerate_loop", "train", "plain loop through Accelerator", needs="accelerate"),
        _here("lightning-bare", "lightning_trainer", "train_bare", "Trainer, everything off", needs="lightning"),
        _here("lightning", "lightning_trainer", "train", "Trainer, its defaults, loss logged", needs="lightning"),
        _here("hf-trainer", "hf_trainer", "train", "Trainer, no saves, no reports", needs="transformers"),
        _here("composer", "composer_trainer", "train", "Trainer, no bar, no saves", needs="composer"),
        _here("keras", "keras_fit", "train", "Model.fit on the torch backend, its own AdamW", needs="keras"),
    )
}
