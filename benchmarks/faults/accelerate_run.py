"""Hugging Face Accelerate: `save_state`/`load_state` with automatic naming, `skip_first_batches`.

Owns: this contestant. Must not: do more than Accelerate's checkpointing guide shows.
"""

from __future__ import annotations

from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration, ProjectConfiguration, set_seed
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.faults.job import BATCH_SIZE, STEPS_PER_EPOCH, Job
from benchmarks.faults.problem import GROWTH_INTERVAL, INIT_SCALE, LR, MLP, SEED, Witness, as_dataset, folder_of

PRECISIONS = {"fp32": "no", "fp16": "fp16", "bf16": "bf16"}


class _Progress:
    """Steps done: the loop is the user's, so is this; `register_for_checkpointing` is the documented place for it."""

    step = 0

    def state_dict(self) -> dict[str, int]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.step = state["step"]


def run(job: Job, witness: Witness) -> None:
    """Train the plain loop that the guides show."""
    set_seed(SEED)
    stateful = job.option.startswith("use_stateful_dataloader")
    seedable = job.option == "use_seedable_sampler, set_epoch by hand"
    accelerator = Accelerator(
        cpu=True,
        mixed_precision=PRECISIONS[job.precision],
        project_config=ProjectConfiguration(job.folder, automatic_checkpoint_naming=True, total_limit=2),
        dataloader_config=DataLoaderConfiguration(use_seedable_sampler=seedable, use_stateful_dataloader=stateful),
    )
    if job.option == "CPU scaler by hand":  # it makes none for a CPU; this is the attribute that it saves and restores
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=INIT_SCALE, growth_interval=GROWTH_INTERVAL)
    loader_class: Any = DataLoader
    if job.option == "use_stateful_dataloader on torchdata's StatefulDataLoader":
        from torchdata.stateful_dataloader import StatefulDataLoader as loader_class
    bare = witness.watch_mlp(MLP(job.ballast))
    model, optimizer, loader = accelerator.prepare(
        bare,
        torch.optim.AdamW(bare.parameters(), lr=LR),
        loader_class(as_dataset(), batch_size=BATCH_SIZE, shuffle=True),
    )
    progress = _Progress()
    accelerator.register_for_checkpointing(progress)
    if job.resume:
        accelerator.load_state()
        # Without this the first save after a resumption is an error: its name, counted from 0, exists already.
        saved = [int(path.name.rpartition("_")[2]) for path in (folder_of(job) / "checkpoints").iterdir()]
        accelerator.project_configuration.iteration = max(saved) + 1
    witness.resumed_at = lambda start=progress.step: start
    while progress.step < job.steps:
        epoch, done = divmod(progress.step, STEPS_PER_EPOCH)
        batches = accelerator.skip_first_batches(loader, done) if done and not stateful else loader
        if seedable:
            batches.set_epoch(epoch)
        for inputs, labels in batches:
            loss = cross_entropy(model(inputs), labels)
            accelerator.backward(loss)
            optimizer.step()
            optimizer.zero_grad()
            progress.step += 1
            if progress.step % job.save_every == 0:
                accelerator.save_state()
            if progress.step >= job.steps:
                break
    witness.end(bare, scale=accelerator.scaler and accelerator.scaler.get_scale())
