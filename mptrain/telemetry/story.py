"""What a console says of a run, in words: the same for the live view and for plain lines.

Owns: the wording, the order, and the time left. Must not: print, know about terminals, or use colours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mptrain.telemetry import human
from mptrain.telemetry.records import Evaluation, Event, Numerics, Progress, RunInfo

LOUD_EVENTS = frozenset(
    {"overflow", "nonfinite_loss", "planted", "warning", "bad_file", "loader_bound", "save_failed", "killed"}
)
"""Something is wrong, or made to look so; every other kind is a note."""
FILE_ONLY_EVENTS = frozenset({"scale_change", "numerics", "changed"})
"""Seen in the figures or among the notices anyway; a console would repeat itself."""
WIDE_FORMATS = frozenset({"fp64", "fp32", "tf32", "bf16"})
"""Formats with FP32's range or more: gradients hardly ever reach its ends, so a console does not speak of them."""

Row = tuple[str, str]
"""A label and its text."""


class TimeLeft:
    """Estimates the time to the end from the pace since the first record, so that start-up does not distort it."""

    def __init__(self, total_steps: int) -> None:
        self._total = total_steps
        self._first: Progress | None = None

    def seconds(self, progress: Progress) -> float | None:
        """Return the seconds left, evaluations and saves included; None while there is no pace yet."""
        left = max(0, self._total - progress.steps_done)
        if self._first is None:
            self._first = progress
        done = progress.steps_done - self._first.steps_done
        if done > 0:
            return left * (progress.wall_s - self._first.wall_s) / done
        return None if progress.step_time_ms is None else left * progress.step_time_ms / 1e3


def banner(info: RunInfo) -> list[Row]:
    """Return what is said before the first step."""
    resumed = f", resumed at step {info.first_step}" if info.first_step else ""
    rows = [
        ("run", f"{info.name}/{info.run_id}"),
        ("device", info.device),
        ("precision", info.precision),
        ("model", info.model),
        ("data", info.data),
        ("length", f"{info.total_steps} steps, {info.steps_per_epoch} per epoch{resumed}"),
        ("files", info.run_dir),
    ]
    return [(label, human.one_line(text)) for label, text in rows]


def alarms(info: RunInfo) -> list[Row]:
    """Return what nobody may overlook: planted faults, emulation, notices."""
    rows = [("PLANTED FAULT", f"{fault} (a drill, not a result)") for fault in info.planted]
    if info.emulated:
        rows.append(("EMULATED", "the arithmetic is real, the speed is not: claim none"))
    rows += [("NOTICE", notice) for notice in info.notices]
    return [(label, human.one_line(text)) for label, text in rows]


