"""Names and descriptions of the datasets for language modelling, and what is known of them before they are read.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.expected import expected_spec
from mptrain.data.language.configs import HfTextConfig, ShakespeareConfig, TextConfig, TextFilesConfig, TokenFilesConfig
from mptrain.interfaces import DataSpec
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register("shakespeare", config=ShakespeareConfig, description="38 plays of Shakespeare, 5 MB, bundled")
def _shakespeare(config: ShakespeareConfig, seed: int) -> DataSplits:
    from mptrain.data.language import texts

    return texts.shakespeare(config)


@DATASETS.register("text_files", config=TextFilesConfig, description="Your own UTF-8 texts, as bytes or subwords")
def _text_files(config: TextFilesConfig, seed: int) -> DataSplits:
    from mptrain.data.language import texts

    return texts.text_files(config)


@DATASETS.register("token_files", config=TokenFilesConfig, description="Tokens in .bin or .npy files, memory-mapped")
def _token_files(config: TokenFilesConfig, seed: int) -> DataSplits:
    from mptrain.data.language import token_files

    return token_files.token_files(config)


@DATASETS.register("hf_text", config=HfTextConfig, description="A text dataset of Hugging Face datasets (extra: hf)")
def _hf_text(config: HfTextConfig, seed: int) -> DataSplits:
    from mptrain.data.language import hf_text

    return hf_text.hf_text(config)


@expected_spec.register
def _expected_of_text(config: TextConfig) -> DataSpec | None:
    vocab_size = 256 if config.tokenizer == "bytes" else config.vocab_size
    return None if vocab_size is None else _spec(config.context, vocab_size)


@expected_spec.register
def _expected_of_token_files(config: TokenFilesConfig) -> DataSpec:
    return _spec(config.context, config.vocab_size)


def _spec(context: int, vocab_size: int) -> DataSpec:
    return DataSpec((context,), vocab_size, kind="language_modelling", vocab_size=vocab_size)
