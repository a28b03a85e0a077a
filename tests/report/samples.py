"""Report values made by hand, for the tests of the page and the figures: plausible, and the same every time."""

import math
import random
from dataclasses import replace

from mptrain.report.model import Comparison, Curve, Estimate, GradientHistogram, Ladder, Member, Report, Variant

HOSTILE = (
    "fp16</script><script>window.hacked=1</script><img src=x onerror=window.hacked=2> \"q\" 'a' \u2028 ${x} & é 精度"
)

_T = {2: 12.71, 3: 4.303, 4: 3.182, 5: 2.776}  # t quantiles by number of runs


def estimate(values):
    """Return the mean of the values that are known, with its 95% interval."""
    values = [value for value in values if value is not None]
    if not values:
        return None
    mean, n = sum(values) / len(values), len(values)
    if n == 1:
        return Estimate(mean, None, None, None, 1)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / (n - 1))
    half = _T[n] * deviation / math.sqrt(n)
    return Estimate(mean, mean - half, mean + half, deviation, n)


def histogram(rng, fmt, scale, bounds):
    """Return a bell of magnitudes about 2^-14, moved by the loss scale; what the format cannot hold is zero."""
    centre = -14 + math.log2(scale)
    counts = [round(100_000 * math.exp(-(((e - centre) / 4) ** 2))) + rng.randrange(20) for e in range(-45, 25)]
    smallest = math.floor(math.log2(bounds[0]))
    lost = sum(count for e, count in zip(range(-45, 25), counts, strict=True) if e < smallest)
    counts = [count if e >= smallest else 0 for e, count in zip(range(-45, 25), counts, strict=True)]
    return GradientHistogram(fmt, -45, tuple(counts), 12_000 + lost, *bounds, scale)


FLOAT16 = (2.0**-24, 2.0**-14, 65504.0)
FLOAT32 = (2.0**-149, 2.0**-126, 3.4028234663852886e38)
FP8 = (2.0**-16, 2.0**-14, 57344.0)


