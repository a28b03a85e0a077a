"""`mptrain check`, `show` and `schema`: a config before it runs. No command here imports torch, but `check --build`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mptrain.cli.output import print_error
from mptrain.errors import ConfigError, MptrainError

Overrides = Annotated[list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Overrides, e.g. optimizer.lr=1e-3.")]


def check(
    arguments: Annotated[
        list[str], typer.Argument(metavar="CONFIG|KEY=VALUE", help="Config files, and overrides for all.")
    ],
    build: Annotated[bool, typer.Option("--build", help="Also build model and data (imports torch).")] = False,
) -> None:
    """Validate configs and list every problem, with file and line."""
    from mptrain.catalog import load_config
    from mptrain.config.load import is_override

    overrides = [argument for argument in arguments if is_override(argument)]
    files = [argument for argument in arguments if not is_override(argument)]
    if not files:
        raise ConfigError("no config file given; name one, e.g. `mptrain check configs/resnet.yaml`")
    code = 0
    for file in files:
        try:
            loaded = load_config(Path(file), overrides)
            if build:
                from mptrain.trainer.build import check_build
                from mptrain.trainer.endings import known_endings

                with known_endings():
                    check_build(loaded.config)
            print(f"{file}: ok")
        except MptrainError as error:
            print_error(error)
            code = code or error.exit_code
    raise typer.Exit(code)


def show(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="A config file.")], overrides: Overrides = None
) -> None:
    """Print the resolved config and where each value came from."""
    from mptrain.catalog import annotated_yaml, load_config

    print(annotated_yaml(load_config(config, overrides or ())), end="")


def schema() -> None:
    """Print the JSON Schema of a config file, for editors."""
    import json

    from mptrain.catalog import json_schema

    print(json.dumps(json_schema(), indent=2))
