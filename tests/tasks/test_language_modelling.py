"""Loss, exact sums and predictions of language modelling, against torch and torchmetrics on planted cases."""

import math

import pytest
import torch
from torch import nn
from torchmetrics.text import Perplexity

from mptrain.data.tokenizers import Bytes
from mptrain.errors import ConfigError
from mptrain.interfaces import IGNORED_TOKEN, Batch, DataSpec
from mptrain.registry import TASKS
from mptrain.tasks.entries import LanguageModellingConfig
from mptrain.tasks.language_modelling import LanguageModelling

VOCABULARY = 256
CPU = torch.device("cpu")


class Fixed(nn.Module):
    """Gives the same logits whatever it is asked."""

    def __init__(self, logits):
        super().__init__()
        self.logits = logits

    def forward(self, inputs):
        return self.logits


def task(bytes_per_token=1.0, codec=None):
    return LanguageModelling(VOCABULARY, codec, bytes_per_token)


def planted(rows=4, length=7, ignored=3):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(rows, length, VOCABULARY, generator=generator) * 3
    targets = torch.randint(VOCABULARY, (rows, length), generator=generator)
    targets[-1, length - ignored :] = IGNORED_TOKEN
    return logits, Batch(torch.zeros_like(targets), targets)


def test_perplexity_is_torchmetrics_over_batches_of_different_sizes():
    ours, theirs = task().metrics(CPU), Perplexity(ignore_index=IGNORED_TOKEN)
    for rows, ignored in ((4, 3), (2, 0), (1, 6)):
        logits, batch = planted(rows, ignored=ignored)
        ours.update(logits, batch)
        theirs.update(logits, batch.targets)
    found = ours.compute()
    assert found["perplexity"] == pytest.approx(theirs.compute().item(), rel=1e-5)
    assert (found["tokens"], found["samples"]) == (7 * 7 - 9, 7)


def test_sums_are_exact():
    logits, batch = planted()
    metrics = task(bytes_per_token=2.5).metrics(CPU)
    metrics.update(logits, batch)
    found = metrics.compute()
    kept = batch.targets != IGNORED_TOKEN
    log_probabilities = logits.double().log_softmax(-1)[kept]
    expected = -log_probabilities.gather(1, batch.targets[kept][:, None]).mean().item()
    assert found["loss"] == pytest.approx(expected, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(expected / math.log(2) / 2.5, rel=1e-6)
    correct = (logits.argmax(-1)[kept] == batch.targets[kept]).double().mean().item()
    assert found["accuracy"] == correct
    assert found["tokens"] == 4 * 7 - 3


def test_uniform_logits_cost_eight_bits_a_byte_and_certain_ones_nothing():
    metrics = task().metrics(CPU)
    targets = torch.arange(20).view(2, 10)
    metrics.update(torch.zeros(2, 10, VOCABULARY), Batch(targets, targets))
    assert metrics.compute()["bits_per_byte"] == pytest.approx(8)
    metrics = task().metrics(CPU)
    metrics.update(100 * nn.functional.one_hot(targets, VOCABULARY).float(), Batch(targets, targets))
    assert metrics.compute()["loss"] == 0
    assert metrics.compute()["accuracy"] == 1


def test_bits_per_byte_are_left_out_where_bytes_are_unknown():
    metrics = task(bytes_per_token=None).metrics(CPU)
    metrics.update(*planted())
    assert "bits_per_byte" not in metrics.compute()


def test_a_perplexity_beyond_all_numbers_is_infinite():
    metrics = task().metrics(CPU)
    targets = torch.zeros(1, 3, dtype=torch.int64)
    metrics.update(5000 * nn.functional.one_hot(targets + 1, VOCABULARY).float(), Batch(targets, targets))
    assert metrics.compute()["perplexity"] == math.inf


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_loss_is_computed_in_full_precision(dtype):
    logits, batch = planted()
    loss = task().loss(Fixed(logits.to(dtype)), batch)
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    expected = nn.functional.cross_entropy(
        logits.to(dtype).double().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED_TOKEN
    )
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


def test_a_padded_vocabulary_counts_in_the_loss():
    logits, batch = planted()
    wider = nn.functional.pad(logits, (0, 8), value=-30.0)
    assert task().loss(Fixed(wider), batch).item() == pytest.approx(task().loss(Fixed(logits), batch).item(), rel=1e-5)


@pytest.mark.parametrize("shape", [(4, 7, 255), (4, 6, 256), (4, 256), (28,)])
def test_outputs_of_another_shape_are_refused(shape):
    _, batch = planted()
    with pytest.raises(ConfigError, match="model: its output is"):
        task().loss(Fixed(torch.zeros(shape)), batch)


def test_predictions_tell_loss_and_text():
    targets = torch.tensor([list(b"mine"), list(b"our\0")])
    targets[1, 3] = IGNORED_TOKEN
    logits = 50.0 * nn.functional.one_hot(torch.tensor([list(b"line"), list(b"oursx"[:4])]), VOCABULARY)
    first, second = task(codec=Bytes(special=False)).predictions(logits, Batch(targets, targets))
    assert (first["target"], first["predicted"], first["tokens"]) == ("mine", "line", 4)
    assert first["loss"] == pytest.approx(50 / 4)
    assert (second["target"], second["predicted"], second["tokens"]) == ("our", "our", 3)
    assert second["loss"] == pytest.approx(0)


def test_predictions_of_tokens_without_text_are_ids():
    logits = 50.0 * nn.functional.one_hot(torch.tensor([[1, 2, 3]]), VOCABULARY)
    targets = torch.tensor([[1, 2, 5]])
    (record,) = task().predictions(logits, Batch(targets, targets))
    assert (record["predicted"], record["target"]) == ([1, 2, 3], [1, 2, 5])


def test_data_for_another_task_are_refused():
    with pytest.raises(ConfigError, match="set task=classification"):
        TASKS.build(LanguageModellingConfig(name="language_modelling"), DataSpec((3, 8, 8), 10))
