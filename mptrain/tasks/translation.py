"""Learning to turn one sequence into another: label-smoothed cross-entropy; BLEU, chrF, error rate, exact matches.

Owns: the loss over the tokens that are no padding, decoding for evaluation, and exact counts. Must not: read the device
in the loss, or know a particular model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.interfaces import (
    EOS,
    IGNORED_TOKEN,
    PAD,
    Batch,
    EncoderDecoder,
    Metrics,
    Task,
    Tensors,
    TextCodec,
    at_least_fp32,
    forward,
)
from mptrain.tasks.decoding import beam_search
from mptrain.tasks.edit_distance import edit_distance
from mptrain.tasks.outputs import checked_shape

MainMetric = Literal["bleu", "chrf", "error_rate", "exact"]


class Translated(NamedTuple):
    """What one evaluated batch gave."""

    logits: Tensor
    """Scores (N, T, vocabulary) of each target token, given the true ones before it."""
    tokens: Tensor
    """What was decoded without the target: ids (N, at most T), <pad> after <eos>."""


class Translation(Task):
    """Cross-entropy on (N, T, vocabulary) logits of a model that takes (source (N, S), shifted target (N, T))."""

    def __init__(
        self,
        vocabulary: int,
        source_text: TextCodec | None,
        target_text: TextCodec | None,
        *,
        label_smoothing: float,
        beam_size: int,
        length_penalty: float,
        metric: MainMetric,
    ) -> None:
        self.main_metric: str = metric
        self.higher_is_better: bool = metric != "error_rate"
        self._vocabulary, self._source_text, self._target_text = vocabulary, source_text, target_text
        self._label_smoothing, self._beam_size, self._length_penalty = label_smoothing, beam_size, length_penalty

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean cross-entropy per token, 0-d, in FP32 or FP64.

        A micro-batch weighs by its samples, however long they are. Raises ConfigError on outputs of a wrong shape.
        """
        return self._cross_entropy(model, batch, "mean")

    def part_of_loss(self, model: nn.Module, part: Batch, whole: Batch) -> Tensor:
        """See Task: the whole's mean is per token that is no padding."""
        mean: Tensor = self._cross_entropy(model, part, "sum") / (whole.targets != IGNORED_TOKEN).sum()
        return mean

    def _cross_entropy(self, model: nn.Module, batch: Batch, reduction: str) -> Tensor:
        logits = self._checked(forward(model, batch.inputs), batch)
        return functional.cross_entropy(
            at_least_fp32(logits).flatten(0, 1),
            batch.targets.flatten(),
            ignore_index=IGNORED_TOKEN,
            reduction=reduction,
            label_smoothing=self._label_smoothing,
        )

    def outputs(self, model: nn.Module, batch: Batch) -> Translated:
        """Return the scores given the target, and what the model says without it, no longer than the batch's T."""
        logits = self._checked(forward(model, batch.inputs), batch)
        source = batch.inputs[0].repeat_interleave(self._beam_size, 0)
        tokens = beam_search(
            _next_scores(model, source),
            batch.size,
            logits.device,
            max_tokens=logits.shape[1],
            beam_size=self._beam_size,
            length_penalty=self._length_penalty,
        )
        return Translated(logits, tokens)

    def blank_targets(self, inputs: Tensors) -> Tensors:
        """Return a target token for each shifted one."""
        return torch.zeros_like(inputs[1])

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh counts on `device`."""
        return TranslationMetrics(self._target_text, device)

    def predictions(self, outputs: Translated, batch: Batch) -> list[dict[str, Any]]:
        """Return each sample's source, what was decoded, and the reference, as text."""
        sources = [_text(self._source_text, ids) for ids in batch.inputs[0].tolist()]
        rows = zip(sources, *_texts(self._target_text, outputs.tokens, batch.targets), strict=True)
        return [{"source": s, "hypothesis": h, "reference": r} for s, h, r in rows]

    def _checked(self, logits: Any, batch: Batch) -> Tensor:
        return checked_shape(logits, (*batch.targets.shape, self._vocabulary), "; choose a model for translation")


def _next_scores(model: nn.Module, source: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the function from ids so far (N, T) to the scores (N, vocabulary) of what follows them."""
    if isinstance(model, EncoderDecoder):
        encoded = model.encode(source)
        return lambda rows: model.next_scores(rows, encoded)
    return lambda rows: forward(model, (source, rows))[:, -1]


def _texts(codec: TextCodec | None, decoded: Tensor, targets: Tensor) -> tuple[list[str], list[str]]:
    """Return what was decoded and what is right as text; the device is read once for each."""
    targets = torch.where(targets == IGNORED_TOKEN, PAD, targets)
    hypotheses, references = ([_text(codec, ids) for ids in part.tolist()] for part in (decoded, targets))
    return hypotheses, references


def _text(codec: TextCodec | None, ids: list[int]) -> str:
    """Return the text of ids up to <eos>; where no codec tells it, the ids themselves."""
    ids = ids[: ids.index(EOS)] if EOS in ids else ids
    return " ".join(map(str, ids)) if codec is None else codec.decode(ids)


class TranslationMetrics:
    """Exact counts (int64) and summed loss (FP64) over tokens on the device; the texts on the host."""

    def __init__(self, codec: TextCodec | None, device: torch.device) -> None:
        self._codec = codec
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        # Tokens predicted right given the true ones before them, and all tokens.
        self._counts = torch.zeros(2, dtype=torch.int64, device=device)
        self._hypotheses: list[str] = []
        self._references: list[str] = []

    def update(self, outputs: Translated, batch: Batch) -> None:
        """Add one batch."""
        logits, targets = at_least_fp32(outputs.logits), batch.targets
        losses = functional.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED_TOKEN, reduction="none"
        )
        self._loss += losses.double().sum()
        self._counts += torch.stack([(logits.argmax(2) == targets).sum(), (targets != IGNORED_TOKEN).sum()])
        hypotheses, references = _texts(self._codec, outputs.tokens, targets)
        self._hypotheses += hypotheses
        self._references += references

    def compute(self) -> dict[str, float]:
        """Return loss and token_accuracy (given the true tokens before), and of the decoded texts:

        error_rate, the edits per symbol of the references, symbols being what stands between spaces (words, phonemes);
        exact, the share of texts that are the reference; bleu and chrf, sacrebleu's corpus scores of 0 to 100 with its
        defaults (nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp and nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no).
        """
        from sacrebleu.metrics.bleu import BLEU
        from sacrebleu.metrics.chrf import CHRF

        right, tokens = self._counts.tolist()
        pairs = list(zip(self._references, self._hypotheses, strict=True))
        symbols = [(reference.split(), hypothesis.split()) for reference, hypothesis in pairs]
        edits = sum(edit_distance(reference, hypothesis) for reference, hypothesis in symbols)
        return {
            "loss": self._loss.item() / tokens,
            "token_accuracy": right / tokens,
            "error_rate": edits / max(1, sum(len(reference) for reference, _ in symbols)),
            "exact": sum(reference == hypothesis for reference, hypothesis in pairs) / len(pairs),
            "bleu": BLEU().corpus_score(self._hypotheses, [self._references]).score,
            "chrf": CHRF().corpus_score(self._hypotheses, [self._references]).score,
            "samples": len(pairs),
        }
