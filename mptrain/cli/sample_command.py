"""`mptrain sample`: text from a trained language model. Torch is imported inside the function."""

from __future__ import annotations

from typing import Annotated

import typer

from mptrain.cli.config_commands import Overrides
from mptrain.cli.output import print_json, stdout_kept_for_json
from mptrain.cli.run_commands import AsJson, Best, RunDirectory
from mptrain.errors import CapabilityError


def sample(
    run_dir: RunDirectory,
    overrides: Overrides = None,
    prompt: Annotated[
        str, typer.Option(metavar="TEXT", help="The text to go on from; a line break by default.")
    ] = "\n",
    tokens: Annotated[int, typer.Option(min=1, help="How many tokens to write.")] = 200,
    temperature: Annotated[
        float, typer.Option(min=0, help="Below 1 keeps to probable tokens; 0 always takes the most probable one.")
    ] = 0.8,
    top_k: Annotated[int | None, typer.Option(min=1, help="Choose among this many most probable tokens.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, max=2**64 - 1, help="Seed of the choices; the same seed writes the same text.")
    ] = 0,
    best: Best = False,
    as_json: AsJson = False,
) -> None:
    """Let a run's language model write text."""
    from mptrain.trainer.sampling import SampleOptions, sample_run

    options = SampleOptions(prompt, tokens, temperature, top_k, seed)
    with stdout_kept_for_json(as_json):
        result = sample_run(run_dir, overrides or (), options, best=best)
    if as_json:
        print_json({"schema": 1, "status": "ok", "exit_code": 0, "error": None, **result})
    else:
        _print_text(f"{result['prompt']}{result['text']}")


def _print_text(text: str) -> None:
    """Print `text`; raise CapabilityError where standard output has no such characters."""
    try:
        print(text)
    except UnicodeEncodeError as error:
        raise CapabilityError(
            f"standard output is {error.encoding}, which cannot write {error.object[error.start]!a}; set "
            "PYTHONIOENCODING=utf-8, or use --json"
        ) from error
