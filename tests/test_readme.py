"""Every command in the README runs, in order, in a fresh folder that holds the repository's configs."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
README = (ROOT / "README.md").read_text()
BLOCKS = [(m[1], m[2]) for m in BLOCK.finditer(README)]
FILE_NAME = re.compile(r"# (\S+\.(?:py|yaml))\n")
SHORT = {"run": "--max-steps 8", "sweep": "--max-steps 8", "bench": "--seconds 0.3 --repeats 2 --no-max-batch"}
"""Commands that take long are cut to this; everything else runs as printed."""


def shortened(script: str) -> str:
    """Cut every long command of a script to a few steps, unless it sets its own length."""
    lines = []
    for line in script.splitlines():
        for name, short in SHORT.items():
            if f"mptrain {name} " in line and short.split()[0] not in line:
                line = re.sub(rf"(mptrain {name} [^;|>#]*[^;|>#\s])", rf"\1 {short}", line, count=1)
        lines.append(line)
    return "\n".join(lines)


def shell(script: str, folder: Path) -> subprocess.CompletedProcess:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=280,
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("readme")
    (made / "configs").symlink_to(ROOT / "configs")
    for _, text in BLOCKS:
        if name := FILE_NAME.match(text):
            (made / name[1]).write_text(text)
    return made


SCRIPTS = [text for language, text in BLOCKS if language == "sh" and "make " not in text]


def test_the_readme_has_what_is_tested():
    assert len(SCRIPTS) >= 8
    assert {FILE_NAME.match(text)[1] for language, text in BLOCKS if language in ("python", "yaml")} == {
        "my_models.py",
        "my.yaml",
    }


@pytest.mark.parametrize("index", range(len(SCRIPTS)))
def test_command_block(folder, index):
    done = shell(shortened(SCRIPTS[index]), folder)
    assert done.returncode == 0, f"{SCRIPTS[index]}\n{done.stdout}\n{done.stderr}"
    assert "ended with code" not in done.stdout


def test_make_run_trains(tmp_path):
    if not (ROOT / ".venv" / ".installed").exists():
        pytest.skip("make setup has not run here")
    done = shell(f"make -C {ROOT} run ARGS='--max-steps 1 --output-dir {tmp_path}'", tmp_path)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("resnet/*/result.json"))) == 1


def test_make_test_is_what_ci_calls():
    targets = re.findall(r"^make (\w+)", (ROOT / ".ci" / "run").read_text(), re.M)
    assert targets == ["check", "test"]
    for target in ["run", "setup", "bench", "fuzz", "reliability", "test-gpu", *targets]:
        assert shell(f"make -n {target}", ROOT).returncode == 0, target


def test_exit_codes_are_those_of_the_errors():
    from mptrain import errors

    table = dict(re.findall(r"^\| (\d+) \| `(\w+)`", README, re.M))
    classes = [cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, errors.MptrainError)]
    assert {str(cls.exit_code): cls.status for cls in classes} | {"0": "ok"} == table


def test_configs_are_all_valid_and_begin_with_their_schema():
    from mptrain.catalog import load_config

    files = sorted((ROOT / "configs").rglob("*.yaml"))
    assert [file.stem for file in files] == [
        "ci_smoke",
        "detection",
        "gpt",
        "linear",
        "mlp",
        "resnet",
        "segmentation",
        "speech_commands",
        "speech_ctc",
        "tabular",
        "text_classification",
        "translation",
        "vit",
    ]
    for file in files:
        load_config(file)
        first, *rest = file.read_text().splitlines()
        assert first == "# yaml-language-server: $schema=../mptrain/config/run.schema.json"
        assert any("expect:" in line for line in rest)
