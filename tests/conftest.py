"""Settings for the whole suite: one thread a test process, so that two workers share two cores fairly."""

import signal

import pytest
import torch

# Under nohup, or in the background of a shell, these are ignored, and a run that is tested would ignore them too.
signal.signal(signal.SIGINT, signal.default_int_handler)
if hasattr(signal, "SIGHUP"):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _quiet_torch():
    """Leave torch's global settings as each test found them."""
    torch.set_num_threads(1)
    deterministic = torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_rng_state(state)
