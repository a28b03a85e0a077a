"""Learning to transcribe speech: the CTC loss; word and character error rates of the greedy transcript.

Owns: the loss, the greedy decoder, exact counts. Must not: know what the tokens stand for (the data's codec does), or
read the device before `compute` and `predictions`.

On a GPU `functional.ctc_loss` itself reads both lengths, so the host waits once in each micro-batch; its kernels want
them there. On a CPU nothing is read.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mptrain.errors import ConfigError
from mptrain.interfaces import PAD, Batch, Metrics, Task, TextCodec, at_least_fp32, forward
from mptrain.tasks.edit_distance import edit_distance

BLANK = PAD
"""The output that stands for nothing said; the codecs keep it for padding, which decodes to nothing."""


class Transcription(Task):
    """CTC on logits (N, frames, tokens) and their lengths (N,); targets are token ids (N, longest) and lengths (N,)."""

    main_metric = "wer"
    higher_is_better = False

    def __init__(self, num_tokens: int, codec: TextCodec | None) -> None:
        """Take the number of outputs, and the data's codec; without one the loss is known, but no text."""
        self._num_tokens, self._codec = num_tokens, codec

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the mean over samples of nats per token, 0-d, in FP32 or FP64; raise ConfigError on other outputs.

        A target that needs more frames than the model gives has no path, and an infinite loss: it counts as 0 and has
        no gradient, for one such recording would stop the run as diverged. Evaluation counts them (`unalignable`).
        """
        return self.sample_losses(forward(model, batch.inputs), batch).mean()

    def sample_losses(self, outputs: Any, batch: Batch) -> Tensor:
        """Return nats per token of each sample (N,), 0 where there is no path (Graves et al. 2006, equation 12)."""
        logits, lengths = self._checked(outputs, batch)
        tokens, token_lengths = batch.targets
        log_probs = at_least_fp32(logits).log_softmax(2).transpose(0, 1)
        losses = functional.ctc_loss(
            log_probs, tokens, lengths, token_lengths, blank=BLANK, reduction="none", zero_infinity=True
        )
        per_token: Tensor = losses / token_lengths.clamp(min=1)
        return per_token

    def metrics(self, device: torch.device) -> Metrics:
        """Return fresh counts on `device`; raise ConfigError where the data do not tell what tokens stand for."""
        return TranscriptionMetrics(self, self._known_codec(), device)

    def predictions(self, outputs: Any, batch: Batch) -> list[dict[str, Any]]:
        """Return each sample's transcript and its target, as text."""
        codec = self._known_codec()
        predicted, targets = texts(greedy(*self._checked(outputs, batch)), codec), texts(batch.targets[0], codec)
        return [{"predicted": p, "target": t} for p, t in zip(predicted, targets, strict=True)]

    def _known_codec(self) -> TextCodec:
        if self._codec is None:
            raise ConfigError("task: transcription needs data that tell what their tokens stand for (output_text)")
        return self._codec

    def _checked(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return logits and lengths; raise ConfigError for anything else. Reads no values."""
        if isinstance(outputs, tuple) and len(outputs) == 2:
            logits, lengths = outputs
            if logits.dim() == 3 and len(logits) == batch.size and logits.shape[2] == self._num_tokens:
                return logits, lengths
        raise ConfigError(
            f"model: transcription needs logits ({batch.size}, frames, {self._num_tokens}) and their lengths; "
            "choose a model that gives both (model=conformer), and check model.num_classes"
        )


class TranscriptionMetrics:
    """Summed loss (FP64) and token ids, kept on the device; error counts are Python integers."""

    def __init__(self, task: Transcription, codec: TextCodec, device: torch.device) -> None:
        self._task, self._codec, self._samples = task, codec, 0
        self._loss = torch.zeros((), dtype=torch.float64, device=device)
        self._unalignable = torch.zeros((), dtype=torch.int64, device=device)
        self._decoded: list[tuple[Tensor, Tensor]] = []

    def update(self, outputs: Any, batch: Batch) -> None:
        """Add one batch of logits (N, frames, tokens) and lengths (N,)."""
        self._samples += batch.size
        self._loss += self._task.sample_losses(outputs, batch).double().sum()
        logits, lengths = outputs
        self._unalignable += (frames_needed(*batch.targets) > lengths).sum()
        self._decoded.append((greedy(logits, lengths), batch.targets[0]))

    def compute(self) -> dict[str, float]:
        """Return loss, wer, cer, unalignable and samples.

        wer and cer are all edits by all words (between spaces) and characters of the references, which may exceed 1;
        NaN where the references are empty. loss is the mean over the samples that can be aligned.
        """
        edits, sizes = [0, 0], [0, 0]
        for decoded, tokens in self._decoded:
            for hypothesis, reference in zip(texts(decoded, self._codec), texts(tokens, self._codec), strict=True):
                for unit, (said, heard) in enumerate(
                    ((reference.split(), hypothesis.split()), (reference, hypothesis))
                ):
                    edits[unit] += edit_distance(said, heard)
                    sizes[unit] += len(said)
        wer, cer = (count / size if size else math.nan for count, size in zip(edits, sizes, strict=True))
        unalignable = int(self._unalignable.item())
        alignable = self._samples - unalignable
        loss = self._loss.item() / alignable if alignable else math.nan
        return {"loss": loss, "wer": wer, "cer": cer, "unalignable": unalignable, "samples": self._samples}


def greedy(logits: Tensor, lengths: Tensor) -> Tensor:
    """Return the most probable token of each frame (N, frames), int64; BLANK where it repeats or the sample ended."""
    best = logits.argmax(2)
    repeats = functional.pad(best[:, 1:] == best[:, :-1], (1, 0))
    ended = torch.arange(best.shape[1], device=best.device) >= lengths.unsqueeze(1)
    return best.masked_fill(repeats | ended, BLANK)


def frames_needed(tokens: Tensor, lengths: Tensor) -> Tensor:
    """Return the fewest frames (N,) that CTC aligns each target with: one a token, and a blank between equal ones."""
    inside = torch.arange(tokens.shape[1], device=tokens.device)[1:] < lengths.unsqueeze(1)
    return lengths + ((tokens[:, 1:] == tokens[:, :-1]) & inside).sum(1)


def texts(tokens: Tensor, codec: TextCodec) -> list[str]:
    """Return the text of each row of token ids; BLANK gives nothing."""
    return [codec.decode([token for token in row if token != BLANK]) for row in tokens.tolist()]
