"""CTC and its error rates: values beside brute force and torchmetrics, exact counts, no host reads, refusals."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchmetrics.text import CharErrorRate, WordErrorRate

import mptrain.data
import mptrain.tasks
from mptrain.data.tokenizers import Symbols
from mptrain.errors import ConfigError
from mptrain.interfaces import Batch, DataSpec, Task
from mptrain.registry import TASKS
from mptrain.tasks.transcription import frames_needed, greedy
from tests.tasks.test_tasks import Fixed, HostReads
from tests.trainer.runs import config, merged, trainer
from tests.trainer.test_host_reads import CountHostReads, NoticeHostReads

assert mptrain.data  # registers the entries
assert mptrain.tasks

CPU = torch.device("cpu")
CODEC = Symbols("abc ", separator="")
A, B, C, SPACE = CODEC.encode("abc ")


def build(codec: Any = CODEC, num_outputs: int = CODEC.vocab_size) -> Task:
    spec = DataSpec((40, 8), num_outputs, kind="transcription", output_text=codec)
    return TASKS.build(TASKS.config_type("transcription").model_validate({"name": "transcription"}), spec)


def batch_of(*rows: str) -> Batch:
    ids = [torch.tensor(CODEC.encode(row), dtype=torch.int64) for row in rows]
    tokens = torch.nn.utils.rnn.pad_sequence(ids, batch_first=True)
    return Batch(
        (torch.zeros(len(rows), 40, 8), torch.full((len(rows),), 40)), (tokens, torch.tensor(list(map(len, ids))))
    )


def saying(*rows: list[int], frames: int = 12) -> tuple[Tensor, Tensor]:
    """Return logits whose most probable tokens are `rows`, one a frame, and their lengths."""
    padded = torch.tensor([row + [A] * (frames - len(row)) for row in rows])
    return functional.one_hot(padded, CODEC.vocab_size).float() * 9, torch.tensor([len(row) for row in rows])


def collapsed(path: tuple[int, ...]) -> list[int]:
    return [token for token, _ in itertools.groupby(path) if token != 0]


def nats(logits: Tensor, target: list[int]) -> float:
    """Return -log of the summed probability of every path that collapses to `target` (Graves et al. 2006, eq. 3)."""
    probabilities = logits.double().softmax(1)
    total = sum(
        math.prod(float(probabilities[frame, token]) for frame, token in enumerate(path))
        for path in itertools.product(range(logits.shape[1]), repeat=len(logits))
        if collapsed(path) == target
    )
    return -math.log(total)


def test_the_loss_is_the_probability_of_all_paths() -> None:
    logits = torch.randn(3, 4, CODEC.vocab_size, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([4, 3, 4])
    batch = batch_of("ab", "a", "aa")
    expected = [
        nats(logits[i, : lengths[i]], CODEC.encode(text)) / len(text) for i, text in enumerate(("ab", "a", "aa"))
    ]
    loss = build().loss(Fixed((logits, lengths)), _two_inputs(batch))
    assert float(loss) == pytest.approx(sum(expected) / 3, rel=1e-5)
    metrics = build().metrics(CPU)
    metrics.update((logits, lengths), batch)
    assert metrics.compute()["loss"] == pytest.approx(sum(expected) / 3, rel=1e-5)


def _two_inputs(batch: Batch) -> Batch:
    return batch._replace(inputs=batch.inputs[0])  # Fixed takes one


@pytest.mark.parametrize(("dtype", "expected"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_the_loss_is_computed_in_at_least_fp32(dtype: torch.dtype, expected: torch.dtype) -> None:
    logits, lengths = saying([A, 0, B])
    batch = _two_inputs(batch_of("ab"))
    loss = build().loss(Fixed((logits.to(dtype), lengths)), batch)
    assert loss.dtype is expected
    assert float(loss) == pytest.approx(
        float(build().loss(Fixed((logits.to(dtype).double(), lengths)), batch)), rel=1e-3
    )


def test_a_target_without_a_path_has_no_gradient_and_is_counted() -> None:
    logits, lengths = saying([A, A], [A, 0, A], [A, B, C])
    logits.requires_grad_()
    batch = batch_of("aa", "aa", "abc")
    build().loss(Fixed((logits, lengths)), _two_inputs(batch)).backward()
    assert logits.grad is not None
    assert [bool(row.any()) for row in logits.grad] == [False, True, True]
    metrics = build().metrics(CPU)
    metrics.update((logits.detach(), lengths), batch)
    found = metrics.compute()
    assert (found["unalignable"], found["samples"]) == (1, 3)
    kept = functional.ctc_loss(
        logits.detach().log_softmax(2).transpose(0, 1)[:, 1:], batch.targets[0][1:], lengths[1:], batch.targets[1][1:]
    )
    assert found["loss"] == pytest.approx(float(kept), rel=1e-6)


@pytest.mark.parametrize(("text", "frames"), [("", 0), ("a", 1), ("abc", 3), ("aab", 4), ("aaa", 5), ("abba", 5)])
def test_frames_needed(text: str, frames: int) -> None:
    tokens, lengths = batch_of(text, "aaaaaa").targets
    assert frames_needed(tokens, lengths).tolist() == [frames, 11]


def test_greedy_joins_repeats_drops_blanks_and_stops_at_the_length() -> None:
    decoded = greedy(*saying([A, A, 0, A, B, B, 0], [B, C, C], [0]))
    assert [[token for token in row if token] for row in decoded.tolist()] == [[A, A, B], [B, C], []]


PLANTED = [
    ("ab ca b", "ab ca b"),
    ("ab ca b", "ab cc"),
    ("a", "b a c"),
    ("abc", ""),
    ("ab ab ab", "ba ab"),
]


def test_error_rates_agree_with_torchmetrics() -> None:
    references, hypotheses = zip(*PLANTED, strict=True)
    # A blank between all tokens, so that repeats are kept.
    outputs = saying(*([token for pair in CODEC.encode(text) for token in (pair, 0)] for text in hypotheses), frames=20)
    metrics = build().metrics(CPU)
    batch = batch_of(*references)
    for rows in (slice(0, 2), slice(2, 5)):
        metrics.update(
            tuple(o[rows] for o in outputs),
            Batch(tuple(i[rows] for i in batch.inputs), tuple(t[rows] for t in batch.targets)),
        )
    found = metrics.compute()
    for name, reference in (("wer", WordErrorRate()), ("cer", CharErrorRate())):
        assert found[name] == pytest.approx(float(reference(list(hypotheses), list(references))), rel=1e-6)
    assert found["samples"] == 5
    assert build().predictions(outputs, batch) == [{"predicted": h, "target": r} for r, h in PLANTED]


def test_error_rates_of_empty_references_are_unknown() -> None:
    metrics = build().metrics(CPU)
    metrics.update(saying([A, B]), batch_of(""))
    found = metrics.compute()
    assert math.isnan(found["wer"])
    assert math.isnan(found["cer"])


def test_update_reads_nothing() -> None:
    metrics, outputs, batch = build().metrics(CPU), saying([A, 0, B]), batch_of("ab")
    with HostReads() as reads, NoticeHostReads() as notice:
        metrics.update(outputs, batch)
    assert (reads.counts["aten._local_scalar_dense.default"], notice.seen) == (0, set())


DIGITS = {
    "model": {"name": "conformer", "width": 16, "depth": 1, "heads": 2, "kernel": 5, "stem_width": 4},
    "data": {
        "name": "digit_strings",
        "num_train": 32,
        "num_test": 4,
        "max_digits": 3,
        "batch_size": 4,
        "masks": {"time_masks": 1, "frequency_masks": 1},
    },
    "task": {"name": "transcription"},
    "train": {"max_steps": 4, "clip_norm": 1.0},
}


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_a_step_reads_nothing(mode: str) -> None:
    made = trainer(merged(DIGITS, {"precision": {"mode": mode, "backend": "emulated"}}))
    counter, notice, step = CountHostReads(), NoticeHostReads(), made._step

    def watched(window: Any) -> int:
        with counter, notice:
            return step(window)

    made._step = watched
    made.fit()
    assert made.ledger.counts.applied == 4
    assert (counter.reads, notice.seen) == (0, set())


@pytest.mark.parametrize(
    "outputs",
    [torch.zeros(2, 5, CODEC.vocab_size), (torch.zeros(2, CODEC.vocab_size), torch.ones(2)), saying([A], [B], [C])],
)
def test_other_outputs_are_refused(outputs: Any) -> None:
    batch = _two_inputs(batch_of("a", "b"))
    with pytest.raises(ConfigError, match=r"logits .* and their lengths"):
        build().loss(Fixed(outputs), batch)


def test_what_does_not_suit_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"set model\.num_classes to null"):
        build(num_outputs=CODEC.vocab_size + 1)
    with pytest.raises(ConfigError, match="output_text"):
        build(codec=None).metrics(CPU)
    spec = DataSpec((4,), 3)
    settings = TASKS.config_type("transcription").model_validate({"name": "transcription"})
    with pytest.raises(ConfigError, match="set task=classification"):
        TASKS.build(settings, spec)


def test_a_run_refuses_other_networks() -> None:
    changes = merged(DIGITS, {})
    changes["model"] = {"name": "mlp"}
    with pytest.raises(ConfigError, match="does not take this data's samples"):
        trainer(changes)
    assert config(DIGITS).task.name == "transcription"
