"""An unknown name is refused with the names that are nearest to it."""

import pytest

from edgefuse_devices.names import nearest, suggest, unknown


def test_the_nearest_name_comes_first_whatever_its_case():
    assert nearest("LIGHTS_on", ["light_off", "light_on", "door_lock"]) == ["light_on", "light_off"]


def test_what_people_write_leads_to_the_name():
    assert nearest("raspberry-pi", {"rpi5": "rpi5", "raspberry-pi-5": "rpi5"}) == ["rpi5"]


def test_a_refusal_names_what_was_meant_and_what_there_is():
    problem, hint = unknown("method", "svt", ["prune", "svd", "random"])
    assert problem == "There is no method 'svt'"
    assert hint == "Did you mean svd? There are prune, svd and random"


@pytest.mark.parametrize(
    ("known", "hint"),
    [
        (["only"], "There is only only"),
        ([f"n{i}" for i in range(14)], f"There are {', '.join(f'n{i}' for i in range(12))} and 2"),
    ],
)
def test_a_name_like_no_other_gets_the_list_as_far_as_it_can_be_read(known, hint):
    assert suggest("zzzz", known).startswith(hint)


def test_a_long_list_may_be_elsewhere():
    assert suggest("zzzz", ["a", "b"], listing="See there") == "See there"
