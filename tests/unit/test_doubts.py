"""What disturbed a measurement is named."""

import numpy as np
import pytest

from edgefuse_runtime.measuring.doubts import doubts

QUIET = (1 + 0.01 * np.sin(np.arange(50))).tolist()


def test_a_quiet_run_is_not_doubted():
    assert doubts(QUIET, ()) == []


def test_what_held_the_processor_back_is_named():
    said = doubts(QUIET, {"the voltage is too low", "the clock is capped"})
    assert said == [
        "the clock is capped while steps were measured",
        "the voltage is too low while steps were measured",
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        ([1.0, 1.3] * 26, "the middle half of the steps differs by 26%"),
        ([1.0] * 25 + [1.08] * 25, "steps became slower by 8% from the first half"),
        ([1.1] * 25 + [1.0] * 25, "steps became faster by 9% from the first half"),
    ],
)
def test_steps_that_differ_are_doubted(seconds, said):
    (sentence,) = doubts(seconds, ())
    assert sentence.startswith(said)


def test_of_few_steps_nothing_is_said():
    assert doubts([1.0, 9.0] * 9, ()) == []
