"""The collector rests while the command line starts, and works again once everything is built."""

import subprocess
import sys

import pytest

SCRIPT = """
import gc, sys
from mptrain.cli import app
import mptrain.trainer.build as build
from mptrain.trainer import trainer
seen = {}
original = build.build_model
def building(config):
    seen["building"] = gc.isenabled()
    return original(config)
build.build_model = building
fit = trainer.Trainer.fit
def fitting(self):
    seen["training"] = gc.isenabled() and gc.get_freeze_count() > 10000
    fit(self)
trainer.Trainer.fit = fitting
sys.argv = ["mptrain", "run", "configs/ci_smoke.yaml", "--max-steps", "1", "--quiet", "--output-dir", sys.argv[1]]
try:
    app.main()
except SystemExit as end:
    print(end.code, seen)
"""


def test_collection_is_paused_for_start_up_only(tmp_path, request):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], cwd=request.config.rootpath, capture_output=True, text=True
    )
    assert done.stdout == "0 {'building': False, 'training': True}\n", done.stderr


@pytest.mark.parametrize("enabled", [True, False])
def test_a_python_user_s_setting_is_left_alone(enabled):
    script = f"""
import gc
from mptrain.startup import resume_collection
{"gc.enable()" if enabled else "gc.disable()"}
resume_collection()
print(gc.isenabled(), gc.get_freeze_count())
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == f"{enabled} 0\n"
