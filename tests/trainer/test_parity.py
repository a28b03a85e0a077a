"""The Trainer ends with the bits of a plain torch loop, so the wrapper adds nothing to the arithmetic."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tests.trainer.runs import build, fitted, same, trainer, weights

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"momentum": 0.9}),
    "adam": (torch.optim.Adam, {}),
    "adamw": (torch.optim.AdamW, {"weight_decay": 0.0}),
    "adagrad": (torch.optim.Adagrad, {}),
}


def plain_loop(changes, *, dtype=None, clip=None, accumulate=1, steps=20):
    """The 15 lines a user would write, over the same batches; returns the final state."""
    run = build(changes)
    model = run.parts.model
    cls, arguments = OPTIMIZERS[run.config.optimizer.name]
    optimizer = cls(model.parameters(), lr=run.config.optimizer.lr, fused=True, **arguments)
    scaler = torch.amp.GradScaler("cpu", enabled=dtype is torch.float16)
    done, epoch = 0, 0
    while done < steps:
        batches = list(run.train_loader.epoch(epoch))
        epoch += 1
        for start in range(0, len(batches), accumulate):
            window = batches[start : start + accumulate]
            optimizer.zero_grad()
            for batch in window:
                with torch.autocast("cpu", dtype=dtype, enabled=dtype is not None, cache_enabled=False):
                    loss = functional.cross_entropy(model(batch.inputs).float(), batch.targets)
                scaler.scale(loss / len(window) if len(window) > 1 else loss).backward()
            scaler.unscale_(optimizer)
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            scaler.step(optimizer)
            scaler.update()
            done += 1
            if done == steps:
                break
    return [value.detach().clone() for value in model.state_dict().values()]


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("bf16", torch.bfloat16), ("fp16", torch.float16)])
def test_same_bits_as_a_plain_loop(optimizer, mode, dtype):
    changes = {"optimizer": {"name": optimizer, "lr": 0.01}, "precision": {"mode": mode}}
    assert same(weights(fitted(changes).run), plain_loop(changes, dtype=dtype))


@pytest.mark.parametrize(("mode", "dtype"), [("fp32", None), ("fp16", torch.float16)])
def test_same_bits_with_clipping(mode, dtype):
    changes = {"train": {"clip_norm": 0.1}, "precision": {"mode": mode}}
    assert same(weights(fitted(changes).run), plain_loop(changes, dtype=dtype, clip=0.1))


def test_same_bits_with_accumulation():
    changes = {"train": {"accumulate": 4}}
    assert same(weights(fitted(changes).run), plain_loop(changes, accumulate=4))


def test_accumulated_micro_batches_give_the_gradient_of_the_large_batch():
    small = {"data": {"batch_size": 8}, "train": {"accumulate": 4, "max_steps": 3}, "optimizer": {"name": "sgd"}}
    large = {"data": {"batch_size": 32}, "train": {"max_steps": 3}, "optimizer": {"name": "sgd"}}
    for mine, reference in zip(weights(fitted(small).run), weights(fitted(large).run), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


def test_a_short_last_window_is_the_mean_over_its_own_samples():
    # 10 micro-batches, windows of 4: two full windows and one of 2, whose gradient must be the mean of 2.
    changes = {
        "data": {"num_train": 80, "batch_size": 8},
        "train": {"epochs": 1, "max_steps": None, "accumulate": 4},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    }
    made = fitted(changes)
    assert made.ledger.counts.applied == 3
    run = build(changes)
    model, batches = run.parts.model, list(run.train_loader.epoch(0))
    for window in (batches[:4], batches[4:8], batches[8:]):
        inputs = torch.cat([batch.inputs for batch in window])
        targets = torch.cat([batch.targets for batch in window])
        model.zero_grad()
        functional.cross_entropy(model(inputs), targets).backward()
        with torch.no_grad():
            for param in model.parameters():
                param -= 0.1 * param.grad
    for mine, reference in zip(weights(made.run), weights(run), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-7)


def test_a_short_last_micro_batch_weighs_by_its_samples():
    # 20 samples in micro-batches of 8, 8, 4 in one window: the mean over 20 samples, not over 3 means.
    changes = {
        "data": {"num_train": 20, "batch_size": 8, "drop_last": False},
        "train": {"max_steps": 1, "accumulate": 3},
        "optimizer": {"name": "sgd", "lr": 0.1, "momentum": 0.0},
    }
    whole = {**changes, "data": {"num_train": 20, "batch_size": 20}, "train": {"max_steps": 1}}
    for mine, reference in zip(weights(fitted(changes).run), weights(fitted(whole).run), strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("mode", ["fp32", "bf16", "fp16"])
def test_weights_gradients_and_moments_stay_fp32(mode):
    run = fitted({"precision": {"mode": mode}}).run
    optimizer_state = run.parts.optimizer.state_dict()["state"].values()
    tensors = [*run.parts.model.parameters(), *(p.grad for p in run.parts.model.parameters())]
    tensors += [value for state in optimizer_state for value in state.values()]
    assert {t.dtype for t in tensors} == {torch.float32}


def test_the_same_initial_weights_in_every_precision():
    first = weights(build({"precision": {"mode": "fp32"}}))
    assert same(first, weights(build({"precision": {"mode": "bf16"}})))
    assert same(first, [w.float() for w in weights(build({"precision": {"mode": "fp64"}}))])


def test_autocast_covers_forward_and_loss_only():
    made = trainer({"precision": {"mode": "bf16"}})
    parts, seen = made.run.parts, {}

    def note(where):
        seen.setdefault(where, torch.is_autocast_enabled("cpu"))

    parts.model.register_forward_hook(lambda *_: note("forward"))
    next(parts.model.parameters()).register_hook(lambda _: note("backward"))
    inner = parts.optimizer.step

    def step():
        note("step")
        return inner()

    parts.optimizer.step = step
    made.fit()
    assert seen == {"forward": True, "backward": False, "step": False}
