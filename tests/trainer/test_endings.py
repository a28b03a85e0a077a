"""torch's own refusals become endings that name the setting and the way out."""

import pytest
import torch

from mptrain.errors import CapabilityError
from mptrain.trainer.endings import ending_of


def raised_by(function) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  (which one is the question)
        function()
    return caught.value


def test_a_compiler_that_fails_is_named_in_one_line():
    def failing(graph, inputs):
        raise RuntimeError("no compiler\nhere")

    compiled = torch.compile(lambda x: x + 1, backend=failing)
    ending = ending_of(raised_by(lambda: compiled(torch.ones(2))), training=True)
    assert isinstance(ending, CapabilityError)
    assert str(ending).startswith("train.compile: torch.compile failed (")
    assert "no compiler here" in str(ending)
    assert str(ending).endswith("set train.compile=false")
    assert "\n" not in str(ending)


def test_an_operation_without_a_deterministic_form_is_named():
    torch.use_deterministic_algorithms(True)
    error = raised_by(lambda: torch.zeros(3).put_(torch.tensor([0, 0]), torch.ones(2)))
    ending = ending_of(error, training=True)
    assert isinstance(ending, CapabilityError)
    assert str(ending).startswith("train.deterministic: put_ does not have a deterministic implementation on this")
