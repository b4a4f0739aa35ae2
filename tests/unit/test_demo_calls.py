import json
from collections import Counter

import pytest

from edgefuse.demo.calls import make_call_splits
from edgefuse.demo.lexicon import ROOMS
from edgefuse.demo.smart_home import LABELS, Row


@pytest.fixture(scope="module")
def splits() -> dict[str, list[Row]]:
    return make_call_splits(seed=0)


@pytest.fixture(scope="module")
def pairs(splits: dict[str, list[Row]]) -> list[tuple[str, dict[str, object]]]:
    rows = [row for split in splits.values() for row in split]
    return [(row["prompt"], json.loads(row["completion"])) for row in rows]


def test_a_seed_gives_the_same_rows_and_another_seed_others(splits: dict[str, list[Row]]) -> None:
    assert make_call_splits(seed=0) == splits
    assert make_call_splits(seed=1) != splits


def test_no_sentence_occurs_twice_and_every_action_as_often(
    splits: dict[str, list[Row]], pairs: list[tuple[str, dict[str, object]]]
) -> None:
    assert len({prompt for prompt, _ in pairs}) == 1200 + 200 + 500
    counts = Counter(json.loads(row["completion"])["action"] for row in splits["train"])
    assert set(counts) == set(LABELS)
    assert max(counts.values()) - min(counts.values()) <= 1


def test_calls_say_what_the_sentence_does(pairs: list[tuple[str, dict[str, object]]]) -> None:
    assert {name for _, call in pairs for name in call} == {"action", "room", "door", "minutes"}
    for prompt, call in pairs:
        assert "{" not in prompt
        assert str(call.get("room", "")) in prompt
        assert f"{call.get('door', '')} door" in prompt or "door" not in call
        assert ("minutes" in call) == (call["action"] == "timer_set")


def test_a_room_of_the_decoy_is_not_the_calls(pairs: list[tuple[str, dict[str, object]]]) -> None:
    several = [(p, c) for p, c in pairs if sum(room in p for room in ROOMS) == 2 and "room" in c]
    assert len(several) > 50
    later = sum(max(ROOMS, key=prompt.rfind) == call["room"] for prompt, call in several)
    assert 0.2 < later / len(several) < 0.9  # neither the first nor the last room is the one


def test_a_pronoun_has_the_room_of_what_it_stands_for(
    pairs: list[tuple[str, dict[str, object]]],
) -> None:
    calls = [c for p, c in pairs if "turn them on" in p and sum(room in p for room in ROOMS) == 1]
    assert calls
    assert all("room" in call for call in calls)
