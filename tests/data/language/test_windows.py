"""Windows: every test token predicted once, training windows where the seed says, ids checked as they are read."""

import pickle

import numpy as np
import pytest
import torch

from mptrain.data.language.configs import LanguageConfig
from mptrain.data.language.windows import EvalWindows, Tokens, TrainWindows
from mptrain.data.loading import make_eval_loader, make_train_loader
from mptrain.errors import DataError
from mptrain.interfaces import IGNORED_TOKEN, Streamed

CPU = torch.device("cpu")
CONTEXT = 8


def row(count):
    return Tokens(np.arange(count, dtype=np.uint16), 1000, "a row")


@pytest.mark.parametrize("count", [2, 8, 9, 10, 17, 30])
def test_every_token_but_the_first_is_a_target_once(count):
    loader = make_eval_loader(
        Streamed(EvalWindows(row(count), CONTEXT)), LanguageConfig(name="x", batch_size=3), device=CPU
    )
    targets = torch.cat([batch.targets.flatten() for batch in loader])
    inputs = torch.cat([batch.inputs.flatten() for batch in loader])
    kept = targets != IGNORED_TOKEN
    assert targets[kept].tolist() == list(range(1, count))
    assert inputs[kept].tolist() == list(range(count - 1))
    assert not inputs[~kept].any()


def epoch(number, *, workers=0, seed=0, start=0):
    config = LanguageConfig(name="x", batch_size=4, num_workers=workers)
    loader = make_train_loader(Streamed(TrainWindows(row(300), CONTEXT)), config, seed=seed, device=CPU)
    return list(loader.epoch(number, start))


def test_training_windows_begin_at_another_phase_each_epoch():
    first, second = (torch.cat([batch.inputs[:, 0] for batch in epoch(number)]) for number in (0, 1))
    for starts in (first, second):
        assert (starts % CONTEXT).unique().numel() > CONTEXT // 2
        # One window of each stretch; the last incomplete batch is dropped.
        assert (starts // CONTEXT).unique().numel() > 25
    assert not torch.equal(first.sort().values, second.sort().values)
    for batch in epoch(0):
        assert torch.equal(batch.inputs + 1, batch.targets)
        assert torch.equal(batch.inputs, batch.inputs[:, :1] + torch.arange(CONTEXT))


@pytest.mark.parametrize("workers", [0, 1])
def test_windows_depend_on_seed_epoch_and_position_only(workers):
    whole, again = epoch(3), epoch(3, workers=workers, start=2)
    assert all(torch.equal(a.inputs, b.inputs) for a, b in zip(whole[2:], again, strict=True))
    assert not torch.equal(whole[0].inputs, epoch(3, seed=1)[0].inputs)


def test_the_last_training_window_ends_with_the_row():
    windows = TrainWindows(row(CONTEXT * 3 + 1), CONTEXT)
    ends = {int(windows[2][1][-1]) for _ in range(20)}
    assert len(windows) == 3
    assert ends == {CONTEXT * 3}


def test_a_token_outside_the_vocabulary_is_named():
    ids = np.zeros(50, np.int32)
    ids[37] = -1
    with pytest.raises(DataError, match=r"a row: token 37 is -1, but data.vocab_size is 10"):
        EvalWindows(Tokens(ids, 10, "a row"), CONTEXT)[4]
    ids[37] = 10
    with pytest.raises(DataError, match="token 37 is 10"):
        EvalWindows(Tokens(ids, 10, "a row"), CONTEXT)[4]
    EvalWindows(Tokens(ids, 11, "a row"), CONTEXT)[4]


def test_a_mapped_file_travels_by_its_name(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.arange(100_000, dtype=np.uint32))
    tokens = Tokens(np.load(path, mmap_mode="r"), 100_000, "tokens.npy")
    sent = pickle.dumps(tokens)
    assert len(sent) < 2000
    assert pickle.loads(sent)[99_990:99_995].tolist() == list(range(99_990, 99_995))
    assert pickle.loads(sent).checksum() == tokens.checksum()
