"""Config classes of the datasets for language modelling: every option, its default, its one-line meaning.

Owns: the defaults. Must not: import torch or numpy, or know how anything is built.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from mptrain.config.schema import DataConfig
from mptrain.config.section import PositiveInt


class LanguageConfig(DataConfig):
    """What all share: a row of tokens is cut into windows, of which each token is predicted from those before it."""

    context: PositiveInt = 128
    """Tokens per sample. Training windows begin at a random phase, test windows follow each other."""


class TextConfig(LanguageConfig):
    """Text that is turned into tokens when the run begins, and held in memory."""

    tokenizer: str = "bytes"
    """bytes; bpe, learned from the training text; or a tokenizer.json (relative to the current folder)."""
    vocab_size: PositiveInt | None = None
    """Tokens that bpe learns, four special ones and the 256 bytes among them."""

    @model_validator(mode="after")
    def _vocabulary_is_for_bpe(self) -> TextConfig:
        if (self.tokenizer == "bpe") != (self.vocab_size is not None):
            raise ValueError("vocab_size: give it with tokenizer: bpe, and only there")
        return self


class ShakespeareConfig(TextConfig):
    """38 plays of Shakespeare, bundled; the last one, Timon of Athens, is the test text."""


class TextFilesConfig(TextConfig):
    """UTF-8 text files of your own."""

    train: str
    """The training text: a file, or a pattern such as texts/**/*.txt; relative to the current folder."""
    test: str | None = None
    """The test text, likewise; null takes the end of the training text (see test_fraction)."""
    test_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.1
    """Share of the training text, at its end, that becomes the test text where `test` is null."""
    separator: str = "\n\n"
    """Put between two files; with GPT-2's tokenizer.json, <|endoftext|> is its token for that."""


class TokenFilesConfig(LanguageConfig):
    """Text that has been turned into tokens before: files that are mapped into memory, never loaded whole."""

    train: str
    """The training tokens: .npy, or .bin (plain numbers, as nanoGPT's prepare.py writes them)."""
    test: str
    """The test tokens, e.g. nanoGPT's val.bin."""
    vocab_size: PositiveInt
    """Token ids are 0 .. vocab_size - 1 (GPT-2: 50257); one outside is refused where it is read."""
    dtype: Literal["uint16", "uint32"] = "uint16"
    """Numbers in a .bin file, little-endian; a .npy file tells itself."""
    tokenizer: str | None = None
    """The tokenizer.json that made the tokens: for bits per byte, texts in predictions, and `mptrain sample`."""


class HfTextConfig(TextConfig):
    """A text dataset read by Hugging Face `datasets`."""

    path: str
    """The dataset's name on the hub, or a local folder; no code of a dataset is run."""
    subset: str | None = None
    """Its configuration, where it has several."""
    column: str = "text"
    """The column that holds the text."""
    train_split: str = "train"
    """The split to train on; slices such as train[:90%] work."""
    test_split: str = "test"
    """The split to test on, e.g. validation or train[90%:]."""
    separator: str = "\n\n"
    """Put between two documents; with GPT-2's tokenizer.json, <|endoftext|> is its token for that."""
