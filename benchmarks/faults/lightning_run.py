"""Lightning's Trainer with `ModelCheckpoint(save_last=True)` and `fit(ckpt_path="last")`.

Owns: this contestant. Must not: do more than Lightning's documentation shows.
"""

from __future__ import annotations

from typing import Any

import lightning
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.plugins import MixedPrecision
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from benchmarks.faults.job import BATCH_SIZE, Job
from benchmarks.faults.problem import GROWTH_INTERVAL, INIT_SCALE, LR, MLP, SEED, Witness, as_dataset, folder_of

PRECISIONS = {"fp32": "32-true", "fp16": "16-mixed", "bf16": "bf16-mixed"}


class _Module(lightning.LightningModule):
    def __init__(self, job: Job, witness: Witness) -> None:
        super().__init__()
        self.net, self.witness = witness.watch_mlp(MLP(job.ballast)), witness

    def on_train_start(self) -> None:
        step = self.trainer.global_step
        self.witness.resumed_at = lambda: step

    def training_step(self, batch: list[Tensor], batch_index: int) -> Tensor:
        inputs, labels = batch
        loss = cross_entropy(self.net(inputs), labels)
        self.log("loss", loss, prog_bar=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=LR)


def run(job: Job, witness: Witness) -> None:
    """Train with the Trainer's defaults and what `job.option` names."""
    lightning.seed_everything(SEED, workers=True)
    saving = ModelCheckpoint(dirpath=folder_of(job) / "checkpoints", every_n_train_steps=job.save_every, save_last=True)
    callbacks: list[Any] = [saving]
    how: dict[str, Any] = {"precision": PRECISIONS[job.precision]}
    if job.option == "EarlyStopping(check_finite)":
        callbacks.append(EarlyStopping("loss", patience=1000, check_finite=True, check_on_train_epoch_end=True))
    if job.option == "detect_anomaly":
        how["detect_anomaly"] = True
    if job.option == "CPU scaler by hand":
        scaler = torch.amp.GradScaler("cpu", init_scale=INIT_SCALE, growth_interval=GROWTH_INTERVAL)
        how = {"plugins": [MixedPrecision("16-mixed", "cpu", scaler)]}
    loader_class: Any = DataLoader
    if job.option == "StatefulDataLoader":
        from torchdata.stateful_dataloader import StatefulDataLoader as loader_class
    module = _Module(job, witness)
    trainer = lightning.Trainer(
        accelerator="cpu",
        devices=1,
        max_steps=job.steps,
        default_root_dir=job.folder,
        callbacks=callbacks,
        logger=False,
        **how,
    )
    loader = loader_class(as_dataset(), batch_size=BATCH_SIZE, shuffle=True)
    trainer.fit(module, loader, ckpt_path="last" if job.resume else None)
    in_force = getattr(trainer.precision_plugin, "scaler", None)
    witness.end(module.net, scale=in_force and in_force.get_scale())
