"""`mptrain sweep`: many runs of a config, each an ordinary `mptrain run` in a process of its own. Imports no torch."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mptrain.cli.output import print_error, print_json, print_problem, stdout_kept_for_json
from mptrain.cli.run_commands import AsJson
from mptrain.errors import ConfigError, MptrainError, Preempted

if TYPE_CHECKING:
    from mptrain.sweep.request import Request
    from mptrain.sweep.runner import Row, Slot, Source

DEFAULT_TRIALS = 20


class Search(StrEnum):
    """Libraries that choose values."""

    optuna = "optuna"


def sweep(
    arguments: Annotated[
        list[str],
        typer.Argument(metavar="CONFIG|SWEEP_FILE|KEY=A,B,C", help="What to sweep, and the values of any keys."),
    ],
    zipped: Annotated[
        bool, typer.Option("--zip", help="Take listed values together, first with first, not in every combination.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and where they stand; run none.")] = False,
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at a time; the default is 1, or one a GPU.")] = None,
    gpus: Annotated[str | None, typer.Option(metavar="0,1", help="GPUs to place runs on, in turn.")] = None,
    output_dir: Annotated[Path, typer.Option(help="Runs go to OUTPUT_DIR/<config name>/<run id>/.")] = Path("runs"),
    stop_on_failure: Annotated[
        bool, typer.Option("--stop-on-failure/--keep-going", help="Start no more runs once one has failed.")
    ] = False,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Also run again what diverged, ran out of memory or lacked data.")
    ] = False,
    submit: Annotated[
        str | None,
        typer.Option(metavar="TEMPLATE", help="Hand each run to a scheduler, e.g. 'sbatch --wrap {command}'."),
    ] = None,
    search: Annotated[Search | None, typer.Option(help="Search keys given as LOW..HIGH, log:LOW..HIGH or A,B.")] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help=f"With --search: runs at each grid point; {DEFAULT_TRIALS} by default.")
    ] = None,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Stop each run after this many applied steps.")] = None,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the report as an HTML page.")] = None,
    as_json: AsJson = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print errors only.")] = False,
) -> None:
    """Run a config in every combination of values, a process each.

    The same command goes on where it was stopped: finished runs are skipped. A run that fails is a row of the table,
    and the others go on; the exit code is that of the first that failed.
    """
    from mptrain.sweep.request import read_request
    from mptrain.sweep.slots import check_gpus, make_slots

    _check_options(search, trials, submit, retry_failed, places=jobs is not None or gpus is not None)
    speaks = not (quiet or as_json)
    if html is not None:
        from mptrain.report import vega

        vega.library()  # raises now what it would raise after hours of training
    with stdout_kept_for_json(as_json):
        slots = make_slots(jobs, gpus)
        request = read_request(arguments, zipped=zipped, max_steps=max_steps, searches=search is not None)
        if gpus is not None and not dry_run:
            check_gpus(gpus)
        if search:
            result = _search(
                request,
                slots,
                output_dir,
                trials=trials or DEFAULT_TRIALS,
                dry_run=dry_run,
                stop_on_failure=stop_on_failure,
                speaks=speaks,
            )
        else:
            result = _sweep(
                request,
                slots,
                output_dir,
                submit=submit,
                dry_run=dry_run,
                retry_failed=retry_failed,
                stop_on_failure=stop_on_failure,
                speaks=speaks,
            )
        if not dry_run and result["status"] != Preempted.status:
            result |= _report(result, html, speaks=speaks and not search)
    if result["error"]:
        print_problem(result["error"])
    if as_json:
        print_json(result)
    raise typer.Exit(result["exit_code"])


def _check_options(
    search: Search | None, trials: int | None, submit: str | None, retry_failed: bool, *, places: bool
) -> None:
    problems = []
    if submit is not None and places:
        problems.append("--submit: where and when runs run is the scheduler's to say; leave out --jobs and --gpus")
    if trials is not None and not search:
        problems.append("--trials needs --search optuna")
    if search and submit is not None:
        problems.append("--submit: a search waits for results and cannot hand its runs over; leave one of them out")
    if search and retry_failed:
        problems.append("--retry-failed: a search counts failed trials as results; leave one of them out")
    if problems:
        raise ConfigError(problems)


def _sweep(
    request: Request,
    slots: Sequence[Slot],
    output_dir: Path,
    *,
    submit: str | None,
    dry_run: bool,
    retry_failed: bool,
    stop_on_failure: bool,
    speaks: bool,
) -> dict[str, Any]:
    """Run (or list, or hand over) every combination and return the sweep's JSON object."""
    from mptrain.sweep.folders import look
    from mptrain.sweep.plan import make_plan
    from mptrain.sweep.rows import make_rows
    from mptrain.sweep.runner import Planned
    from mptrain.sweep.submit import make_submit, submit_all
    from mptrain.sweep.summary import summarise

    plan = make_plan(request.configs, request.axes, common=request.common, output_dir=output_dir)
    hand_over = make_submit(submit, output_dir) if submit is not None else None
    rows = make_rows(plan.runs, look(plan.runs, retry_failed=retry_failed))
    if speaks:
        for notice in plan.notices:
            print(notice)
    if dry_run:
        return _listed(rows, plan.notices, speaks=speaks)
    stopped_by = None
    if hand_over is not None:
        submit_all(rows, hand_over)
        _print_status(rows, speaks=speaks)
    else:
        stopped_by = _run(rows, Planned(rows), slots, stop_on_failure=stop_on_failure, speaks=speaks)
    return summarise(rows, stopped_by, plan.notices)


