"""`mptrain bench` on a GPU: times by events, peaks of one mode alone, kernels by kind, memory that really runs out."""

import pytest
import torch

from mptrain.bench.measure import bench
from mptrain.bench.memory import largest_micro_batch
from mptrain.bench.modes import choose
from mptrain.bench.shares import measure_shares
from mptrain.bench.stand import Stand
from mptrain.bench.timing import Settings, run_rounds, time_steps
from mptrain.config.schema import RunConfig
from tests.trainer.runs import config

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU that torch can use"),
]

QUICK = Settings(repeats=2, seconds=1.0, steps=5)


def large() -> RunConfig:
    """A model whose products fill a GPU for milliseconds."""
    return config(
        {
            "device": "cuda",
            "model": {"name": "mlp", "hidden": [4096, 4096]},
            "data": {"name": "synthetic", "input_shape": [1024], "num_outputs": 16, "num_train": 4096, "num_test": 16,
                     "batch_size": 2048},
        }
    )  # fmt: skip


def test_times_are_those_of_the_device():
    device = torch.device("cuda:0")
    left = torch.randn(8192, 8192, device=device)
    took = time_steps(lambda: left @ left, 5, device)
    assert len(took) == 5
    assert min(took) > 1  # 1.1e12 operations in FP32 take no GPU less; a launch alone takes microseconds


def test_a_whole_bench():
    found = bench(large(), "fp32,tf32,bf16", QUICK, max_batch=False, say=lambda text: None)
    assert found["exit_code"] == 0
    fp32, tf32, bf16 = found["modes"]
    for mode in (fp32, tf32, bf16):
        assert mode["status"] == "ok"
        assert mode["memory"]["peak_bytes"] > mode["memory"]["held"]["total"]
        assert 0 < mode["mfu"] <= 1.1
        shares = mode["shares"]
        assert shares["forward"] + shares["backward"] + shares["optimizer"] == pytest.approx(1)
        assert 0.3 < shares["products"] <= 1
        assert 0.3 < shares["device_busy"] <= 1
    assert found["rates"]["flops_per_s"]["bf16"] > found["rates"]["flops_per_s"]["fp32"]
    assert bf16["speed_up"]["min"] > 1
    assert bf16["shares"]["casts"] > 0 == fp32["shares"]["casts"]


def test_tf32_of_one_mode_is_not_another_s():
    stand = Stand(large())
    contestants, _ = choose(stand.config, stand.device, "fp32,tf32")
    found, _ = run_rounds(stand, contestants, QUICK, lambda text: None)
    assert "fp32" in found[0].line
    with stand.built(contestants[0]):
        assert torch.get_float32_matmul_precision() == "highest"
    with stand.built(contestants[1]):
        assert torch.get_float32_matmul_precision() == "high"


def test_the_largest_micro_batch_is_found_by_running_out_and_gives_all_back():
    stand = Stand(large())
    contestants, _ = choose(stand.config, stand.device, "fp32")
    total = torch.cuda.get_device_properties(0).total_memory
    before = torch.cuda.memory_allocated()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 4 * 2**30 / total))
    try:
        found = largest_micro_batch(stand, contestants[0], 0)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert found.samples >= 2048
    assert "memory ran out" in found.how
    assert torch.cuda.memory_allocated() == before


def test_shares_of_a_compiled_step_leave_out_what_cannot_be_told():
    made = large().model_copy(update={"train": large().train.model_copy(update={"compile": True})})
    stand = Stand(made)
    contestants, _ = choose(made, stand.device, "fp32")
    shares = measure_shares(stand, contestants[0], 0.01)
    assert shares.casts is shares.products is shares.device_busy is None
