"""A run that waits for its data says so once, with the figures: planted where the wait enters; with a slow loader."""

import time
from dataclasses import replace
from math import inf

import pytest
import torch
from torch.utils.data import Dataset

from mptrain.config.schema import DataConfig
from mptrain.interfaces import BadFiles, DataSpec, DataSplits, InMemory, Streamed, as_it_is
from mptrain.registry import DATASETS
from mptrain.telemetry.throughput import WindowSpeed
from mptrain.trainer.data_watch import DataWatch, LoaderBound
from mptrain.trainer.trainer import Trainer
from tests.trainer.runs import Recorder, build


class Slow(Dataset):
    """64 samples that take their time."""

    def __len__(self):
        return 64

    def __getitem__(self, index):
        time.sleep(0.01)
        return torch.full((8,), float(index)), index % 4


HELD = InMemory(torch.zeros(8, 8), torch.zeros(8, dtype=torch.int64), as_it_is)
INDEXED = replace(HELD, augments=False)


def watch(split=HELD, **options) -> DataWatch:
    return DataWatch(split, DataConfig(name="any", **options), BadFiles("skip"))


def speed(wait: float) -> WindowSpeed:
    return WindowSpeed(samples_per_s=300.0, step_time_ms=10.0, data_wait_fraction=wait)


def test_it_is_said_once_with_what_the_steps_could_do():
    watched = watch(Streamed(Slow()), num_workers=1)
    assert list(watched.news(speed(0.3))) == []
    ((kind, message, data),) = watched.news(speed(0.75))
    assert kind == "loader_bound"
    assert data == {"data_wait_fraction": 0.75, "samples_per_s": 300.0, "samples_per_s_without_wait": 1200.0}
    assert "waiting for data takes 75% of the time: 300 samples/s, 1,200 if data were free" in message
    assert "a lower precision will not help; raise data.num_workers (now 1; " in message
    assert list(watched.news(speed(0.9))) == []
    assert watched.loader_bound == LoaderBound(0.75, 300.0, 1200.0)


def test_nothing_but_waiting():
    watched = watch()
    assert len(list(watched.news(speed(1.0)))) == 1
    assert watched.loader_bound.samples_per_s_without_wait == inf


@pytest.mark.parametrize(
    ("split", "options", "remedy"),
    [
        (INDEXED, {"cache": "none"}, "set data.cache=auto, or raise data.num_workers (now 0; "),
        (HELD, {}, "use less augmentation, or a larger data.batch_size"),
        (Streamed(Slow()), {"num_workers": 3}, "raise data.num_workers (now 3; "),
    ],
)
def test_the_remedy_suits_the_data(split, options, remedy):
    ((_, message, _),) = watch(split, **options).news(speed(0.5))
    assert remedy in message


def waiting_run(changes=None) -> Trainer:
    """Train on data that take 80 ms a batch, where a step takes about one."""

    def slow(config, seed):
        return DataSplits(DataSpec((8,), 4), Streamed(Slow()), Streamed(Slow()))

    DATASETS.register("slow", config=DataConfig, description="for tests")(slow)
    try:
        run = build(
            {"data": {"name": "slow", "batch_size": 8}, "train": {"max_steps": 8}, "log": {"every": 2}}
            | (changes or {})
        )
    finally:
        del DATASETS._entries["slow"]
    made = Trainer(run, Recorder())
    made.fit()
    return made


def test_a_real_loader_that_sets_the_pace():
    made = waiting_run()
    (event,) = [event for event in made.reporter.events if event.kind == "loader_bound"]
    # The first three steps are warm-up; the window that ends with step 4 is the first that counts.
    assert event.attempted_step >= 4
    assert event.data["data_wait_fraction"] > 0.3
    assert made.data_watch.loader_bound is not None


def test_an_emulated_run_claims_no_speed():
    made = waiting_run({"precision": {"mode": "fp16", "backend": "emulated"}})
    assert "loader_bound" not in made.reporter.kinds()
    assert made.data_watch.loader_bound is None


def test_data_that_are_only_indexed_have_no_loader_to_blame():
    assert list(watch(INDEXED).news(speed(0.9))) == []
    assert len(list(watch(INDEXED, cache="none").news(speed(0.9)))) == 1
