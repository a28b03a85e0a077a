"""From lists of token ids to padded tensors: what the datasets of this folder make samples of.

    classification:  <bos> text                                            inputs (N, length)
    translation:     source <eos>, <bos> target -> target <eos>            inputs ((N, S), (N, T)), targets (N, T)

Owns: where special tokens stand, and padding. Must not: read files.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mptrain.data.tokenizers import SPECIAL, Subwords, load_tokenizer, train_bpe
from mptrain.errors import DataError
from mptrain.interfaces import BOS, EOS, IGNORED_TOKEN, PAD, UNK, DataSpec, InputSpec, TextCodec


def padded(ids: Iterable[Sequence[int]], length: int, fill: int) -> Tensor:
    """Return the ids as int64 (N, length), cut or filled up at the end."""
    return torch.tensor([[*row[:length], *[fill] * (length - len(row))] for row in ids], dtype=torch.int64)


def classified(texts: Iterable[Sequence[int]], length: int) -> Tensor:
    """Return texts as a model takes them, (N, length); each begins with <bos>, so that an empty one is one too."""
    return padded(([BOS, *text] for text in texts), length, PAD)


def framed(codec: Subwords, texts: Iterable[str], length: int) -> Tensor:
    """Return texts as `classified` does, or as the template of a tokenizer with other special tokens frames them."""
    if has_own_special_ids(codec):
        return classified(codec.encode_batch(list(texts)), length)
    return padded(codec.framed(texts, length), length, padding_id(codec))


def padding_id(codec: Subwords) -> int:
    """Return the id that fills up short texts; raise DataError for a tokenizer that has none, or no template."""
    if has_own_special_ids(codec):
        return PAD
    pad_id = codec.pad_id
    if pad_id is None or not codec.framed([""], 2)[0]:
        raise DataError(
            "data.tokenizer: it has no token for padding, or puts none around a text; take one made for classifying "
            f"(BERT's, RoBERTa's), or train one with {' '.join(SPECIAL)} as its first tokens"
        )
    return pad_id


def translated(
    sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]], lengths: tuple[int, int]
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Return ((sources (N, S), shifted targets (N, T)), targets (N, T)), all int64, for `lengths` (S, T).

    A source that is cut still ends with <eos>; a target that is cut does not, for it goes on.
    """
    longest_source, longest_target = lengths
    inputs = (
        padded(([*source[: longest_source - 1], EOS] for source in sources), longest_source, PAD),
        padded(([BOS, *target] for target in targets), longest_target, PAD),
    )
    return inputs, padded(([*target, EOS] for target in targets), longest_target, IGNORED_TOKEN)


def translation_spec(source: TextCodec, target: TextCodec, lengths: tuple[int, int]) -> DataSpec:
    """Return what a model needs to know of translation data of `lengths` (S, T)."""
    return DataSpec(
        input_shape=(lengths[0],),
        num_outputs=target.vocab_size,
        kind="translation",
        vocab_size=source.vocab_size,
        more_inputs=(InputSpec((lengths[1],), target.vocab_size),),
        input_text=source,
        output_text=target,
    )


def chosen_tokenizer(file: str | None, texts: Iterable[str], vocab_size: int) -> Subwords:
    """Return the codec of `file`, or without one a BPE learned from `texts`; raise DataError for no tokenizer."""
    return train_bpe(texts, vocab_size) if file is None else load_tokenizer(Path(file).expanduser())


def has_own_special_ids(codec: Subwords) -> bool:
    """Say whether the first ids are <pad> <bos> <eos> <unk>."""
    return codec.token_ids(SPECIAL) == [PAD, BOS, EOS, UNK]


def check_special_ids(codec: Subwords, file: str | None) -> None:
    """Raise DataError unless the first ids of the codec of `file` are <pad> <bos> <eos> <unk>."""
    if not has_own_special_ids(codec):
        raise DataError(
            f"data.tokenizer: {file}: its ids 0 to {len(SPECIAL) - 1} are not special tokens; they must be "
            f"{' '.join(SPECIAL)}, so train it with them first"
        )
