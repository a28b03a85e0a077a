"""torchtune's own recipe `full_finetune_single_device` with its `FullModelHFCheckpointer`, on random tiny weights.

Owns: this contestant: a tiny Llama, token data whose first token is the sample's id, the recipe's config. Must not:
change the recipe. It saves at the end of an epoch and nowhere else, so where a job asks for a save at every step an
epoch is one step (`max_steps_per_epoch: 1`).
"""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import torch
import torchtune
from omegaconf import OmegaConf
from safetensors.torch import save_file
from torch import Tensor, nn
from torchtune.models.convert_weights import tune_to_hf
from torchtune.models.llama3_2 import llama3_2

from benchmarks.faults.job import BATCH_SIZE, NUM_SAMPLES, STEPS_PER_EPOCH, Job
from benchmarks.faults.problem import LR, SEED, Witness, folder_of, tell

WIDTH, HEADS, LENGTH = 64, 2, 8
HERE = "benchmarks.faults.torchtune_run"
_witness: Witness | None = None


class Tokenizer:
    """The one thing that the recipe asks of its tokenizer."""

    pad_id = 0


class Tokens(torch.utils.data.Dataset[dict[str, list[int]]]):
    """Sample i is the tokens i, 1, 2, ..., to be predicted."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        del tokenizer

    def __len__(self) -> int:
        return NUM_SAMPLES

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        tokens = [index, *range(1, LENGTH)]
        return {"tokens": tokens, "labels": tokens}


def tiny_llama(vocab_size: int) -> nn.Module:
    """Return a Llama of two layers, watched where training runs."""
    model: Any = llama3_2(
        vocab_size, num_layers=2, num_heads=HEADS, num_kv_heads=HEADS, embed_dim=WIDTH, max_seq_len=LENGTH
    )
    if _witness is not None:
        _witness.watch(model, model.layers[0].attn.q_proj, lambda args, kwargs: _first_token(kwargs))
    return model  # type: ignore[no-any-return]


def _first_token(inputs: Any) -> Tensor:
    tokens: Tensor = inputs["tokens"]
    return tokens[:, 0]


def _write_pretrained(folder: Path, vocab_size: int) -> None:
    """Write the folder that `tune download` would have left."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(SEED)
    config = {"num_attention_heads": HEADS, "num_key_value_heads": HEADS, "hidden_size": WIDTH}
    (folder / "config.json").write_text(json.dumps(config))
    weights = tune_to_hf(tiny_llama(vocab_size).state_dict(), HEADS, HEADS, WIDTH)
    save_file({name: value.contiguous() for name, value in weights.items()}, folder / "model.safetensors")


def _config(job: Job, vocab_size: int, steps_per_epoch: int) -> Any:
    folder = folder_of(job)
    # To resume, its documentation has the user name the files of an epoch's folder here; this takes the newest.
    files = [f"epoch_{_newest_epoch(folder)}/model-00001-of-00001.safetensors" if job.resume else "model.safetensors"]
    return OmegaConf.create(
        {
            "output_dir": str(folder / "out"),
            "model": {"_component_": f"{HERE}.tiny_llama", "vocab_size": vocab_size},
            "tokenizer": {"_component_": f"{HERE}.Tokenizer"},
            "dataset": {"_component_": f"{HERE}.Tokens"},
            "seed": SEED,
            "shuffle": True,
            "checkpointer": {
                "_component_": "torchtune.training.FullModelHFCheckpointer",
                "checkpoint_dir": str(folder / "pretrained"),
                "checkpoint_files": files,
                "recipe_checkpoint": None,
                "output_dir": str(folder / "out"),
                "model_type": "LLAMA3_2",
            },
            "resume_from_checkpoint": job.resume,
            "batch_size": BATCH_SIZE,
            "epochs": -(-job.steps // steps_per_epoch),
            "optimizer": {"_component_": "torch.optim.AdamW", "lr": LR},
            "loss": {"_component_": "torch.nn.CrossEntropyLoss"},
            "max_steps_per_epoch": None if steps_per_epoch == STEPS_PER_EPOCH else steps_per_epoch,
            "gradient_accumulation_steps": 1,
            "optimizer_in_bwd": False,
            "compile": False,
            "device": "cpu",
            "dtype": job.precision,
            "metric_logger": {
                "_component_": "torchtune.training.metric_logging.DiskLogger",
                "log_dir": str(folder / "out" / "logs"),
            },
        }
    )


def _newest_epoch(folder: Path) -> int:
    return max(int(path.name.removeprefix("epoch_")) for path in (folder / "out").glob("epoch_*"))


def run(job: Job, witness: Witness) -> None:
    """Run the recipe as its `recipe_main` does."""
    global _witness
    vocab_size = max(128, job.ballast // WIDTH)
    steps_per_epoch = 1 if job.save_every == 1 else STEPS_PER_EPOCH
    if not job.resume:
        _write_pretrained(folder_of(job) / "pretrained", vocab_size)
    _witness = witness
    source = Path(torchtune.__file__).parent.parent / "recipes" / "full_finetune_single_device.py"
    cfg = _config(job, vocab_size, steps_per_epoch)
    recipe: Any = runpy.run_path(str(source))["FullFinetuneRecipeSingleDevice"](cfg=cfg)
    recipe.setup(cfg=cfg)
    witness.resumed_at = lambda start=recipe.global_step: start
    if job.resume:
        newest = _newest_epoch(folder_of(job))
        if newest + 1 != recipe.epochs_run:
            tell("mixed", weights_of_epoch=newest + 1, optimizer_of_epoch=recipe.epochs_run)
    recipe.train()
    recipe.cleanup()
    witness.end(recipe._model, scale=None)
