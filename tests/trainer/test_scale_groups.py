"""Groups of loss scales in whole runs."""

import pytest

from mptrain import checkpoint as checkpoints
from mptrain.checkpoint import CheckpointStore
from mptrain.errors import ConfigError, Preempted
from tests.trainer.runs import fitted, merged, same, trainer, weights

# The MLP's layers are 0 (linear), 1 (ReLU), 2 (linear).
GROUPS = [{"match": "type:Linear", "init_scale": 2.0**22}]


def run_of(mode, **scaling):
    return {
        "precision": {"mode": mode, "loss_scale": {"kind": "dynamic", "groups": GROUPS, **scaling}},
        "train": {"clip_norm": 1.0, "accumulate": 2},
        "optimizer": {"name": "sgd", "lr": 0.05},
    }


def test_in_fp32_groups_change_no_bit():
    plain = fitted(merged(run_of("fp32"), {"precision": {"loss_scale": {"groups": []}}}))
    grouped = fitted(run_of("fp32"))
    assert same(weights(plain.run), weights(grouped.run))
    assert grouped.run.parts.scaler.current_group_scales() == {"type:Linear": 2.0**22}


@pytest.mark.parametrize("on_skip", ["drop", "retry", "count"])
@pytest.mark.parametrize("mode", ["fp16", "fp16-master"])
def test_a_group_s_overflows_skip_and_a_cut_run_goes_on_with_its_scales(on_skip, mode, tmp_path):
    changes = run_of(mode, on_skip=on_skip, growth_interval=5)
    whole = fitted(changes)
    assert whole.ledger.counts.skipped > 2
    store = CheckpointStore(tmp_path / "checkpoints")
    with pytest.raises(Preempted):
        trainer(merged(changes, {"debug": {"plant": [{"what": "sigterm", "at": 9}]}}), store).fit()
    resumed = trainer(changes, store)
    resumed.restore(checkpoints.load(store.latest().path))
    resumed.fit()
    assert same(weights(whole.run), weights(resumed.run))
    ours, theirs = (t.run.parts.scaler.current_group_scales() for t in (whole, resumed))
    assert ours == theirs
    assert ours["type:Linear"] < 2.0**22
    assert whole.ledger.counts == resumed.ledger.counts


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "bf16", "loss_scale": {"on_skip": "retry"}}, r"on_skip: 'retry' needs a loss scale that can move"),
        ({"mode": "bf16", "loss_scale": {"groups": GROUPS}}, r"groups: this precision has no loss scale"),
        (
            {"mode": "fp16", "loss_scale": {"groups": [{"match": "nowhere"}]}},
            r"groups\[0\]: 'nowhere' matches no module",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_first_step(changes, message):
    with pytest.raises(ConfigError, match=message):
        trainer({"precision": changes})
