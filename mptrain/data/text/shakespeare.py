"""Comedy, history or tragedy, from a passage of a play that was never seen in training.

The genre is the First Folio's (1623). Six of the 38 plays are left out, because their genre is disputed or the Folio
does not have them: the late romances (which it prints under comedies and tragedies), `Troilus and Cressida` (which it
prints between histories and tragedies), and `Edward III`.

A passage has no speaker's names, headings or stage directions, which would tell the play. The test plays are, in the
file's order, every fourth comedy and tragedy that shares no character with another play, and the two histories that
do not: no part of a sequence of plays is tested on what another part taught.

Owns: the plays, their genres and the split. Must not: know how text becomes tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import torch

from mptrain.data.bundled_files import SHA256, read_bundled
from mptrain.data.text.configs import ShakespeareGenreConfig
from mptrain.data.text.tokens import classified
from mptrain.data.tokenizers import train_bpe
from mptrain.interfaces import DataSpec, DataSplits, InMemory, as_it_is

FILE = "shakespeare_38plays.txt.xz"
GENRES = ("comedy", "history", "tragedy")
_C, _H, _T, _NONE = *GENRES, None

PLAYS: Mapping[str, str | None] = {
    "A Midsummer Night's Dream": _C,
    "As You Like It": _C,
    "Love's Labour's Lost": _C,
    "Much Ado About Nothing": _C,
    "The Comedy of Errors": _C,
    "The Merry Wives of Windsor": _C,
    "Twelfth Night": _C,
    "The Two Gentlemen of Verona": _C,
    "Edward III": _NONE,
    "Henry IV, Part 1": _H,
    "Henry IV, Part 2": _H,
    "Henry V": _H,
    "Henry VI, Part 1": _H,
    "Henry VI, Part 2": _H,
    "Henry VI, Part 3": _H,
    "Henry VIII": _H,
    "King John": _H,
    "Richard II": _H,
    "Richard III": _H,
    "All's Well That Ends Well": _C,
    "Measure for Measure": _C,
    "The Merchant of Venice": _C,
    "The Taming of the Shrew": _C,
    "Troilus and Cressida": _NONE,
    "Antony and Cleopatra": _T,
    "Coriolanus": _T,
    "Julius Caesar": _T,
    "Titus Andronicus": _T,
    "The Winter's Tale": _NONE,
    "Cymbeline": _NONE,
    "Pericles": _NONE,
    "The Tempest": _NONE,
    "Hamlet": _T,
    "King Lear": _T,
    "Macbeth": _T,
    "Othello": _T,
    "Romeo and Juliet": _T,
    "Timon of Athens": _T,
}
"""Every play in the file's order (there, `Measure for Measure` lacks its title), and its genre; None: left out."""

TEST_PLAYS = frozenset(
    {
        *("Much Ado About Nothing", "All's Well That Ends Well"),
        *("Henry VIII", "King John"),
        *("King Lear", "Timon of Athens"),
    }
)
"""The plays held out, two of each genre."""


def spoken(play: str) -> str:
    """Return the lines spoken in a play: paragraphs that begin with a speaker, without that line and directions."""
    speeches = (re.match(r"[^\n]{1,40}:\n(.+)", part, flags=re.DOTALL) for part in play.split("\n\n"))
    lines = "\n".join(speech[1] for speech in speeches if speech)
    return re.sub(r"\[[^\]]*\]", "", lines)


def shakespeare_genre(config: ShakespeareGenreConfig) -> DataSplits:
    """Return passages of `max_tokens` tokens and their genres (N,); the tokens are learned from the training plays.

    Raises DataError when the bundled file is missing or damaged, ConfigError for a vocabulary that is too small.
    """
    texts = dict(zip(PLAYS, read_bundled(FILE).decode().split("\n\n\n"), strict=True))
    speech = {play: spoken(text) for play, text in texts.items() if PLAYS[play] is not None}
    codec = train_bpe((text for play, text in speech.items() if play not in TEST_PLAYS), config.vocab_size)
    passages: dict[bool, list[list[int]]] = {True: [], False: []}
    labels: dict[bool, list[int]] = {True: [], False: []}
    for play, text in speech.items():
        made = list(_passages(codec.encode(text), config.max_tokens - 1))
        passages[play in TEST_PLAYS] += made
        labels[play in TEST_PLAYS] += [GENRES.index(str(PLAYS[play]))] * len(made)
    train, test = (
        InMemory(classified(passages[held], config.max_tokens), torch.tensor(labels[held]), as_it_is, augments=False)
        for held in (False, True)
    )
    spec = DataSpec(
        (config.max_tokens,), len(GENRES), class_names=GENRES, vocab_size=codec.vocab_size, input_text=codec
    )
    return DataSplits(
        spec, train, test, {"name": config.name, "train": len(train), "test": len(test), "sha256": SHA256[FILE]}
    )


def _passages(ids: list[int], length: int) -> Iterator[list[int]]:
    """Yield the ids in passages of exactly `length`; the rest at the end is left out."""
    for start in range(0, len(ids) - length + 1, length):
        yield ids[start : start + length]
