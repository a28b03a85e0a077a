"""The edit distance against the table method, and the rates made of it against torchmetrics."""

import random

import pytest
from torchmetrics.text import CharErrorRate, WordErrorRate

from mptrain.tasks.edit_distance import edit_distance


def by_table(reference, hypothesis):
    row = list(range(len(hypothesis) + 1))
    for i, expected in enumerate(reference, 1):
        row, before = [i], row
        for j, found in enumerate(hypothesis, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (expected != found)))
    return row[-1]


@pytest.mark.parametrize(
    ("reference", "hypothesis", "distance"),
    [
        ("", "", 0),
        ("", "abc", 3),
        ("abc", "", 3),
        ("kitten", "sitting", 3),
        ("ab", "ba", 2),
        (["the", "cat", "sat"], ["the", "cat"], 1),
        ((1, 2, 3), [1, 2, 3], 0),
    ],
)
def test_known_distances(reference, hypothesis, distance):
    assert edit_distance(reference, hypothesis) == distance


def test_it_is_the_table_methods_distance():
    draw = random.Random(0)
    for _ in range(500):
        reference, hypothesis = (draw.choices("abcd", k=draw.randrange(90)) for _ in range(2))
        assert edit_distance(reference, hypothesis) == by_table(reference, hypothesis)


def test_word_and_character_error_rates_are_torchmetrics():
    references = ["the cat sat on the mat", "a b c", "one"]
    hypotheses = ["the cat sat the hat", "a x c d", ""]
    words = [(r.split(), h.split()) for r, h in zip(references, hypotheses, strict=True)]
    for pairs, metric in ((words, WordErrorRate()), (list(zip(references, hypotheses, strict=True)), CharErrorRate())):
        rate = sum(edit_distance(r, h) for r, h in pairs) / sum(len(r) for r, _ in pairs)
        assert rate == pytest.approx(float(metric(hypotheses, references)))
