"""Translation: the loss, the search against all sequences there are, the scores against sacrebleu and torchmetrics."""

import itertools

import pytest
import torch
from sacrebleu import corpus_bleu, corpus_chrf
from torch import nn
from torchmetrics.text import WordErrorRate

from mptrain.catalog import REGISTRIES
from mptrain.data.tokenizers import Symbols
from mptrain.errors import ConfigError
from mptrain.interfaces import BOS, EOS, IGNORED_TOKEN, PAD, Batch, DataSpec, InputSpec
from mptrain.tasks.decoding import beam_search
from mptrain.tasks.entries import TranslationConfig
from tests.trainer.test_host_reads import NoticeHostReads

WORDS = ["the", "cat", "sat", "on", "mat", "a", "dog"]
CODEC = Symbols(WORDS)
VOCABULARY = CODEC.vocab_size
LENGTH = 9


def task(**options):
    spec = DataSpec(
        (LENGTH,),
        VOCABULARY,
        kind="translation",
        vocab_size=VOCABULARY,
        more_inputs=(InputSpec((LENGTH,), VOCABULARY),),
        input_text=CODEC,
        output_text=CODEC,
    )
    return REGISTRIES["task"].build(TranslationConfig(name="translation", **options), spec)


def batch(sources, references):
    def rows(texts, before, after, fill):
        ids = [[*before, *CODEC.encode(text), *after] for text in texts]
        return torch.tensor([row + [fill] * (LENGTH - len(row)) for row in ids])

    inputs = rows(sources, [], [EOS], PAD), rows(references, [BOS], [], PAD)
    return Batch(inputs, rows(references, [], [EOS], IGNORED_TOKEN))


class Dictionary(nn.Module):
    """Says a planted text for each source: the answer by its first token."""

    def __init__(self, answers):
        super().__init__()
        self.answers = {CODEC.encode(source)[0]: [*CODEC.encode(answer), EOS] for source, answer in answers.items()}

    def forward(self, source, target):
        scores = torch.zeros(*target.shape, VOCABULARY)
        for row, first in enumerate(source[:, 0].tolist()):
            for place in range(target.shape[1]):
                answer = self.answers[first]
                scores[row, place, answer[place] if place < len(answer) else 7] = 20.0
        return scores


SOURCES = ["the", "cat", "sat", "dog"]
REFERENCES = ["the cat sat on the mat", "a dog sat", "on the mat", "a"]
HYPOTHESES = ["the cat sat the dog", "a dog sat", "", "a a a"]


def evaluated(made, model, batches):
    metrics, predictions = made.metrics(torch.device("cpu")), []
    with torch.no_grad():
        for each in batches:
            outputs = made.outputs(model, each)
            metrics.update(outputs, each)
            predictions += made.predictions(outputs, each)
    return metrics.compute(), predictions


def test_the_scores_are_sacrebleus_and_torchmetrics():
    model = Dictionary(dict(zip(SOURCES, HYPOTHESES, strict=True)))
    found, predictions = evaluated(task(), model, [batch(SOURCES, REFERENCES)])
    assert found["bleu"] == pytest.approx(corpus_bleu(HYPOTHESES, [REFERENCES]).score)
    assert found["chrf"] == pytest.approx(corpus_chrf(HYPOTHESES, [REFERENCES]).score)
    assert 5 < found["bleu"] < 60
    assert found["error_rate"] == pytest.approx(float(WordErrorRate()(HYPOTHESES, REFERENCES)))
    assert found["exact"] == 0.25
    assert found["samples"] == 4
    assert predictions == [
        {"source": s, "hypothesis": h, "reference": r} for s, h, r in zip(SOURCES, HYPOTHESES, REFERENCES, strict=True)
    ]


