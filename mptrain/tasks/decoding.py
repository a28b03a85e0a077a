"""From a model that scores the next token to whole sequences: beam search, and with one beam greedy decoding.

Owns: the search. Must not: know a model; it is given a function.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from mptrain.interfaces import BOS, EOS, PAD, at_least_fp32


def beam_search(
    next_scores: Callable[[Tensor], Tensor],
    batch: int,
    device: torch.device,
    *,
    max_tokens: int,
    beam_size: int,
    length_penalty: float,
) -> Tensor:
    """Return the best sequence found for each sample, int64 (batch, at most max_tokens), <pad> after its <eos>.

    `next_scores` maps the ids so far, (batch * beam_size, T) and beginning with <bos>, to the logits of what follows,
    (batch * beam_size, vocabulary); the rows of one sample are neighbours. Sequences are compared by their log
    probability over ((5 + length) / 6) ** length_penalty (Wu et al. 2016, arXiv 1609.08144, equation 14, without
    coverage). Reads the device once a token, to stop when all have ended.
    """
    rows = torch.full((batch * beam_size, 1), BOS, device=device)
    ended = torch.zeros(batch, beam_size, dtype=torch.bool, device=device)
    length = torch.zeros(batch, beam_size, device=device)
    # All beams of a sample are alike at first: only one may go on, or they would stay alike.
    total = torch.full((batch, beam_size), -torch.inf, device=device)
    total[:, 0] = 0
    first_row = torch.arange(batch, device=device).unsqueeze(1) * beam_size
    for _ in range(max_tokens):
        scores = functional.log_softmax(at_least_fp32(next_scores(rows)), dim=1)
        vocabulary = scores.shape[1]
        after_end = torch.full_like(scores[0], -torch.inf)
        after_end[PAD] = 0  # a sequence that has ended goes on with padding, at no cost
        scores = torch.where(ended.unsqueeze(2), after_end, scores.view(batch, beam_size, vocabulary))
        total, best = (total.unsqueeze(2) + scores).flatten(1).topk(beam_size, dim=1)
        parent, token = best // vocabulary, best % vocabulary
        ended = ended.gather(1, parent)
        length = length.gather(1, parent) + ~ended
        ended = ended | (token == EOS)
        rows = torch.cat([rows[(first_row + parent).flatten()], token.view(-1, 1)], dim=1)
        if bool(ended.all()):
            break
    chosen = (total / ((5 + length) / 6) ** length_penalty).argmax(1, keepdim=True)
    return rows[(first_row + chosen).flatten(), 1:]
