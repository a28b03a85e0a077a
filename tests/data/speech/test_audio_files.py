"""Audio files of the user: read, cut, paired with transcripts; what is damaged or does not fit is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

import mptrain.data
from mptrain.data.expected import expected_spec
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.data.speech.audio import read_audio
from mptrain.data.speech.wav_folder import fitted
from mptrain.errors import DataError
from mptrain.interfaces import DataSplits
from mptrain.registry import DATASETS

assert mptrain.data  # registers the entries

CPU = torch.device("cpu")
TEXTS = {"train-clean-100": ("ONE TWO", "IT'S THREE"), "dev-clean": ("FOUR",)}


def tone(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    wave = 0.5 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    soundfile.write(path, np.stack([wave, *[0 * wave] * (channels - 1)], axis=1), rate)
    return path


def config(name: str, root: Path, **options: Any) -> Any:
    return DATASETS.config_type(name).model_validate({"name": name, "root": str(root), "batch_size": 2, **options})


def build(name: str, root: Path, **options: Any) -> DataSplits:
    return DATASETS.build(config(name, root, **options), 0)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("no", "yes"):
            for index, seconds in enumerate((0.5, 1.0, 1.5)):
                tone(tmp_path / split / name / f"{index}.wav", seconds)
    return tmp_path


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for subset, texts in TEXTS.items():
        chapter = tmp_path / subset / "19" / "198"
        for index, _ in enumerate(texts):
            tone(chapter / f"19-198-{index}.flac", 1 + index)
        lines = "".join(f"19-198-{index} {text}\n" for index, text in enumerate(texts))
        (chapter / "19-198.trans.txt").write_text(lines, encoding="utf-8")
    return tmp_path


SUBSETS = {"train_subsets": ["train-clean-100"], "test_subsets": ["dev-clean"], "longest_seconds": 4.0}


@pytest.mark.parametrize("suffix", ["wav", "flac", "ogg"])
def test_formats_and_channels_are_read(tmp_path: Path, suffix: str) -> None:
    wave = read_audio(tone(tmp_path / f"a.{suffix}", 0.5, channels=2), 16000)
    assert (wave.shape, wave.dtype) == ((8000,), torch.float32)
    assert float(wave.abs().max()) == pytest.approx(0.25, abs=0.02)  # the mean of a tone and silence


def damaged(kind: str, path: Path) -> Path:
    tone(path)
    content = path.read_bytes()
    if kind == "another rate":
        return tone(path, rate=8000)
    if kind == "not finite":
        soundfile.write(path, np.full(100, np.nan, dtype=np.float32), 16000, subtype="FLOAT")
        return path
    if kind == "no samples":
        return tone(path, seconds=0)
    if kind == "cut late":
        content = tone(path, seconds=20).read_bytes()
    path.write_bytes(
        {
            "cut late": content[: len(content) * 9 // 10],
            "cut": content[: len(content) // 2],
            "junk": b"RIFF" + bytes(100),
            "empty": b"",
        }[kind]
    )
    return path


@pytest.mark.parametrize(
    ("name", "kind", "reason"),
    [
        ("a.wav", "another rate", "8000 samples a second, data.sample_rate is 16000"),
        ("a.wav", "cut", "cut short"),
        ("a.flac", "cut", "cannot be decoded"),
        ("a.ogg", "cut", "cannot be decoded"),
        ("a.ogg", "cut late", "cut short"),
        ("a.wav", "junk", "cannot be decoded"),
        ("a.wav", "empty", "cannot be decoded"),
        ("a.wav", "no samples", "empty"),
        ("a.wav", "not finite", "NaN or infinite"),
    ],
)
def test_a_bad_file_is_named(tmp_path: Path, name: str, kind: str, reason: str) -> None:
    path = damaged(kind, tmp_path / name)
    with pytest.raises(DataError, match=reason) as caught:
        read_audio(path, 16000)
    assert str(path) in str(caught.value)


def test_a_file_that_is_too_long_is_not_read(tmp_path: Path) -> None:
    assert len(read_audio(tone(tmp_path / "a.wav", 1.0), 16000, longest=16000)) == 16000
    with pytest.raises(DataError, match=r"lasts 1\.0 s, more than 0\.5 s"):
        read_audio(tmp_path / "a.wav", 16000, longest=8000)


def test_recordings_are_cut_or_padded_in_the_middle_or_at_random() -> None:
    wave = torch.arange(1.0, 11.0)
    assert fitted(wave, 4, random=False).tolist() == [4, 5, 6, 7]
    assert fitted(wave[:3], 6, random=False).tolist() == [0, 1, 2, 3, 0, 0]
    assert fitted(wave, 10, random=True).tolist() == wave.tolist()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        cuts = {tuple(fitted(wave, 8, random=True).tolist()) for _ in range(50)}
        pads = {tuple(fitted(wave[:2], 4, random=True).tolist()) for _ in range(50)}
    assert sorted(cut[0] for cut in cuts) == [1, 2, 3]
    assert pads == {(1, 2, 0, 0), (0, 1, 2, 0), (0, 0, 1, 2)}


def test_a_wav_folder_is_pictures_of_one_length(folders: Path) -> None:
    splits = build("wav_folder", folders)
    assert (splits.spec.input_shape, splits.spec.class_names) == ((1, 97, 80), ("no", "yes"))
    checksums = splits.identity["names_sha256"]
    assert splits.identity == {"name": "wav_folder", "train": 6, "test": 6, "classes": 2, "names_sha256": checksums}
    settings = config("wav_folder", folders)
    batches = list(make_eval_loader(splits.test, settings, device=CPU))
    assert [batch.inputs.shape for batch in batches] == [(2, 1, 97, 80)] * 3
    assert [label for batch in batches for label in batch.targets.tolist()] == [0, 0, 0, 1, 1, 1]
    train = make_train_loader(splits.train, settings, seed=0, device=CPU)
    first, again = ([batch.inputs for batch in train.epoch(0)] for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    next((folders / "train" / "no").iterdir()).rename(folders / "train" / "no" / "another name.wav")
    renamed = build("wav_folder", folders).identity["names_sha256"]
    assert (renamed[0] != checksums[0], renamed[1] == checksums[1]) == (True, True)


def test_a_hidden_folder_is_no_class(folders: Path) -> None:
    (folders / "train" / ".cache").mkdir()
    assert build("wav_folder", folders).spec.class_names == ("no", "yes")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda root: [path.unlink() for path in (root / "train" / "no").iterdir()], "train/no holds no audio file"),
        (lambda root: (root / "test" / "maybe").mkdir(), r"different classes \(maybe\)"),
        (lambda root: (root / "test").rename(root / "dev"), "there is no folder .*/test;"),
    ],
)
def test_folders_that_do_not_fit_are_named(folders: Path, change: Any, reason: str) -> None:
    change(folders)
    with pytest.raises(DataError, match=reason):
        build("wav_folder", folders)


def test_an_empty_class_can_be_left_out(folders: Path) -> None:
    for path in (folders / "train" / "no").iterdir():
        path.unlink()
    splits = build("wav_folder", folders, on_error="skip")
    assert [path.split(" holds")[0].endswith("train/no") for path in splits.bad_files.reasons] == [True]
    assert (splits.spec.class_names, splits.spec.num_outputs) == (("yes",), 1)
    assert [len(splits.train), len(splits.test)] == [3, 3]
    assert splits.test.dataset[0][1] == 0  # type: ignore[union-attr]


def test_a_corpus_is_recordings_and_letters(corpus: Path) -> None:
    splits = build("librispeech", corpus, **SUBSETS)
    assert (splits.spec.input_shape, splits.spec.kind, splits.spec.num_outputs) == ((397, 80), "transcription", 32)
    batch = next(
        iter(make_train_loader(splits.train, config("librispeech", corpus, **SUBSETS), seed=0, device=CPU).epoch(0))
    )
    features, lengths = batch.inputs
    assert (features.shape, sorted(lengths.tolist())) == ((2, 197, 80), [97, 197])
    codec = splits.spec.output_text
    assert sorted(codec.decode(row.tolist()) for row in batch.targets[0]) == ["it's three", "one two"]


def test_a_corpus_can_be_spelled_in_subwords(corpus: Path) -> None:
    splits = build("librispeech", corpus, **SUBSETS, vocab_size=265)
    assert splits.spec.num_outputs == splits.spec.output_text.vocab_size == 265
    _, tokens = splits.train.dataset[1]  # type: ignore[union-attr]
    assert splits.spec.output_text.decode(tokens.tolist()) == "it's three"
    assert len(tokens) < len("it's three")


@pytest.mark.parametrize("vocab_size", [None, 265])
def test_a_corpus_is_known_before_it_is_there(corpus: Path, vocab_size: int | None) -> None:
    expected = expected_spec(config("librispeech", corpus / "nowhere", **SUBSETS, vocab_size=vocab_size))
    found = build("librispeech", corpus, **SUBSETS, vocab_size=vocab_size).spec
    assert expected is not None
    assert (expected.inputs, expected.num_outputs, expected.kind) == (found.inputs, found.num_outputs, found.kind)


def spoil(corpus: Path, kind: str) -> None:
    chapter = corpus / "train-clean-100" / "19" / "198"
    transcript = chapter / "19-198.trans.txt"
    if kind == "no recording":
        (chapter / "19-198-1.flac").unlink()
    elif kind == "no transcript":
        transcript.write_text("19-198-0 ONE TWO\n", encoding="utf-8")
    elif kind == "twice":
        transcript.write_text("19-198-0 ONE TWO\n19-198-0 SIX\n19-198-1 IT'S THREE\n", encoding="utf-8")
    elif kind == "odd letters":
        transcript.write_text("19-198-0 ONE TWO\n19-198-1 CAFÉ 3\n", encoding="utf-8")
    else:
        transcript.write_bytes(b"19-198-0 ONE \xff\n")


@pytest.mark.parametrize(
    ("kind", "reason", "left"),
    [
        ("no recording", r"19-198\.trans\.txt names 19-198-1, which has no recording", 1),
        ("no transcript", r"19-198-1\.flac has no line", 1),
        ("twice", r"19-198\.trans\.txt names 19-198-0 a second time", 2),
        ("odd letters", r"19-198\.trans\.txt: 19-198-1 has characters .*'3é'", 1),
        ("no UTF-8", r"19-198\.trans\.txt cannot be read as UTF-8", 0),
    ],
)
def test_a_corpus_that_does_not_fit_is_named_or_left_out(corpus: Path, kind: str, reason: str, left: int) -> None:
    spoil(corpus, kind)
    with pytest.raises(DataError, match=reason):
        build("librispeech", corpus, **SUBSETS)
    splits = build("librispeech", corpus, **SUBSETS, on_error="skip")
    assert len(splits.train) == left
    assert splits.bad_files.reasons


def test_subwords_take_any_letters(corpus: Path) -> None:
    spoil(corpus, "odd letters")
    splits = build("librispeech", corpus, **SUBSETS, vocab_size=265)
    _, tokens = splits.train.dataset[1]  # type: ignore[union-attr]
    assert splits.spec.output_text.decode(tokens.tolist()) == "café 3"


def test_a_missing_subset_is_named(corpus: Path) -> None:
    with pytest.raises(DataError, match=r"there is no folder .*/dev-other; name the folders"):
        build("librispeech", corpus, **{**SUBSETS, "test_subsets": ["dev-other"]}, on_error="skip")