def member(rng, path, seed, *, shift=0.0, speed=None, memory=180, scale=None, steps=300, status="ok", bounds=FLOAT32):
    """Return one run whose loss falls; `shift` is added to its accuracy, `scale` is its first loss scale."""
    at = tuple(range(1, steps + 1, max(1, steps // 300)))
    tau = steps / 4
    loss = tuple(0.4 - shift + 1.9 * math.exp(-step / tau) + rng.gauss(0, 0.02) for step in at)
    evals = tuple(range(steps // 10, steps + 1, steps // 10))
    accuracy = tuple(0.91 + shift - 0.6 * math.exp(-step / tau) + rng.gauss(0, 0.004) for step in evals)
    ok = status == "ok"
    skips = () if not scale or scale == 1 else (1, 2, 3, 4, 160, 270) if ok else tuple(range(20, 41))
    scales = tuple(max(1.0, scale / 2 ** sum(skip <= step for skip in skips)) for step in at) if scale else ()
    return Member(
        path=path,
        seed=seed,
        status=status,
        error=None if ok else "loss scale at its floor of 1 for 20 steps: training stopped learning",
        metric=accuracy[-1] if ok else None,
        train_loss=loss[-1] if ok else None,
        seconds_to_target=40 + rng.random() if ok and shift > -0.01 else None,
        samples_per_s=speed and speed * (1 + rng.gauss(0, 0.01)),
        step_time_ms=12.0,
        peak_memory_bytes=(memory + rng.randrange(3)) * 2**20,
        skipped_steps=len(skips),
        attempted_steps=steps,
        final_loss_scale=scales[-1] if scale else None,
        data_wait_fraction=0.02,
        wall_s=61.0,
        emulated=speed is None,
        loss=Curve(at, loss) if ok else Curve(at[:40], (*loss[:39], None)),
        metric_curve=Curve(evals, accuracy) if ok else Curve(),
        loss_scale=Curve(at, scales) if scale else Curve(),
        skips=skips,
        gradients=histogram(rng, "float16" if bounds is FLOAT16 else "float32", scale or 1.0, bounds),
    )


def variant(label, members, baseline=None, outcome="same", verdict=None):
    """Return a variant whose estimates are those of its members."""
    differences = None
    comparison = None
    if baseline is not None:
        pairs = zip(members, baseline.members, strict=True)
        differences = estimate([a.metric - b.metric for a, b in pairs if a.metric is not None])
        comparison = Comparison(outcome, differences, True, 0.4 if differences else None, None)
    speed, memory = (estimate([getattr(m, name) for m in members]) for name in ("samples_per_s", "peak_memory_bytes"))
    own, base = speed, baseline and baseline.samples_per_s
    return Variant(
        label=label,
        settings={"precision.mode": label.split(",")[0]},
        precision=f"{label.split(',')[0]} in force",
        is_baseline=baseline is None,
        members=tuple(members),
        metric=estimate([m.metric for m in members]),
        train_loss=estimate([m.train_loss for m in members]),
        samples_per_s=speed,
        peak_memory_bytes=memory,
        seconds_to_target=estimate([m.seconds_to_target for m in members]),
        skipped_steps=estimate([m.skipped_steps for m in members]),
        speedup=own.mean / base.mean if own and base else None,
        memory_ratio=memory.mean / baseline.peak_memory_bytes.mean if baseline else None,
        statuses={m.status: sum(n.status == m.status for n in members) for m in members},
        comparison=comparison,
        verdict=verdict or (f"{label}: the baseline." if baseline is None else f"{label}: {outcome} within noise."),
    )


def ladder(title="small_resnet on digits", labels=None, seeds=3, steps=300, emulated=False):
    """Return a ladder of nine precisions, or of `labels`, the first of them the baseline."""
    rng = random.Random(title)
    plan = [
        ("fp32", {"speed": 2100.0, "memory": 310}, "same"),
        ("bf16", {"shift": 0.001, "speed": 3900.0, "memory": 190}, "same"),
        ("fp16", {"shift": 0.0, "scale": 65536.0, "memory": 190, "bounds": FLOAT16}, "same"),
        ("fp16, loss_scale=static 1", {"shift": -0.031, "scale": 1.0, "memory": 190, "bounds": FLOAT16}, "worse"),
        ("fp8, format=e4m3/e5m2", {"shift": -0.002, "memory": 170, "bounds": FP8}, "unclear"),
        ("bf16-pure, rounding=nearest", {"shift": -0.052, "speed": 4300.0, "memory": 120}, "worse"),
        ("bf16-pure, rounding=stochastic", {"shift": -0.004, "memory": 120}, "unclear"),
        ("bf16-pure, rounding=kahan", {"shift": 0.0015, "speed": 4100.0, "memory": 150}, "same"),
        ("fp16, loss_scale=static 1048576", {"scale": 1048576.0, "memory": 190, "status": "diverged"}, "failed"),
    ]
    if labels:
        plan = [(label, plan[i % 8][1], plan[i % 8][2]) for i, label in enumerate(labels)]
    variants = []
    for label, how, outcome in plan:
        how = how | ({"speed": None} if emulated else {})
        members = [member(rng, f"runs/{title}/{label}-{s}", s, steps=steps, **how) for s in range(seeds)]
        variants.append(variant(label, members, variants[0] if variants else None, outcome))
    return Ladder(
        title=title,
        metric="accuracy",
        higher_is_better=True,
        as_points=True,
        noise_floor=0.0041,
        baseline=variants[0].label,
        variants=tuple(variants),
        common={"model.name": title.split()[0], "optimizer.lr": 0.05},
        environment={"device": "cpu (AMD EPYC)", "torch": ["2.13.0", "2.14.0"], "tf32": False},
        notes=("fp16, fp8: emulated on this CPU; their speed says nothing.",),
    )


def report(*ladders):
    """Return a report of these ladders; of two by default."""
    ladders = ladders or (ladder(), replace(ladder("small_gpt on text", emulated=True), metric="loss"))
    return Report(tuple(ladders), ("runs/broken/config.yaml:3: not YAML; remove the folder",), "mptrain 0.1.0")
