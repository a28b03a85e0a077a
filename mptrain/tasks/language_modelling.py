"""Learning which token comes next: cross-entropy per token, perplexity, bits per byte.

Owns: the loss and its exact sums over tokens. Must not: read the device before `compute`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.interfaces import IGNORED_TOKEN, Batch, Metrics, Task, TextCodec, at_least_fp32, forward
from mptrain.tasks.outputs import check_outputs


class LanguageModelling(Task):
    """Cross-entropy of logits (N, T, vocabulary) against targets int64 (N, T), those that are ignored left out."""

    main_metric = "loss"
    higher_is_better = False

    def __init__(self, vocab_size: int, codec: TextCodec | None, bytes_per_token: float | None) -> None:
        self._vocab_size, self._codec, self._bytes_per_token = vocab_size, codec, bytes_per_token

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy per token, 0-d, in FP32 or FP64; raise ConfigError on other outputs."""
        logits = token_logits(forward(model, batch.inputs), batch.targets, self._vocab_size)
        return functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED_TOKEN)

    def part_of_loss(self, model: nn.Module, part: Batch, whole: Batch) -> Tensor:
        """See Task: the whole's mean is per token that is not ignored."""
        logits = token_logits(forward(model, part.inputs), part.targets, self._vocab_size)
        targets = part.targets.flatten()
        summed = functional.cross_entropy(logits, targets, ignore_index=IGNORED_TOKEN, reduction="sum")
        mean: Tensor = summed / (whole.targets != IGNORED_TOKEN).sum()
        return mean

    def blank_targets(self, inputs: Tensor) -> Tensor:
        """Return a token to predict for each."""
        return torch.zeros_like(inputs)

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh sums on `device`."""
        return LanguageModellingMetrics(self._vocab_size, self._bytes_per_token, device)

    def predictions(self, outputs: Tensor, batch: Batch) -> list[dict[str, Any]]:
        """Return each window's mean loss, and its text beside the most probable successor of every token."""
        logits = token_logits(outputs, batch.targets, self._vocab_size)
        losses = functional.cross_entropy(logits, batch.targets.flatten(), ignore_index=IGNORED_TOKEN, reduction="none")
        rows = zip(
            losses.view(batch.targets.shape).tolist(),
            logits.argmax(1).view(batch.targets.shape).tolist(),
            batch.targets.tolist(),
            strict=True,
        )
        return [self._record(*row) for row in rows]

    def _record(self, losses: list[float], predicted: list[int], targets: list[int]) -> dict[str, Any]:
        count = sum(target != IGNORED_TOKEN for target in targets)  # what is ignored is the window's end
        record: dict[str, Any] = {"loss": sum(losses) / count, "tokens": count}
        if self._codec is None:
            return {**record, "predicted": predicted[:count], "target": targets[:count]}
        known = [index for index in predicted[:count] if index < self._codec.vocab_size]  # the model's may be padded
        return {**record, "predicted": self._codec.decode(known), "target": self._codec.decode(targets[:count])}


class LanguageModellingMetrics:
    """Summed loss (FP64) and exact counts (int64) over the tokens seen."""

    def __init__(self, vocab_size: int, bytes_per_token: float | None, device: torch.device) -> None:
        self._vocab_size, self._bytes_per_token, self._samples = vocab_size, bytes_per_token, 0
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._correct = torch.zeros((), dtype=torch.int64, device=device)
        self._tokens = torch.zeros((), dtype=torch.int64, device=device)

    def update(self, outputs: Tensor, batch: Batch) -> None:
        """Add one batch of logits (N, T, vocabulary)."""
        logits = token_logits(outputs, batch.targets, self._vocab_size)
        targets = batch.targets.flatten()
        losses = functional.cross_entropy(logits, targets, ignore_index=IGNORED_TOKEN, reduction="none")
        self._samples += len(batch.targets)
        self._loss += losses.double().sum()
        self._correct += (logits.argmax(1) == targets).sum()
        self._tokens += (targets != IGNORED_TOKEN).sum()

    def compute(self) -> dict[str, float]:
        """Return loss (nats a token), perplexity (exp of it), bits_per_byte, accuracy, tokens and samples.

        bits_per_byte = loss / ln 2 / (bytes of the text / its tokens), where the data know their bytes.
        """
        tokens = int(self._tokens)
        loss = self._loss / tokens
        result = {"loss": loss.item(), "perplexity": loss.exp().item()}
        if self._bytes_per_token is not None:
            result["bits_per_byte"] = loss.item() / math.log(2) / self._bytes_per_token
        return {**result, "accuracy": self._correct.item() / tokens, "tokens": tokens, "samples": self._samples}


def token_logits(outputs: Any, targets: Tensor, vocab_size: int) -> Tensor:
    """Return outputs (N, T, vocabulary or more) as (N * T, ...) in FP32 or FP64; raise ConfigError on another shape."""
    if isinstance(outputs, Tensor) and outputs.dim() == 3 and outputs.shape[:2] == targets.shape:
        outputs = outputs.flatten(0, 1)
    check_outputs(outputs, targets.numel(), vocab_size)
    return at_least_fp32(outputs)
