"""A save that dies at any system call leaves a good checkpoint, and nothing half written that is taken for one."""

import pytest

from tests.reliability.power_cuts import ENDINGS, SCENARIOS, die_at_every_call


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_every_system_call_of_a_save_may_be_the_last(scenario, ending, tmp_path):
    assert die_at_every_call(scenario, ending, tmp_path) > 50
