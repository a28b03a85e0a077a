"""The live view in a real pseudo-terminal: what is on the screen, at every width, whatever happens."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

if sys.platform == "win32":
    pytest.skip("needs a pseudo-terminal", allow_module_level=True)

from tests.telemetry.terminal import PATIENCE_S, Terminal, clean_environment

LAST_STEP = r"run +━+ +312/312  100%"
# A redraw begins by erasing the whole block, so one that shows its last line is complete.
DONE = rf"(?s){LAST_STEP}.*overflow at step 12"


def block_lines(text: str) -> list[str]:
    """Return the block's own lines; there must be one block on the screen."""
    lines = text.splitlines()
    [header] = [number for number, line in enumerate(lines) if line.startswith("── ")]
    return lines[header:]


def test_everything_is_on_the_screen_and_then_a_summary():
    with Terminal("--pause") as terminal:
        terminal.wait_for(DONE)
        block = "\n".join(block_lines(terminal.text()))
        assert terminal.screen.cursor.hidden
        for pattern in (
            r"── resnet/r1 · fp16: weights fp32, compute fp16",
            r"epoch 4/4 +━+ +78/78",
            r"eta \d+:\d\d",
            r"loss +0\.3624 ",
            r"accuracy +0\.8780 best 0\.8780 +grad norm +1\.23",
            r"speed +245\.1 samples/s +step time +522 ms",
            r"data wait +0\.3% +memory +1\.2 GiB peak",
            r"skipped +1 \(last at 12\) +loss scale +32768",
            r"overflow at step 12: gradients overflowed; loss scale 65536 -> 32768",
        ):
            assert re.search(pattern, block), pattern
        assert len(re.findall(r"^eval  step \d+  accuracy", terminal.text(), re.M)) == 4

        terminal.press_enter()
        assert terminal.finish() == 0
        text = terminal.text()
        assert not terminal.screen.cursor.hidden
        assert "eta" not in text
        assert "──" not in text
        assert re.search(r"status +ok\nmetrics +accuracy 0\.8875  loss 0\.3300", text)
        assert re.search(r"result +runs/resnet/r1/result\.json$", text)


def test_loss_curve_is_drawn():
    with Terminal("--pause", "--pace", "0.008") as terminal:
        terminal.wait_for(DONE)
        [curve] = re.findall(r"loss +0\.3624 ([▁▂▃▄▅▆▇█]+)", terminal.text())
        assert curve[0] == "█"
        assert curve[-1] == "▁"


def test_resizes():
    with Terminal("--pause", columns=120) as terminal:
        terminal.wait_for(DONE)
        for columns, height in ((60, 10), (120, 10), (40, 15), (100, 10)):
            terminal.resize(columns, 40)
            drawn = terminal.raw.count(b"resnet/r1")
            # The third redraw from here began after the resize.
            terminal.wait_until(
                lambda text, drawn=drawn: terminal.raw.count(b"resnet/r1") >= drawn + 3 and re.search(DONE, text)
            )
            block = block_lines(terminal.text())
            assert len(block) == height
            assert max(map(len, block)) < columns
            for pattern in (r"loss +0\.3624", r"grad norm +1\.23", r"1\.2 GiB peak", "loss scale 32768"):
                assert re.search(pattern, "\n".join(block)), pattern


@pytest.mark.skipif(shutil.which("tmux") is None, reason="needs tmux, a terminal that rewraps old lines")
def test_narrowing_leaves_no_old_block_behind(tmp_path: Path):
    def tmux(*args: str) -> str:
        command = ["tmux", "-S", str(tmp_path / "socket"), "-f", os.devnull, *args]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=clean_environment()).stdout

    def wait_for(pattern: str) -> str:
        deadline = time.monotonic() + PATIENCE_S
        while not re.search(pattern, text := tmux("capture-pane", "-p")):
            assert time.monotonic() < deadline, f"not seen in time:\n{text}"
            time.sleep(0.1)
        return text

    script = f"{sys.executable} -m tests.telemetry.scripted_run --pause"
    tmux("new-session", "-d", "-x", "120", "-y", "40", script)
    try:
        wait_for(DONE)
        tmux("resize-window", "-x", "60", "-y", "40")
        block_lines(wait_for(rf"(?s)fp16\.\.\. ─.*{LAST_STEP}.*overflow at step 12"))
    finally:
        tmux("kill-server")


def test_low_window_shows_the_top_of_the_block():
    with Terminal("--pause", rows=8) as terminal:
        terminal.wait_for(rf"(?s){LAST_STEP}.*data wait")
        block = block_lines(terminal.text())
        assert len(block) == 7
        assert block[1].startswith("epoch 4/4")


def test_unscaled_emulated_loader_bound():
    with Terminal("--pause", "--unscaled", "--emulated", "--slow-loader") as terminal:
        terminal.wait_for(DONE)
        text = terminal.text()
        assert re.search(r"loss scale +n/a", text)
        assert re.search(r"grad norm +n/a", text)
        assert re.search(r"data wait +42\.0% loader-bound", text)
        assert re.search(r"speed +245\.1 samples/s \(emulated\) +step time +522 ms \(emulated\)", text)
        assert "EMULATED" in text


def colours(raw: bytes) -> set[str]:
    """Return the codes of all colours that were switched on."""
    codes = {code for sgr in re.findall(rb"\x1b\[([0-9;]*)m", raw) for code in sgr.decode().split(";")}
    return {code for code in codes if re.fullmatch(r"3[0-8]|4[0-8]|9[0-7]|10[0-7]", code)}


def test_faults_and_notices_are_coloured():
    with Terminal("--pause", "--planted") as terminal:
        terminal.wait_for(DONE)
        assert colours(terminal.raw)
        lines = terminal.lines()
        [row] = [number for number, line in enumerate(lines) if line.startswith(" PLANTED FAULT: inf_grad at 12")]
        assert terminal.screen.buffer[row][1].bg == "brown"  # pyte's word for yellow
        [row] = [number for number, line in enumerate(lines) if line.startswith(" NOTICE  fp16 convolutions are slow")]
        assert terminal.screen.buffer[row][1].bg == "brown"


def test_no_color():
    with Terminal("--pause", "--planted", NO_COLOR="1") as terminal:
        terminal.wait_for(DONE)
        terminal.press_enter()
        assert terminal.finish() == 0
        assert colours(terminal.raw) == set()
        assert "PLANTED FAULT" in terminal.text()


def test_writes_of_others_stay_above_the_block():
    with Terminal("--pause", "--warn") as terminal:
        terminal.wait_for(DONE)
        text = terminal.text()
        assert len(block_lines(text)) == 10
        above = text[: text.index("── ")]
        for line in (
            "UserWarning: a warning from the training code",
            "printed by the training code",
            "a logged warning",
        ):
            assert len(re.findall(rf"^.*{line}$", above, re.M)) == 1, line


def test_forked_worker_may_write():
    with Terminal("--pause", "--fork") as terminal:
        terminal.wait_for("written by a worker")
        terminal.press_enter()
        assert terminal.finish() == 0
        assert re.search("status +ok", terminal.text())


def test_interrupt_gives_the_cursor_back():
    with Terminal("--pause") as terminal:
        terminal.wait_for(DONE)
        assert terminal.screen.cursor.hidden
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.finish() == -signal.SIGINT
        assert not terminal.screen.cursor.hidden
        assert terminal.text().endswith("KeyboardInterrupt")


def test_training_outlives_its_terminal():
    with Terminal("--pace", "0.01", "--last-words") as terminal:
        terminal.wait_for("epoch 1/4")
        terminal.close()
        assert terminal.process.wait(60) == 0
