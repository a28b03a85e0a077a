"""LibriSpeech, or a corpus laid out like it: recordings of unequal lengths and what is said in them.

Owns: pairing recordings with transcripts, and their letters or subwords. Must not: hold recordings, or hide a damaged
file.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from string import ascii_lowercase

import torch
from torch.utils.data import Dataset

from mptrain.data.speech.audio import is_audio, read_audio
from mptrain.data.speech.configs import LibriSpeechConfig
from mptrain.data.speech.log_mel import LogMel, SpeechTransform
from mptrain.data.speech.padding import Pair, padded_batch
from mptrain.data.tokenizers import SPECIAL, Symbols, train_bpe
from mptrain.errors import DataError
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, InputSpec, Streamed, TextCodec

ALPHABET = f" '{ascii_lowercase}"
Utterances = list[tuple[Path, str]]
"""Each recording and its transcript, in lower case."""


def librispeech(config: LibriSpeechConfig) -> DataSplits:
    """Return the subsets' recordings; raise DataError, naming the file, for one without its counterpart or misspelt."""
    root, bad_files = Path(config.root).expanduser(), BadFiles(config.on_error)
    train, test = (
        [pair for subset in subsets for pair in _utterances(root / subset, bad_files, any_text=bool(config.vocab_size))]
        for subsets in (config.train_subsets, config.test_subsets)
    )
    front = LogMel(config.features, config.sample_rate)
    codec: TextCodec = Symbols(ALPHABET, separator="")
    if config.vocab_size:
        codec = train_bpe((text for _, text in train), config.vocab_size)
    transform = SpeechTransform(front, config.masks)
    longest = round(config.longest_seconds * config.sample_rate)
    train_set, test_set = (Recordings(pairs, codec, config.sample_rate, longest) for pairs in (train, test))
    texts = "\n".join(f"{path.name} {text}" for path, text in [*train, *test])
    identity = {"name": config.name, "train": len(train), "test": len(test)}
    return DataSplits(
        _spec(config, front, codec),
        Streamed(train_set, padded_batch, transform, augments=True),
        Streamed(test_set, padded_batch, transform),
        {**identity, "transcripts": hashlib.sha256(texts.encode()).hexdigest()},
        bad_files,
    )


class Recordings(Dataset[Pair]):
    """dataset[i] -> FP32 waveform (samples,) and token ids (tokens,)."""

    def __init__(self, utterances: Utterances, codec: TextCodec, sample_rate: int, longest: int) -> None:
        self._utterances, self._codec = utterances, codec
        self._sample_rate, self._longest = sample_rate, longest

    def __len__(self) -> int:
        return len(self._utterances)

    def __getitem__(self, index: int) -> Pair:
        path, text = self._utterances[index]
        wave = read_audio(path, self._sample_rate, self._longest)
        return wave, torch.tensor(self._codec.encode(text), dtype=torch.int64)


def expected(config: LibriSpeechConfig) -> DataSpec:
    """Return what the recordings are like, without their files."""
    front = LogMel(config.features, config.sample_rate)
    return _spec(config, front, None if config.vocab_size else Symbols(ALPHABET, separator=""))


def _spec(config: LibriSpeechConfig, front: LogMel, codec: TextCodec | None) -> DataSpec:
    """Return what the recordings are like; without the transcripts a subword codec is unknown, its size is not."""
    frames = front.frames(round(config.longest_seconds * config.sample_rate))
    return DataSpec(
        (frames, config.features.mels),
        codec.vocab_size if codec else config.vocab_size or len(SPECIAL),
        kind="transcription",
        more_inputs=(InputSpec((), frames + 1),),
        output_text=codec,
    )


def _utterances(subset: Path, bad_files: BadFiles, *, any_text: bool) -> Utterances:
    """Return the subset's recordings that have a transcript, in order; report those that have none, and the reverse."""
    if not subset.is_dir():
        raise DataError(
            f"data.root: there is no folder {subset.absolute()}; name the folders of data.root in data.train_subsets "
            "and data.test_subsets"
        )
    recordings = {path.with_suffix(""): path for path in sorted(subset.glob("*/*/*")) if is_audio(path)}
    found: Utterances = []
    transcribed: set[Path] = set()
    for transcript in sorted(subset.glob("*/*/*.trans.txt")):
        for name, text in _lines(transcript, bad_files):
            stem = transcript.parent / name
            if stem in transcribed:
                bad_files.report(DataError(f"data.root: {transcript} names {name} a second time; remove one line"))
                continue
            transcribed.add(stem)
            odd = "" if any_text else "".join(sorted(set(text) - set(ALPHABET)))
            if stem not in recordings:
                bad_files.report(DataError(f"data.root: {transcript} names {name}, which has no recording beside it"))
            elif odd:
                bad_files.report(
                    DataError(
                        f"data.root: {transcript}: {name} has characters other than letters, spaces and apostrophes "
                        f"({odd!r}); respell it, or set data.vocab_size to learn subwords of any text"
                    )
                )
            else:
                found.append((recordings[stem], text))
    for stem in sorted(recordings.keys() - transcribed):
        bad_files.report(DataError(f"data.root: {recordings[stem]} has no line in a .trans.txt beside it"))
    return found


def _lines(transcript: Path, bad_files: BadFiles) -> list[tuple[str, str]]:
    """Return the file's names and lower-case texts; report a file that is no UTF-8."""
    try:
        lines = transcript.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        bad_files.report(DataError(f"data.root: {transcript} cannot be read as UTF-8 text ({error}); repair it"))
        return []
    split = (line.strip().partition(" ") for line in lines if line.strip())
    return [(name, text.strip().lower()) for name, _, text in split]
