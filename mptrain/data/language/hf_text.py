"""Texts of Hugging Face `datasets`, by name or from a local folder.

Owns: reading their columns. Must not: run code that comes with a dataset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mptrain.data.language.configs import HfTextConfig
from mptrain.data.language.texts import text_splits
from mptrain.errors import CapabilityError, DataError, first_line
from mptrain.interfaces import BadFiles, DataSplits


def hf_text(config: HfTextConfig) -> DataSplits:
    """Return the dataset's texts, tokenised and held in memory.

    Raises CapabilityError without the extra, DataError when the dataset cannot be read or lacks the column.
    """
    train, test = (
        (_text(config, split), f"{config.path} ({split})") for split in (config.train_split, config.test_split)
    )
    return text_splits(config, train, test, BadFiles(config.on_error))


def _text(config: HfTextConfig, split: str) -> str:
    rows = _load(config, split)
    if config.column not in rows.column_names:
        raise DataError(
            f"data.column: {config.path} has no column '{config.column}', but {', '.join(rows.column_names)}"
        )
    texts = rows[config.column][:]
    if not all(isinstance(text, str) for text in texts):
        raise DataError(f"data.column: '{config.column}' of {config.path} does not hold text")
    return config.separator.join(texts)


def _load(config: HfTextConfig, split: str) -> Any:
    try:
        import datasets
    except ImportError as error:
        raise CapabilityError(f"data.name: hf_text needs `pip install 'mptrain[hf]'` ({first_line(error)})") from error
    try:
        if (Path(config.path) / "dataset_dict.json").is_file():  # what save_to_disk writes
            return datasets.load_from_disk(config.path)[split]
        return datasets.load_dataset(config.path, config.subset, split=split, trust_remote_code=False)
    except Exception as error:  # the library has no base error: network, names, formats and splits all differ
        raise DataError(
            f"data.path: '{config.path}' ({split}) cannot be read: {first_line(error)}; check data.path, data.subset "
            "and the splits"
        ) from error
