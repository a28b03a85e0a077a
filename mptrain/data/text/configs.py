"""Config classes of the datasets for text classification and translation: every option and its one-line meaning.

Owns: the defaults. Must not: import torch, or know how anything is read.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mptrain.config.schema import DataConfig
from mptrain.config.section import PositiveInt

Tokens = Annotated[int, Field(ge=2)]
"""At least one beside the special token that begins or ends every text."""


class _TokensConfig(DataConfig):
    """What data cut into tokens share."""

    max_tokens: Tokens = 128
    """Tokens of one sample, special ones among them; longer texts are cut, shorter ones padded."""
    vocab_size: PositiveInt = 4096
    """Tokens of the byte-level BPE learned from the training texts."""


class ShakespeareGenreConfig(_TokensConfig):
    """Passages of Shakespeare's plays, without speakers, headings and directions: comedy, history or tragedy."""


class CmudictConfig(DataConfig):
    """English spelling to phonemes."""

    num_train: PositiveInt | None = None
    """Training words; null takes all that are not for testing."""
    num_test: PositiveInt = 2000
    """Test words, which never occur in training."""


class BibleConfig(_TokensConfig):
    """English to Spanish verses."""

    max_tokens: Tokens = 64
    """Tokens of one verse; longer ones are cut, shorter ones padded."""


class _TokenizerConfig(_TokensConfig):
    """What the user's own texts share."""

    tokenizer: str | None = None
    """File tokenizer.json of the `tokenizers` library; null learns one. For translation its ids 0 to 3 must be <pad>
    <bos> <eos> <unk>; for classification any will do that has padding and a template (BERT's, RoBERTa's)."""
    vocab_size: PositiveInt = 4096
    """Tokens of the byte-level BPE learned from the training texts; of a tokenizer file, what plans expect of it."""


class TextTableConfig(_TokenizerConfig):
    """Texts and their labels in tables: .csv or .tsv (without quotes) with a header, or .jsonl."""

    train: str
    """Training table, relative to the current folder."""
    test: str
    """Test table, relative to the current folder."""
    text: str = "text"
    """Column (or key) of the text."""
    label: str = "label"
    """Column (or key) of the label; the classes are the training table's labels in sorted order."""


class ParallelConfig(_TokenizerConfig):
    """Sentences and their translations: two files, line by line, or one .tsv of two columns."""

    train: str
    """Training text: a .tsv file, or what two files' names begin with: `corpus/train` means corpus/train.en and .de."""
    test: str
    """Test text, named likewise."""
    source: str = "src"
    """Ending of the files to translate from, e.g. `en`."""
    target: str = "tgt"
    """Ending of the files to translate into, e.g. `de`."""
