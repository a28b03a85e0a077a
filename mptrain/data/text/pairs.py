"""The bundled pairs of texts: English words and their phonemes, English and Spanish verses.

Owns: their alphabets and splits. Must not: read the user's files (see `parallel`).
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch

from mptrain.data.bundled_files import SHA256, read_bundled
from mptrain.data.text.configs import BibleConfig, CmudictConfig
from mptrain.data.text.tokens import translated, translation_spec
from mptrain.data.tokenizers import Symbols, train_bpe
from mptrain.errors import ConfigError
from mptrain.interfaces import DataSplits, InMemory, TextCodec, as_it_is

CMUDICT, BIBLE = "cmudict_g2p.tsv.xz", "bible_en_es.tsv.xz"
TEST_BOOKS = ("Ruth", "Ecclesiastes", "Lamentations", "Jonah", "Romans", "James")
"""Whole books, of those that have no parallel in another one: Kings, Chronicles and the Gospels tell the same twice."""
SPLIT_SEED = 0
"""Seed of the choice of test words; the run's own seed does not change the data."""


def cmudict(config: CmudictConfig) -> DataSplits:
    """Return spellings and phonemes, split by word; raise ConfigError where more words are asked for than there are."""
    pairs = _columns(CMUDICT)
    asked = config.num_test + (config.num_train or 1)
    if asked > len(pairs):
        raise ConfigError(
            f"data: num_train and num_test ask for {asked} words, CMUdict has {len(pairs)}; ask for fewer"
        )
    shuffled = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    end = None if config.num_train is None else config.num_test + config.num_train
    train, test = ([pairs[i] for i in shuffled[part]] for part in (slice(config.num_test, end), slice(config.num_test)))
    letters = Symbols(sorted(set("".join(word for word, _ in pairs))), separator="")
    phones = Symbols(sorted({phone for _, phones in pairs for phone in phones.split()}))
    longest = (max(len(word) for word, _ in pairs) + 1, max(len(phones.split()) for _, phones in pairs) + 1)
    return _splits(config.name, CMUDICT, (letters, phones), (train, test), longest)


def bible_en_es(config: BibleConfig) -> DataSplits:
    """Return English and Spanish verses, split by book, in tokens learned from the training verses of both."""
    verses = [(reference.rsplit(" ", 1)[0], english, spanish) for reference, english, spanish in _columns(BIBLE)]
    train, test = ([pair for book, *pair in verses if (book in TEST_BOOKS) is held] for held in (False, True))
    codec = train_bpe(itertools.chain.from_iterable(train), config.vocab_size)
    return _splits(config.name, BIBLE, (codec, codec), (train, test), (config.max_tokens, config.max_tokens))


def _columns(file: str) -> list[tuple[str, ...]]:
    """Return the rows of a bundled table."""
    return [tuple(line.split("\t")) for line in read_bundled(file).decode().splitlines()]


def _splits(
    name: str,
    file: str,
    codecs: tuple[TextCodec, TextCodec],
    pairs: tuple[Sequence[Sequence[str]], Sequence[Sequence[str]]],
    lengths: tuple[int, int],
) -> DataSplits:
    """Return splits held in memory of the (training, test) pairs of texts."""
    source, target = codecs
    train, test = (
        InMemory(
            *translated([source.encode(text) for text, _ in part], [target.encode(text) for _, text in part], lengths),
            as_it_is,
            augments=False,
        )
        for part in pairs
    )
    identity = {"name": name, "train": len(train), "test": len(test), "sha256": SHA256[file]}
    return DataSplits(translation_spec(source, target, lengths), train, test, identity)