def test_what_is_right_scores_best_and_batches_do_not_matter():
    model = Dictionary(dict(zip(SOURCES, REFERENCES, strict=True)))
    whole, _ = evaluated(task(), model, [batch(SOURCES, REFERENCES)])
    parts, _ = evaluated(task(), model, [batch(SOURCES[:1], REFERENCES[:1]), batch(SOURCES[1:], REFERENCES[1:])])
    assert whole == pytest.approx(parts)
    expected = {"error_rate": 0.0, "exact": 1.0, "token_accuracy": 1.0, "bleu": 100.0, "chrf": 100.0}
    assert {key: whole[key] for key in expected} == pytest.approx(expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_loss_is_over_the_tokens_that_are_no_padding(dtype):
    torch.manual_seed(0)
    logits = torch.randn(4, LENGTH, VOCABULARY).to(dtype)
    given = batch(SOURCES, REFERENCES)
    smoothed = task(label_smoothing=0.2).loss(lambda source, target: logits, given)
    real = given.targets != IGNORED_TOKEN
    exact = logits.double()[real].log_softmax(1)
    expected = -0.8 * exact.gather(1, given.targets[real].unsqueeze(1)).mean() - 0.2 * exact.mean()
    assert smoothed.dtype is (torch.float64 if dtype is torch.float64 else torch.float32)
    assert smoothed.item() == pytest.approx(expected.item(), rel=1e-5)
    reported, _ = evaluated(task(label_smoothing=0.2), lambda s, t: logits[: len(t), : t.shape[1]], [given])
    plain = -exact.gather(1, given.targets[real].unsqueeze(1)).mean()
    assert reported["loss"] == pytest.approx(plain.item(), rel=1e-5)  # without smoothing


def test_the_loss_reads_nothing():
    logits = torch.randn(4, LENGTH, VOCABULARY)
    given = batch(SOURCES, REFERENCES)
    with NoticeHostReads() as notice:
        task().loss(lambda source, target: logits, given)
    assert not notice.seen


def test_the_main_metric():
    assert (task().main_metric, task().higher_is_better) == ("bleu", True)
    assert (task(metric="error_rate").main_metric, task(metric="error_rate").higher_is_better) == ("error_rate", False)


@pytest.mark.parametrize("outputs", [torch.zeros(4, VOCABULARY), torch.zeros(4, LENGTH, VOCABULARY - 1), (1,)])
def test_outputs_of_another_shape(outputs):
    with pytest.raises(ConfigError, match=rf"the task needs \(4, {LENGTH}, {VOCABULARY}\)"):
        task().loss(lambda source, target: outputs, batch(SOURCES, REFERENCES))


def test_without_a_codec_ids_stand_for_text():
    spec = DataSpec((LENGTH,), VOCABULARY, kind="translation", vocab_size=VOCABULARY)
    made = REGISTRIES["task"].build(TranslationConfig(name="translation"), spec)
    model = Dictionary({"the": "cat mat", "dog": "a"})
    _, predictions = evaluated(made, model, [batch(["the"], ["cat mat"])])
    assert predictions[0]["hypothesis"] == predictions[0]["reference"] == "5 8"


# Scores of what follows each token, alone: a chain of which every sequence's probability is known.
CHAIN = torch.randn(8, 8, generator=torch.Generator().manual_seed(3)).mul(1.5)


def chain(rows):
    return CHAIN[rows[:, -1]]


def best_of_all(max_tokens, length_penalty):
    """Return the best of all sequences that end, and those that are cut, by trying each."""
    logs, best = CHAIN.log_softmax(1), (-torch.inf, ())
    for length in range(1, max_tokens + 1):
        for ids in itertools.product(range(8), repeat=length):
            if EOS in ids[:-1] or (length < max_tokens and ids[-1] != EOS):
                continue
            score = sum(logs[a, b] for a, b in itertools.pairwise((BOS, *ids))) / ((5 + length) / 6) ** length_penalty
            best = max(best, (score.item(), ids))
    return best[1]


@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 2.0])
def test_a_wide_beam_finds_the_best_sequence(length_penalty):
    found = beam_search(
        chain, 2, torch.device("cpu"), max_tokens=4, beam_size=512, length_penalty=length_penalty
    ).tolist()
    assert found[0] == found[1]
    assert [i for i in found[0] if i != PAD or EOS not in found[0]] == list(best_of_all(4, length_penalty))


def test_one_beam_is_greedy_and_a_sequence_stays_ended():
    scores = torch.full((8, 8), -5.0)
    for before, after in ((BOS, 5), (5, 6), (6, EOS), (7, 4), (4, 4)):
        scores[before, after] = 5.0
    rows = beam_search(
        lambda rows: scores[rows[:, -1]], 3, torch.device("cpu"), max_tokens=9, beam_size=1, length_penalty=0.6
    )
    assert rows.tolist() == [[5, 6, EOS]] * 3  # and stops there

    def by_row(rows):  # the second sample ends at once, the third never
        chosen = scores[rows[:, -1]].clone()
        if rows.shape[1] == 1:
            chosen[1], chosen[2] = scores[6], scores[7]
        return chosen

    rows = beam_search(by_row, 3, torch.device("cpu"), max_tokens=5, beam_size=1, length_penalty=0.6)
    assert rows.tolist() == [[5, 6, EOS, PAD, PAD], [EOS, PAD, PAD, PAD, PAD], [4, 4, 4, 4, 4]]


def test_two_beams_find_what_greed_misses():
    scores = torch.full((8, 8), -50.0)
    # The best first step leads to two equal ways on, the second best to a sure one.
    scores[BOS, 4], scores[BOS, 5] = 0.0, -0.3
    scores[4, 6], scores[4, 7] = 0.0, 0.0
    scores[5, EOS] = scores[6, EOS] = scores[7, EOS] = 0.0
    options = {"max_tokens": 5, "length_penalty": 0.0}
    greedy, wide = (
        beam_search(lambda rows: scores[rows[:, -1]], 1, torch.device("cpu"), beam_size=size, **options)[0].tolist()
        for size in (1, 2)
    )
    assert greedy[0] == 4
    assert wide[:2] == [5, EOS]


def test_beams_through_the_task():
    model = Dictionary(dict(zip(SOURCES, HYPOTHESES, strict=True)))
    greedy, one = evaluated(task(), model, [batch(SOURCES, REFERENCES)])
    wide, four = evaluated(task(beam_size=4), model, [batch(SOURCES, REFERENCES)])
    assert one == four
    assert greedy == wide