def _search(
    request: Request,
    slots: Sequence[Slot],
    output_dir: Path,
    *,
    trials: int,
    dry_run: bool,
    stop_on_failure: bool,
    speaks: bool,
) -> dict[str, Any]:
    """Search at every grid point and return the sweep's JSON object, with what was found under `search`."""
    from mptrain.sweep.search import OptunaSearch
    from mptrain.sweep.summary import summarise

    search = OptunaSearch(request, trials, output_dir, writes=not dry_run)
    if dry_run:
        result = _listed(search.rows, (), speaks=speaks)
    else:
        stopped_by = _run(search.rows, search, slots, stop_on_failure=stop_on_failure, speaks=speaks)
        result = summarise(search.rows, stopped_by, total=search.total, tolerated=("diverged",))
    result["search"] = search.findings()
    if speaks:
        for found in result["search"]:
            print(_found(found, trials))
    return result


def _run(
    rows: Sequence[Row], source: Source, slots: Sequence[Slot], *, stop_on_failure: bool, speaks: bool
) -> str | None:
    """Run what waits, in view of the user; return the signal that stopped the sweep."""
    from mptrain.cli.sweep_view import make_view
    from mptrain.sweep.runner import Runner

    view = make_view(speaks=speaks)
    try:
        stopped_by = Runner(rows, source, slots, view, stop_on_failure=stop_on_failure).run()
    finally:
        view.close()
    _print_status(rows, speaks=speaks)
    return stopped_by


def _print_status(rows: Sequence[Row], *, speaks: bool) -> None:
    from mptrain.cli.sweep_view import status_lines

    if speaks:
        print("\n".join(status_lines(rows)))


def _listed(rows: Sequence[Row], notices: Sequence[str], *, speaks: bool) -> dict[str, Any]:
    """Return (and print) what a sweep would run."""
    from mptrain.cli.sweep_view import counts
    from mptrain.sweep.summary import as_dict

    if speaks:
        for row in rows:
            command = shlex.join(["mptrain", *row.run.arguments()])
            print(f"{row.run.number:>4}  {row.found:<9}  {row.run.label}\n      {command}")
        print(counts(rows))
    runs = [as_dict(row) | {"found": row.found, "command": row.run.command()} for row in rows]
    return {"schema": 1, "status": "ok", "exit_code": 0, "error": None, "notices": list(notices), "runs": runs}


def _found(found: dict[str, Any], trials: int) -> str:
    done = ", ".join(f"{count} {state}" for state, count in found["trials"].items()) or "none yet"
    text = f"{found['label']}: {trials} trials: {done}"
    best = found["best"]
    return text if best is None else f"{text}; best {best['metric']} {best['value']:.6g} by {best['label']}"


def _report(result: dict[str, Any], html: Path | None, *, speaks: bool) -> dict[str, Any]:
    """Print the report of a sweep's runs and write it as a page; return what that changes of its result.

    A report that cannot be made fails a sweep that went well, and is no more than a note beside one that did not.
    """
    folders = [Path(run["run_dir"]) for run in result["runs"] if run["exit_code"] is not None]
    folders = [folder for folder in folders if (folder / "config.yaml").is_file()]
    if not folders or not (speaks or html is not None):
        return {}
    from mptrain.cli.report_command import print_report
    from mptrain.report.compare import compare

    try:
        found = compare(folders)
        if html is not None:
            from mptrain.report.html import write_html

            write_html(found, html)
    except MptrainError as error:
        if result["exit_code"] != 0:
            print_error(error)
            return {}
        return {"status": error.status, "exit_code": error.exit_code, "error": str(error)}
    if speaks:
        print()
        print_report(found)
    return {}
