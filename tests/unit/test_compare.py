"""The Compare tab."""

import dataclasses
import time

import pytest

from thinkswitch.errors import UserError
from thinkswitch.recipe import Schedule
from ui.studio import PAIR
from ui.tabs import compare


def test_a_long_prompt_is_refused_before_the_strip_is_asked(studio):
    """The columns refused 4000 characters; the strip took them 21 times and kept everybody waiting for 17 s."""
    ask = compare.Ask("7 + " * 2000 + "1", 0.5, PAIR, "auto", "greedy", 0.6, 0.95, 20, 0, 0, Schedule())
    with pytest.raises(UserError, match="the prompt is too long: .* room for 1024"):
        compare.checked(studio, studio.loaded, ask)
    began = time.monotonic()
    assert compare.probability_strip(studio, ask)["__type__"] == "update" and time.monotonic() - began < 2
    for field, value in (("top_k", -1), ("limit", -5), ("seed", -2)):
        with pytest.raises(UserError, match=f"must be at least 0, it is {value}"):
            compare.checked(
                studio, studio.loaded, dataclasses.replace(ask, prompt="1 + 2?", **{field: value})
            )
