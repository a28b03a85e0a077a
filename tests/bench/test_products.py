"""Operations of a step against sums made by hand, and the largest size that fits against a memory made up."""

import pytest
import torch

from mptrain.bench.memory import available_bytes, largest_micro_batch, repeated, search
from mptrain.bench.modes import choose
from mptrain.bench.products import count_products
from mptrain.bench.rates import matrix_rate, product_rate
from mptrain.bench.stand import Stand
from mptrain.interfaces import Batch
from mptrain.registry import MODELS
from tests.trainer.runs import config, registered

CPU = torch.device("cpu")


def counted(changes):
    made = config(changes)
    return count_products(Stand(made), choose(made, CPU, "fp32")[0][0])


def test_an_mlp_has_three_products_a_layer_less_the_gradient_of_the_data():
    # 8 -> 16 -> 4, 8 samples: forward 2mnk each; backward weight and input, no input gradient for the first layer
    forward = 2 * 8 * (8 * 16 + 16 * 4)
    backward = 2 * 8 * (8 * 16) + 2 * (2 * 8 * 16 * 4)
    found = counted({})
    assert found.flops == forward + backward
    assert found.uncounted == ()
    assert found.heaviest.line() == "addmm 8x8x16"
    assert found.heaviest.flops == 2 * 8 * 8 * 16


def test_accumulated_micro_batches_count_each_and_the_optimizer_not_at_all():
    assert counted({"train": {"accumulate": 3, "max_steps": 20}}).flops == 3 * counted({}).flops


def test_a_grouped_convolution_counts_its_groups_only():
    def build(config, spec):
        return torch.nn.Sequential(
            torch.nn.Conv2d(4, 8, 3, padding=1, groups=4), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(8, spec.num_outputs),
        )  # fmt: skip

    with registered("grouped", build):
        found = counted({"model": {"name": "grouped"}, "data": {"input_shape": [4, 6, 6]}})
    convolution, linear = 2 * 8 * 36 * (8 * 1 * 9), 2 * 8 * 8 * 4
    assert found.flops == 2 * convolution + 3 * linear  # no gradient of the images
    assert found.heaviest.line() == "convolution 8x4x6x6 by 8x1x3x3"


def test_attention_on_a_cpu_is_counted():
    gpt = {
        "model": {"name": "gpt", "width": 16, "depth": 1, "heads": 2},
        "data": {"name": "shakespeare", "context": 8, "batch_size": 4},
        "task": "language_modelling",
        "train": {"max_steps": 2},
    }
    made = config(gpt)
    stand = Stand(made)
    found = count_products(stand, choose(made, CPU, "fp32")[0][0])
    vocabulary = stand.run.spec.num_outputs
    rows, width = 4 * 8, 16
    layers = 3 * 2 * rows * (width * 3 * width + width * width + 2 * width * 4 * width + width * vocabulary)
    forward_attention = 2 * (2 * 4 * 2 * 8 * 8 * 8)
    # FlopCounterMode's convention: the flash backward recomputes the scores, so 2.5 times the forward
    assert found.flops == layers + forward_attention + 2.5 * forward_attention


def test_what_has_no_formula_leaves_the_count_unknown():
    def build(config, spec):
        class Net(torch.nn.Module):
            def __init__(self):
                super().__init__()
                self.lstm, self.head = torch.nn.LSTM(8, 8, batch_first=True), torch.nn.Linear(8, spec.num_outputs)

            def forward(self, x):
                return self.head(self.lstm(x[:, None])[0][:, 0])

        return Net()

    with registered("recurrent", build):
        found = counted({"model": {"name": "recurrent"}})
    assert found.flops is None
    assert any("rnn" in name for name in found.uncounted)
    assert "recurrent" not in [entry.name for entry in MODELS]


def test_rates_are_those_of_the_clock():
    rate = matrix_rate("fp32", CPU)
    assert 1e8 < rate.flops_per_s < 1e14
    product = counted({}).heaviest
    assert 0 < product_rate(product, "bf16", CPU) < 1e14


@pytest.mark.parametrize("limit", [1, 7, 64, 100, 12345])
@pytest.mark.parametrize("start", [1, 64, 500])
def test_the_search_finds_what_fits_to_one_part_in_sixteen(limit, start):
    tried = []

    def fits(size):
        tried.append(size)
        return size <= limit

    found = search(fits, start).samples
    assert found <= limit < found + max(1, found // 16) + 1
    assert len(tried) < 30


def test_the_search_tells_what_else_ended_it_and_where_it_stopped_asking():
    assert "32-bit" in search(lambda size: size <= 100 or "32-bit index", 8).how
    assert search(lambda size: True, 8, most=64).samples == 64
    assert search(lambda size: False, 8).samples == 0


def test_on_a_cpu_the_plan_says_what_fits_and_nothing_is_allocated(monkeypatch):
    made = config({"model": {"name": "mlp", "hidden": [64]}})
    stand, contestant = Stand(made), choose(made, CPU, "fp32")[0][0]
    monkeypatch.setattr("mptrain.bench.memory.available_bytes", lambda: 10**7)
    small = largest_micro_batch(stand, contestant, 0)
    assert "plan" in small.how
    monkeypatch.setattr("mptrain.bench.memory.available_bytes", lambda: 10**12)
    large = largest_micro_batch(stand, contestant, 0)
    assert large.samples / small.samples == pytest.approx(10**5, rel=0.01)
    assert largest_micro_batch(stand, contestant, 10**12).samples == 0


def test_free_memory_is_known_here():
    assert 10**6 < available_bytes() < 10**14


def test_a_repeated_batch_keeps_samples_together_and_its_layout():
    images = torch.arange(2 * 3 * 2 * 2.0).reshape(2, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    made = repeated(Batch(images, torch.tensor([5, 6])), 5)
    assert made.targets.tolist() == [5, 6, 5, 6, 5]
    assert torch.equal(made.inputs[4], images[0])
    assert made.inputs.is_contiguous(memory_format=torch.channels_last)
