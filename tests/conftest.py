"""Settings for the whole suite: one thread a test process, so that two workers share two cores fairly."""

import pytest
import torch

from tests.reliability.signals import heed_signals

heed_signals()


@pytest.fixture(autouse=True)
def _quiet_torch():
    """Leave torch's global settings as each test found them."""
    torch.set_num_threads(1)
    deterministic = torch.are_deterministic_algorithms_enabled()
    state = torch.get_rng_state()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.set_rng_state(state)
