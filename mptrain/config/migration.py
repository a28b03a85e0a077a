"""What other trainers call a precision, and what it is called here: names are answered, never guessed at."""

from __future__ import annotations

from collections.abc import Mapping

MODE_NAMES: Mapping[str, tuple[str, str]] = {
    "O0": ("Apex", "fp32"),
    "O1": ("Apex", "fp16"),
    "O2": ("Apex", "fp16-master"),
    "O3": ("Apex", "fp16-pure"),
    "16": ("Lightning", "fp16"),
    "32": ("Lightning", "fp32"),
    "64": ("Lightning", "fp64"),
    "16-mixed": ("Lightning", "fp16"),
    "bf16-mixed": ("Lightning", "bf16"),
    "32-true": ("Lightning", "fp32"),
    "64-true": ("Lightning", "fp64"),
    "16-true": ("Lightning", "fp16-pure"),
    "bf16-true": ("Lightning", "bf16-pure"),
    "transformer-engine": ("Lightning", "fp8"),
    "mixed_float16": ("Keras", "fp16"),
    "mixed_bfloat16": ("Keras", "bf16"),
    "float64": ("Keras", "fp64"),
    "float32": ("Keras", "fp32"),
    "float16": ("Keras", "fp16-pure"),
    "bfloat16": ("Keras", "bf16-pure"),
    "amp_fp16": ("Composer", "fp16"),
    "amp_bf16": ("Composer", "bf16"),
    "amp_fp8": ("Composer", "fp8"),
    "half": ("PyTorch", "fp16-pure"),
    "amp": ("PyTorch", "fp16"),
    "no": ("Accelerate", "fp32"),
}
"""Another trainer's value -> (whose it is, the mode here)."""

KEYS: Mapping[str, tuple[str, str]] = {
    "fp16": ("Hugging Face Trainer", "precision: fp16"),
    "bf16": ("Hugging Face Trainer", "precision: bf16"),
    "tf32": ("Hugging Face Trainer", "precision: tf32"),
    "fp8": ("Hugging Face", "precision: fp8"),
    "fp16_full_eval": ("Hugging Face Trainer", "precision: fp16 (evaluation runs in the run's own precision)"),
    "bf16_full_eval": ("Hugging Face Trainer", "precision: bf16 (evaluation runs in the run's own precision)"),
    "fp16_opt_level": ("Hugging Face Trainer", "precision: fp16 (O1), fp16-master (O2) or fp16-pure (O3)"),
    "opt_level": ("Apex", "precision: fp16 (O1), fp16-master (O2) or fp16-pure (O3)"),
    "mixed_precision": ("Accelerate", "precision: fp16, bf16 or fp8"),
    "amp": ("timm", "precision: fp16 or bf16"),
    "dtype_policy": ("Keras", "precision: fp16 or bf16"),
}
"""Another trainer's key, at the top of a config, under `train` or `precision` -> (whose it is, what to write here)."""


def renamed_mode(value: object) -> str | None:
    """Return the answer to another trainer's name of a precision, or None."""
    found = None if isinstance(value, bool) else MODE_NAMES.get(str(value))
    return (
        f"{value!r} is {found[0]}'s name; here it is called {found[1]}, write precision: {found[1]}" if found else None
    )


def renamed_key(key: str) -> str | None:
    """Return the answer to another trainer's key, or None."""
    found = KEYS.get(key)
    return f"unknown key; '{key}' is {found[0]}'s, write {found[1]}" if found else None
