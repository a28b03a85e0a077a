"""What is said of a mode's speed, for figures planted one by one."""

from dataclasses import replace

from mptrain.bench.reasons import Figures, explanation, is_faster, reasons, verdict

FAST = {"median": 1.9, "min": 1.8, "max": 2.0, "rounds": [1.8, 1.9, 2.0]}
SLOW = {"median": 0.9, "min": 0.85, "max": 0.95, "rounds": [0.85, 0.9, 0.95]}
UNDECIDED = {"median": 1.0, "min": 0.9, "max": 1.1, "rounds": [0.9, 1.0, 1.1]}
SHARES = {
    "forward": 0.3,
    "backward": 0.6,
    "optimizer": 0.1,
    "casts": 0.02,
    "products": 0.8,
    "device_busy": 1.0,
}
FIGURES = Figures(
    mode="bf16",
    computed="bf16",
    emulated=False,
    level="native",
    level_reason=None,
    speed_up=SLOW,
    shares=SHARES,
    rate=4e12,
    rate_fp32=1e12,
    achieved=3e12,
    achieved_fp32=0.8e12,
    own_rate=3.5e12,
    own_rate_fp32=0.9e12,
    product="addmm 8x8x8",
    tf32_speed_up=None,
)


def kinds(**changes):
    return [reason.kind for reason in reasons(replace(FIGURES, **changes))]


def shares(**changes):
    return kinds(shares=SHARES | changes)


def test_each_cause_is_found_alone_and_where_there_is_none_none():
    assert kinds() == []
    assert kinds(emulated=True) == ["emulated"]
    assert kinds(rate=1.1e12) == ["no_faster_arithmetic"]
    assert kinds(level="slow", level_reason="no AMX") == ["no_native_arithmetic"]
    assert kinds(achieved=1e12, own_rate=1e12) == ["small_shapes"]
    assert kinds(achieved=1e12) == ["slow_products"]
    assert kinds(achieved=None, own_rate=1e12) == ["small_shapes"]
    assert kinds(tf32_speed_up=2.0) == ["tf32_has_it"]
    assert shares(casts=0.3, products=0.6) == ["casts"]
    assert shares(optimizer=0.45) == ["optimizer_bound"]
    assert shares(device_busy=0.4) == ["host_bound"]
    assert shares(products=0.2) == ["few_products"]
    assert kinds(shares=None) == []


def test_the_heaviest_cause_comes_first_with_its_figure():
    found = shares(casts=0.6, products=0.3, optimizer=0.35)
    assert found[0] == "casts"
    said = explanation(replace(FIGURES, shares=SHARES | {"casts": 0.6, "products": 0.3}))
    assert said.startswith("slower than FP32: 0.90 of its speed (0.85 to 0.95 in 3 rounds); why: ")
    assert "conversions between formats take 60.0% of its step" in said


def test_the_hardware_is_named_with_the_rate_that_shows_it():
    said = explanation(replace(FIGURES, rate=0.5e12, level="slow", level_reason="no AMX"))
    assert "computes large products in BF16 at 0.50 times its FP32 rate (no AMX)" in said


def test_only_what_all_rounds_agree_on_is_a_difference():
    assert is_faster(FAST)
    assert not is_faster(UNDECIDED)
    one = {"median": 3.0, "min": 3.0, "max": 3.0, "rounds": [3.0]}
    assert not is_faster(one)
    assert "too few to tell" in verdict(one)
    assert "; why: " not in explanation(replace(FIGURES, speed_up=one, shares=SHARES | {"casts": 0.6}))
    assert verdict(FAST).startswith("1.90 times as fast as FP32")
    assert verdict(SLOW).startswith("slower than FP32")
    assert "as far as this tells" in verdict(UNDECIDED)
    assert explanation(FIGURES).endswith("nothing that was measured explains it")
    assert explanation(replace(FIGURES, speed_up=UNDECIDED)) == verdict(UNDECIDED)


def test_emulation_is_never_compared():
    said = explanation(replace(FIGURES, emulated=True, speed_up=None))
    assert said == "emulated: shows what the precision does to training, never how fast it is"
