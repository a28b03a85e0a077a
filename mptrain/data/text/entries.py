"""Names and descriptions of the datasets for text classification and translation.

Owns: their registration. Must not: import torch at module level; each build names its module.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mptrain.data.expected import expected_spec
from mptrain.data.text.configs import (
    BibleConfig,
    CmudictConfig,
    ParallelConfig,
    ShakespeareGenreConfig,
    TextTableConfig,
)
from mptrain.interfaces import DataSpec, InputSpec
from mptrain.registry import DATASETS

if TYPE_CHECKING:
    from mptrain.interfaces import DataSplits


@DATASETS.register(
    "shakespeare_genre",
    config=ShakespeareGenreConfig,
    description="Comedy, history or tragedy from a passage, test plays unseen, bundled",
)
def _shakespeare_genre(config: ShakespeareGenreConfig, seed: int) -> DataSplits:
    from mptrain.data.text import shakespeare

    return shakespeare.shakespeare_genre(config)


@DATASETS.register("text_table", config=TextTableConfig, description="Texts and labels in .csv, .tsv or .jsonl files")
def _text_table(config: TextTableConfig, seed: int) -> DataSplits:
    from mptrain.data.text import tables

    return tables.text_table(config)


@DATASETS.register("cmudict", config=CmudictConfig, description="English spelling to phonemes, 124,792 words, bundled")
def _cmudict(config: CmudictConfig, seed: int) -> DataSplits:
    from mptrain.data.text import pairs

    return pairs.cmudict(config)


@DATASETS.register("bible_en_es", config=BibleConfig, description="English to Spanish, 12,358 short verses, bundled")
def _bible_en_es(config: BibleConfig, seed: int) -> DataSplits:
    from mptrain.data.text import pairs

    return pairs.bible_en_es(config)


@DATASETS.register(
    "parallel", config=ParallelConfig, description="Sentences and translations, two files line by line or .tsv"
)
def _parallel(config: ParallelConfig, seed: int) -> DataSplits:
    from mptrain.data.text import parallel

    return parallel.parallel(config)


@expected_spec.register
def _expected_of_parallel(config: ParallelConfig) -> DataSpec:
    tokens = InputSpec((config.max_tokens,), config.vocab_size)
    return DataSpec(
        tokens.shape, config.vocab_size, kind="translation", vocab_size=config.vocab_size, more_inputs=(tokens,)
    )