def epoch_position(info: RunInfo, progress: Progress) -> tuple[int, int, int]:
    """Return (epoch from 1, number of epochs, steps done in it); an epoch just ended is still that epoch."""
    epoch, step = progress.epoch + 1, progress.epoch_step
    if step == 0 and epoch > 1:
        epoch, step = epoch - 1, info.steps_per_epoch
    # Skipped steps are made up at the end, which can take the run into one more epoch than planned.
    return epoch, max(epoch, -(-info.total_steps // info.steps_per_epoch)), step


def skipped(progress: Progress) -> str:
    """Return e.g. `0` or `3 (last at 120)`."""
    if progress.last_skipped_step is None:
        return str(progress.skipped_steps)
    return f"{progress.skipped_steps} (last at {progress.last_skipped_step})"


def window(info: RunInfo, progress: Progress, seconds_left: float | None) -> str:
    """Return one line on the state of training; what this run never has (a loss scale, a norm) is left out."""
    epoch, epochs, _ = epoch_position(info, progress)
    parts = [
        f"epoch {epoch}/{epochs}",
        f"step {progress.steps_done}/{info.total_steps}",
        f"loss {human.number(progress.loss)}",
        f"lr {human.number(progress.lr)}",
    ]
    if progress.loss_scale is not None:
        parts.append(f"scale {human.scale(progress.loss_scale)}")
    parts.append(f"skipped {skipped(progress)}")
    if progress.grad_norm is not None:
        parts.append(f"gnorm {human.norm(progress.grad_norm)}")
    if progress.numerics is not None:
        parts += [f"{label} {text}" for label, text in numerics(progress.numerics)]
    parts.append(human.speed(progress.samples_per_s, emulated=info.emulated))
    parts.append(f"wait {human.percent(progress.data_wait_fraction)}")
    if progress.peak_memory_bytes is not None:
        parts.append(f"mem {human.size(progress.peak_memory_bytes)}")
    parts.append(f"eta {human.duration(seconds_left)}")
    return "  ".join(parts)


def numerics(sample: Numerics) -> list[Row]:
    """Return what a console says of the newest sample of gradients; what cannot happen in this format is left out."""
    rows = []
    if sample.format not in WIDE_FORMATS:
        rows.append(("subnormal", human.share(sample.below_normal_share)))
        rows.append(("headroom", human.power_of_two(sample.headroom)))
    if sample.underflow_share is not None:
        rows.append(("underflow", human.share(sample.underflow_share)))
    if sample.lost_update_share is not None:
        rows.append(("updates", f"{human.share(sample.lost_update_share)} lost"))
    return rows


def metrics(values: Mapping[str, float], main_metric: str | None) -> str:
    """Return e.g. `accuracy 0.8875  loss 0.3300`, the main metric first."""
    names = sorted(values, key=lambda name: name != main_metric)  # stable: the others keep their order
    return "  ".join(f"{name} {human.number(values[name])}" for name in names)


def evaluated(evaluation: Evaluation) -> str:
    """Return one line on an evaluation."""
    text = metrics(evaluation.metrics, evaluation.main_metric)
    best = "  best" if evaluation.improved else ""
    return human.one_line(f"step {evaluation.applied_steps}  {text}{best}  {evaluation.seconds:.1f} s")


def event(event: Event) -> str:
    """Return one line on an event."""
    return human.one_line(f"{event.kind} at step {event.attempted_step}: {event.message}")


def summary(info: RunInfo, result: Mapping[str, Any], last: Progress | None, main_metric: str | None) -> list[Row]:
    """Return what is said at the end; a run that failed early has no figures, and no rows for them."""
    status = result["status"]
    rows = [("status", status if status == "ok" else f"{status} (exit code {result['exit_code']})")]
    if result.get("metrics"):
        rows.append(("metrics", metrics(result["metrics"], main_metric)))
    if result.get("train_loss") is not None:
        rows.append(("train loss", human.number(result["train_loss"])))
    rows += _task_summary(result.get("summary") or {})
    rows.append(("steps", _steps(info, result, last)))
    left_out = (result.get("skipped_files") or {}).get("count", 0)
    if left_out:
        rows.append(("skipped files", f"{left_out} (see bad_file in events.jsonl)"))
    rows.append(("time", human.duration(result.get("wall_s"))))
    rows.append(("speed", _speed(info, result)))
    if result.get("peak_memory_bytes") is not None:
        rows.append(("peak memory", human.size(result["peak_memory_bytes"])))
    if info.planted:
        rows.append(("planted", ", ".join(info.planted)))
    rows.append(("result", f"{info.run_dir}/result.json"))
    return [(label, human.one_line(text)) for label, text in rows]


def _task_summary(summary: Mapping[str, Any]) -> list[Row]:
    """Return a row for each thing the task found worth saying, with enough digits to tell precisions apart."""
    return [(name.replace("_", " "), _digits(value)) for name, value in summary.items()]


def _digits(value: Any) -> str:
    if isinstance(value, Mapping):
        return "  ".join(f"{name} {_digits(item)}" for name, item in value.items())
    if isinstance(value, list | tuple):
        return " ".join(_digits(item) for item in value)
    return f"{value:.8g}" if isinstance(value, float) else str(value)


def _steps(info: RunInfo, result: Mapping[str, Any], last: Progress | None) -> str:
    text = f"{result.get('applied_steps', 0)} of {info.total_steps}, {result.get('skipped_steps', 0)} skipped"
    if last is not None and last.last_skipped_step is not None:
        text += f" (last at {last.last_skipped_step})"
    if result.get("final_loss_scale") is not None:
        text += f", loss scale {human.scale(result['final_loss_scale'])}"
    return text


def _speed(info: RunInfo, result: Mapping[str, Any]) -> str:
    parts = [human.speed(result.get("samples_per_s"), emulated=info.emulated)]
    tokens_per_s = result.get("tokens_per_s")
    if tokens_per_s is not None:
        parts.append(f"{tokens_per_s:,.0f} tokens/s")
    step_time = result.get("step_time_ms")
    if step_time and step_time["median"] is not None:
        median, p90 = (human.milliseconds(step_time[key], emulated=info.emulated) for key in ("median", "p90"))
        parts.append(f"step {median} median, {p90} p90")
    if result.get("data_wait_fraction") is not None:
        parts.append(f"data wait {human.percent(result['data_wait_fraction'])}")
    return ", ".join(parts)
