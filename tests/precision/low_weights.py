"""A small model stored low, with everything that a step of it takes, for the tests of weights and their optimizer."""

import copy
import io
import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional

from mptrain.config.precision import LossScaleConfig
from mptrain.interfaces import SkippingOptimizer
from mptrain.optim.build import build_optimizer, restore_optimizer
from mptrain.precision.loss_scaler import LossScaler
from mptrain.precision.scalers import make_scaler
from mptrain.precision.weights import WeightStore, make_weight_store

LOW = {"fp16": torch.float16, "bf16": torch.bfloat16}
STORES = [("master", "nearest"), ("pure", "nearest"), ("pure", "stochastic"), ("pure", "kahan")]
OPTIMIZERS = {
    "SGD": {"momentum": 0.9, "nesterov": True},
    "AdamW": {"betas": (0.9, 0.95), "eps": 1e-6},
    "Adagrad": {},
    "NAdam": {},  # no fused form; keeps a product beside its moments
}


class Small(nn.Module):
    """A convolution, a norm that stays FP32, tied linear layers, a 0-d weight, and one that never gets a gradient."""

    def __init__(self, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.tied, self.head = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 4)
        self.factor, self.unused = nn.Parameter(torch.ones(())), nn.Parameter(torch.ones(5))
        if dtype is not None:
            for name, param in self.named_parameters():
                param.data = param.data if name.startswith("norm") else param.data.to(dtype)
        self.tied.weight = self.first.weight

    def forward(self, inputs):
        hidden = torch.relu(self.norm(self.conv(inputs))).mean((2, 3))
        return self.head(torch.relu(self.tied(torch.relu(self.first(hidden))))) * self.factor


@dataclass
class Setup:
    """What one run works on."""

    model: nn.Module
    store: WeightStore
    optimizer: SkippingOptimizer
    scaler: LossScaler
    dtype: torch.dtype | None

    def backward(self, step: int, *, factor: float = 1.0) -> None:
        """Fill the gradients of one micro-batch, drawn for `step`."""
        generator = torch.Generator().manual_seed(step)
        inputs, targets = (
            torch.randn(16, 3, 5, 5, generator=generator),
            torch.randint(4, (16,), generator=generator),
        )
        with torch.autocast("cpu", self.dtype, enabled=self.dtype is not None, cache_enabled=False):
            loss = functional.cross_entropy(self.model(inputs).float(), targets) * factor
        self.scaler.outcome.loss.copy_(loss.detach())
        self.scaler.scale(loss).backward()

    def step(self, step: int, *, micro_batches: int = 1, clip: float | None = None, spoil: bool = False) -> None:
        """Do what the trainer's step does."""
        for param in self.model.parameters():
            param.grad = None
        for index in range(micro_batches):
            self.backward(step * micro_batches + index, factor=1 / micro_batches)
            if spoil:
                self.model.head.weight.grad[0, 0] = math.inf
            self.store.collect_gradients(first=index == 0)
        self.finish(clip=clip)

    def finish(self, *, clip: float | None = None) -> None:
        """Step on the gradients there are."""
        self.scaler.unscale_()
        if clip is not None:
            self.scaler.clip_norm_(clip)
        self.optimizer.step()
        self.scaler.update()

    def saved(self) -> dict:
        """Return what a checkpoint holds, written and read."""
        state = {
            "model": self.store.model_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "weights": self.store.state_dict(),
            "scaler": self.scaler.state_dict(),
        }
        file = io.BytesIO()
        torch.save(state, file)
        file.seek(0)
        return torch.load(file, weights_only=True)

    def load(self, state: dict, *, scaler: bool = True) -> None:
        """Go on from a checkpoint."""
        self.store.load_model_state(self.model, state["model"])
        restore_optimizer(self.optimizer, state["optimizer"])
        self.store.load_state_dict(state["weights"])
        if scaler:
            self.scaler.load_state_dict(state["scaler"])

    def numbers(self) -> dict[str, torch.Tensor]:
        """Return a copy of every number that a step may change."""
        found = {f"best {name}": self.store.best(p) for name, p in self.model.named_parameters()}
        found |= dict(self.model.named_parameters())
        for index, entries in self.optimizer.state_dict()["state"].items():
            found |= {f"{key} {index}": value for key, value in entries.items()}
        found |= {f"left {name}": left for name, left in self.store.state_dict().get("compensation", {}).items()}
        return {name: copy.deepcopy(value.detach()) for name, value in found.items()}


def setup(
    kind: str = "master",
    rounding: str = "nearest",
    *,
    low: str = "bf16",
    optimizer: str = "AdamW",
    lr: float = 0.01,
    accumulate: int = 1,
    model: nn.Module | None = None,
) -> Setup:
    """Return a run of `Small` (or `model`, already low) with the loss scaled dynamically from 1024."""
    torch.manual_seed(0)
    dtype = None if kind == "fp32" else LOW[low]
    model = (Small(dtype) if model is None else model).to(memory_format=torch.channels_last)
    stored_low = {name: p for name, p in model.named_parameters() if p.dtype in LOW.values()}
    store = make_weight_store(kind, rounding, stored_low, accumulate=accumulate, seed=3)
    rate = torch.tensor(lr, dtype=torch.float64)
    groups = [
        {"params": [store.optimized(p) for p in model.parameters() if p.ndim >= 2], "weight_decay": 0.01},
        {"params": [store.optimized(p) for p in model.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    built = build_optimizer(optimizer, groups, rate, OPTIMIZERS[optimizer])
    scaler = make_scaler("dynamic", LossScaleConfig(init_scale=1024.0), list(model.parameters()), torch.device("cpu"))
    return Setup(model, store, store.wrap(built, scaler), scaler, dtype)


def same_bits(mine: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of what differs in name, dtype or any bit."""
    assert mine.keys() == other.keys()
    return [name for name, value in mine.items() if bits(value) != bits(other[name])]


def bits(value: torch.Tensor) -> tuple[torch.dtype, bytes]:
    """Return a tensor's dtype and bytes: -0 is not 0, and NaN is itself."""
    return value.dtype, value.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
