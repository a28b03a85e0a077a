"""Text from a trained language model, token by token, under the run's own precision.

Owns: the choice of each token from its probabilities. Must not: train, or print.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mptrain.errors import ConfigError, DivergedError
from mptrain.interfaces import TextCodec, forward
from mptrain.trainer.build import Run
from mptrain.trainer.endings import known_endings
from mptrain.trainer.saved import saved_run


@dataclass(frozen=True)
class SampleOptions:
    """What text is asked for."""

    prompt: str = "\n"
    """The text to go on from."""
    tokens: int = 200
    """How many tokens to add."""
    temperature: float = 0.8
    """Logits are divided by it; 0 always takes the most probable token."""
    top_k: int | None = None
    """Choose among so many most probable tokens only; None among all."""
    seed: int = 0
    """Seed of the choices."""


def sample_run(run_dir: Path, overrides: Sequence[str], options: SampleOptions, *, best: bool) -> dict[str, Any]:
    """Return text that a saved run's model writes after the prompt, with its evaluated (averaged) weights.

    Raises ConfigError for a run that is no language model, whose tokens have no text, or for an unusable prompt.
    """
    with known_endings():
        run, found = saved_run(run_dir, overrides, best=best)
        codec = _codec(run)
        prompt = _prompt_ids(codec, options.prompt)
        written = generate(run, prompt, codec.vocab_size, options)
    return {
        "checkpoint": found.path.name,
        "applied_steps": found.step,
        "precision": run.in_force.mode,
        "seed": options.seed,
        "prompt": options.prompt,
        "text": codec.decode([*prompt, *written])[len(codec.decode(prompt)) :],
        "tokens": len(written),
    }


def _codec(run: Run) -> TextCodec:
    if run.spec.kind != "language_modelling":
        raise ConfigError(f"RUN_DIR: its model is for {run.spec.kind}, not for language modelling; it writes no text")
    if run.spec.output_text is None:
        raise ConfigError(
            "data.tokenizer: the run's tokens have no text; name the tokenizer.json that made them: "
            "`mptrain sample RUN_DIR data.tokenizer=FILE`"
        )
    return run.spec.output_text


def _prompt_ids(codec: TextCodec, prompt: str) -> list[int]:
    """Return the prompt's ids; raise ConfigError where it has none, or holds what the vocabulary does not."""
    try:
        ids = codec.encode(prompt)
    except UnicodeEncodeError:
        raise ConfigError(f"--prompt: {prompt!r} is not valid UTF-8; check the terminal's encoding") from None
    if not ids:
        raise ConfigError("--prompt: it has no token to go on from; give a text, if only a space")
    if not codec.decode(ids):
        raise ConfigError(f"--prompt: {prompt!r} is not in the model's vocabulary; write it with characters that are")
    return ids


@torch.no_grad()
def generate(run: Run, prompt: Sequence[int], vocab_size: int, options: SampleOptions) -> list[int]:
    """Return the ids that follow `prompt`, each below `vocab_size`; the same seed gives the same on one machine.

    The model sees a window of its context: the last tokens, and behind them filling, which a causal model cannot see;
    windows of one size suit every precision as training's did.
    """
    model, policy = run.parts.model, run.parts.policy
    context = run.spec.input_shape[0]
    generator = torch.Generator().manual_seed(options.seed)
    ids = list(prompt)
    model.eval()
    for _ in range(options.tokens):
        seen = ids[-context:]
        window = torch.tensor([seen + [0] * (context - len(seen))], device=run.device)
        with policy.arithmetic(), policy.autocast():
            logits = forward(model, policy.convert_input(window))
        ids.append(choose(logits[0, len(seen) - 1, :vocab_size].float().cpu(), options, generator))
    return ids[len(prompt) :]


def choose(logits: Tensor, options: SampleOptions, generator: torch.Generator) -> int:
    """Return the token chosen by FP32 logits (vocabulary,): the largest, or drawn from softmax(logits / temperature).

    Raises DivergedError where the logits are not finite.
    """
    if not logits.isfinite().all():
        raise DivergedError("the model's outputs are not finite: its training diverged; try --best")
    if options.temperature == 0:
        return int(logits.argmax())
    candidates = torch.arange(len(logits))
    if options.top_k is not None and options.top_k < len(logits):
        logits, candidates = logits.topk(options.top_k)
    probabilities = ((logits - logits.max()).double() / options.temperature).softmax(0)
    return int(candidates[torch.multinomial(probabilities, 1, generator=generator)])
