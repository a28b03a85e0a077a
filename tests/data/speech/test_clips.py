"""The bundled clips: who speaks in which split, and the strings that are joined of them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError

import mptrain.data
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.data.speech.clips import read_digits
from mptrain.interfaces import DataSplits, InMemory, Streamed
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

CPU = torch.device("cpu")


def config(name: str, **options: Any) -> Any:
    return DATASETS.config_type(name).model_validate({"name": name, "batch_size": 4, **options})


def build(name: str, **options: Any) -> DataSplits:
    return DATASETS.build(config(name, **options), 0)


@pytest.mark.parametrize(
    ("name", "classes", "sizes"), [("spoken_digits", 10, (2960, 720)), ("voice_prompts", 6, (1500, 450))]
)
def test_clips_are_pictures_with_every_class_equally_often(name: str, classes: int, sizes: tuple[int, int]) -> None:
    splits = build(name)
    assert (splits.spec.input_shape, splits.spec.num_outputs) == ((1, 62, 40), classes)
    assert len(splits.spec.class_names) == classes
    for split, size in zip((splits.train, splits.test), sizes, strict=True):
        assert isinstance(split, InMemory)
        assert torch.bincount(split.targets).tolist() == [size // classes] * classes
    batch = next(iter(make_eval_loader(splits.test, config(name), device=CPU)))
    assert (batch.inputs.shape, batch.inputs.dtype) == ((4, 1, 62, 40), torch.float32)
    torch.testing.assert_close(batch.inputs.mean(2), torch.zeros(4, 1, 40), atol=1e-5, rtol=0)


def test_test_voices_of_the_digits_are_never_heard_in_training() -> None:
    train, test = read_digits()
    assert (len(train.voices.unique()), len(test.voices.unique())) == (37, 9)
    assert not set(train.voices.tolist()) & set(test.voices.tolist())


def test_masks_make_training_batches_differ_and_leave_evaluation_alone() -> None:
    masked = {"masks": {"time_masks": 2, "time_width": 12}}
    plain, augmented = build("spoken_digits"), build("spoken_digits", **masked)
    assert (plain.train.augments, augmented.train.augments) == (False, True)
    loader = make_train_loader(augmented.train, config("spoken_digits", **masked), seed=0, device=CPU)
    first, again = (next(iter(loader.epoch(0))).inputs for _ in range(2))
    assert torch.equal(first, again)
    assert (first == 0).any(1).all(2).any()  # a frame without sound
    tests = [next(iter(make_eval_loader(s.test, config("spoken_digits"), device=CPU))) for s in (plain, augmented)]
    assert torch.equal(tests[0].inputs, tests[1].inputs)


def strings(splits: DataSplits, split: str) -> Any:
    part = getattr(splits, split)
    assert isinstance(part, Streamed)
    return part.dataset


def test_a_digit_string_is_clips_of_one_voice_in_the_order_of_its_text() -> None:
    splits = build("digit_strings", num_train=3, num_test=40)
    _, clips = read_digits()
    by_start = {}
    for index, clip in enumerate(clips.features):
        by_start.setdefault(clip[:50].numpy().tobytes(), []).append(index)
    codec = splits.spec.output_text
    lengths = set()
    for features, tokens in (strings(splits, "test")[index] for index in range(40)):
        words = codec.decode(tokens.tolist()).split()
        lengths.add(len(words))
        place, voices = 0, set()
        for word in words:
            ends = [
                end
                for end in range(place + 50, place + 63)
                if end == len(features) or _begins(features[end:], by_start)
            ]
            (clip,) = by_start[features[place : place + 50].numpy().tobytes()]
            assert splits_class(int(clips.labels[clip])) == word
            voices.add(int(clips.voices[clip]))
            place = ends[0]
        assert (place, len(voices)) == (len(features), 1)
    assert lengths == {3, 4, 5, 6}


def _begins(features: torch.Tensor, by_start: dict[bytes, list[int]]) -> bool:
    return len(features) >= 50 and features[:50].numpy().tobytes() in by_start


def splits_class(label: int) -> str:
    return ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")[label]


def test_training_strings_are_drawn_anew_each_epoch_and_test_strings_never() -> None:
    options = {"num_train": 8, "num_test": 8}
    splits, settings = build("digit_strings", **options), config("digit_strings", **options)
    loader = make_train_loader(splits.train, settings, seed=0, device=CPU)
    ids = [tuple(map(tuple, batch.targets[0].tolist())) for epoch in (0, 0, 1) for batch in loader.epoch(epoch)]
    assert ids[:2] == ids[2:4]
    assert not set(ids[:2]) & set(ids[4:])
    test = strings(splits, "test")
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        assert all(
            torch.equal(a, b)
            for a, b in zip(test[3], strings(build("digit_strings", **options), "test")[3], strict=True)
        )
        assert torch.equal(before, torch.get_rng_state())


def test_a_batch_of_strings_is_padded_to_its_longest() -> None:
    splits = build("digit_strings", num_test=8)
    features, lengths = (batch := next(iter(make_eval_loader(splits.test, config("digit_strings"), device=CPU)))).inputs
    tokens, token_lengths = batch.targets
    assert (features.shape, features.dtype) == ((4, int(lengths.max()), 40), torch.float32)
    assert (tokens.shape, tokens.dtype) == ((4, int(token_lengths.max())), torch.int64)
    assert [int((row != 0).sum()) for row in tokens] == token_lengths.tolist()
    for row, length in zip(features, lengths.tolist(), strict=True):
        assert not row[length:].any()
        assert row[length - 1].any()
    longest, lengths_spec = splits.spec.inputs
    assert (longest.shape, lengths_spec.vocab_size) == ((372, 40), 373)
    assert splits.spec.num_outputs == splits.spec.output_text.vocab_size


def test_lengths_the_wrong_way_round_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_digits"):
        config("digit_strings", min_digits=5, max_digits=4)
