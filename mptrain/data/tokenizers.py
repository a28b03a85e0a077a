"""Text to token ids and back: bytes, symbols between spaces, and byte-level BPE through the `tokenizers` library.

Owns: the codecs (`mptrain.interfaces.TextCodec`) and their special ids. Must not: read data files, or know a task.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mptrain.errors import ConfigError, DataError, first_line
from mptrain.interfaces import UNK

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
"""Spellings of the ids PAD, BOS, EOS, UNK, of every codec here but `Bytes(special=False)`, which has none."""
PADDING_NAMES = ("[PAD]", "<pad>")
"""What the tokenizers of BERT and RoBERTa, and of most after them, call padding."""


class Bytes:
    """UTF-8 bytes, one id each; `special` reserves the first four ids."""

    def __init__(self, *, special: bool) -> None:
        self._first = len(SPECIAL) if special else 0

    @property
    def vocab_size(self) -> int:
        """Return 256, or 260 with the special ids."""
        return self._first + 256

    def encode(self, text: str) -> list[int]:
        """Return one id a byte."""
        return [self._first + byte for byte in text.encode()]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; bytes that are no UTF-8 become the replacement character."""
        return bytes(i - self._first for i in ids if i >= self._first).decode(errors="replace")


class Symbols:
    """A fixed alphabet; text is symbols joined by `separator` ("" takes each character for one)."""

    def __init__(self, alphabet: Iterable[str], *, separator: str = " ") -> None:
        self._symbols = [*SPECIAL, *alphabet]
        self._ids = {symbol: index for index, symbol in enumerate(self._symbols)}
        self._separator = separator

    @property
    def vocab_size(self) -> int:
        """Return the size of the alphabet and the four special ids."""
        return len(self._symbols)

    def encode(self, text: str) -> list[int]:
        """Return one id a symbol; what is not in the alphabet becomes `<unk>`."""
        symbols = text.split(self._separator) if self._separator else text
        return [self._ids.get(symbol, UNK) for symbol in symbols if symbol]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the symbols, joined by the separator."""
        return self._separator.join(self._symbols[i] for i in ids if i >= len(SPECIAL))


class Subwords:
    """A tokenizer of the `tokenizers` library."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._vocab_size = 1 + max(tokenizer.get_vocab().values(), default=-1)

    @property
    def vocab_size(self) -> int:
        """Return the number of ids, special ones included, and those that a gap in the ids leaves unused."""
        return self._vocab_size

    def encode(self, text: str) -> list[int]:
        """Return the ids of the text, without special ones."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text, without special ones; several at a time."""
        return [list(each.ids) for each in self._tokenizer.encode_batch(list(texts), add_special_tokens=False)]

    def framed(self, texts: Iterable[str], length: int) -> list[list[int]]:
        """Return the ids of each text as the tokenizer's own template frames it ([CLS] ... [SEP]), `length` at most."""
        self._tokenizer.enable_truncation(length)
        try:
            return [list(each.ids) for each in self._tokenizer.encode_batch(list(texts))]
        finally:
            self._tokenizer.no_truncation()

    def token_ids(self, tokens: Iterable[str]) -> list[int | None]:
        """Return the id of each token, None for one that is not in the vocabulary."""
        return [self._tokenizer.token_to_id(token) for token in tokens]

    @property
    def pad_id(self) -> int | None:
        """Return the id of padding that the tokenizer names, or that bears one of its usual names; None without."""
        if self._tokenizer.padding is not None:
            return int(self._tokenizer.padding["pad_id"])
        return next((index for index in self.token_ids(PADDING_NAMES) if index is not None), None)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text; special ids give nothing."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True))

    def byte_lengths(self) -> list[int] | None:
        """Return how many bytes of text each id stands for (special ones none); None where tokens are no bytes."""
        from tokenizers import decoders

        if not isinstance(self._tokenizer.decoder, decoders.ByteLevel):
            return None
        lengths = [0] * self.vocab_size
        for token, index in self._tokenizer.get_vocab().items():
            lengths[index] = len(token)  # byte-level tokens are spelled with one character a byte
        for index, added in self._tokenizer.get_added_tokens_decoder().items():
            lengths[index] = 0 if added.special else len(added.content.encode())
        return lengths


def train_bpe(texts: Iterable[str], vocab_size: int) -> Subwords:
    """Return a byte-level BPE codec learned from `texts`, the four special tokens first; the same texts give the same.

    Raises ConfigError for a vocabulary smaller than the bytes and the special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    smallest = 256 + len(SPECIAL)
    if vocab_size < smallest:
        raise ConfigError(f"data.vocab_size: {vocab_size}, but bytes and special tokens alone are {smallest}; raise it")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return Subwords(tokenizer)


def load_tokenizer(path: Path) -> Subwords:
    """Return the codec of a `tokenizer.json`; raise DataError when there is none or it is damaged."""
    from tokenizers import Tokenizer

    try:
        return Subwords(Tokenizer.from_str(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise DataError(f"data.tokenizer: {path.absolute()} cannot be read ({error.strerror})") from error
    except Exception as error:  # the library raises plain Exception on a file it cannot parse
        raise DataError(f"data.tokenizer: {path} is no tokenizer.json: {first_line(error)}") from error
