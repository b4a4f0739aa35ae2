"""The demo's slots: texts of the grammar, in which the wish's slots are marked and no others."""

from collections import Counter

import pytest

from edgefuse.demo.lexicon import MINUTES, ROOMS
from edgefuse.demo.slots import SlotRow, make_slot_splits


@pytest.fixture(scope="module")
def splits() -> dict[str, list[SlotRow]]:
    return make_slot_splits(seed=0)


def test_a_seed_gives_the_same_rows_and_another_seed_others(
    splits: dict[str, list[SlotRow]],
) -> None:
    assert make_slot_splits(seed=0) == splits
    assert make_slot_splits(seed=1) != splits


def test_no_sentence_occurs_twice_and_none_has_a_mark(splits: dict[str, list[SlotRow]]) -> None:
    texts = [row["text"] for rows in splits.values() for row in rows]
    assert len(texts) == len(set(texts)) == 1200 + 200 + 500
    assert not [text for text in texts if set(text) & set("{}⟦⟧|")]


def test_slots_name_what_their_label_says(splits: dict[str, list[SlotRow]]) -> None:
    rows = [row for rows in splits.values() for row in rows]
    named: dict[str, Counter[str]] = {"room": Counter(), "duration": Counter(), "device": Counter()}
    for row in rows:
        for slot in row["entities"]:
            named[slot["label"]][row["text"][slot["start"] : slot["end"]]] += 1
    assert set(named["room"]) == set(ROOMS)
    assert set(named["duration"]) == {f"{minutes} minutes" for minutes in MINUTES}
    devices = {"lights", "lamps", "radio", "jazz station", "front door", "kitchen timer", "them"}
    assert devices < set(named["device"])
    assert not [name for name in named["device"] if set(name.split()) & {"the", "in", "a"}]


def test_what_is_not_meant_has_no_slots(splits: dict[str, list[SlotRow]]) -> None:
    frame = "no need to "
    rows = [row for row in splits["train"] if row["text"].startswith(frame)]
    assert len(rows) > 10
    for row in rows:
        wish = row["text"].index(", just ")
        assert all(slot["start"] > wish for slot in row["entities"])
    both = [
        r for r in rows if any(room in r["text"][: r["text"].index(", just ")] for room in ROOMS)
    ]
    assert both  # rooms of decoys, which a list of rooms would mark
