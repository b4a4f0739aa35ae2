"""Slots of smart-home commands: what a command is about, marked in its text.

The texts are those of the grammar in `smart_home.py`. What is marked is the device, the room and
the duration of the wish, and nothing of the decoy beside it:

    text      "don't turn the hall lights off, dim the kitchen lights"
    entities  room "kitchen", device "lights"

so that a word's slot depends on the structure of the sentence, not on the word.
"""

import random
import re
from collections.abc import Iterator
from typing import TypedDict

from edgefuse.demo.lexicon import (
    CLOSERS,
    FRAMES,
    INTENTS,
    MINUTES,
    OPENERS,
    ROOMS,
    TEST_FRAMES,
    THINGS,
)
from edgefuse.demo.smart_home import choose_decoy, draw_splits

_REMARKS = 0.25  # share of sentences that name no action
_PRONOUNS = 0.5  # share of devices that become a pronoun, of those that were named before

_BEGIN, _END = "⟦", "⟧"  # around the wish, and around a slot with its name and a bar before it
_SLOT = re.compile(rf"{_BEGIN}(\w+)\|([^{_END}]+){_END}")
_NOT_NAMED = re.compile(r"\{room\}|\b(?:the|a|an|in)\b")


class Slot(TypedDict):
    """A part of a text and what it names."""

    start: int
    end: int
    label: str


class SlotRow(TypedDict):
    """A command and its slots, as a row of a data file for token classification."""

    text: str
    entities: list[Slot]


def make_slot_splits(
    seed: int = 0, *, train: int = 1200, valid: int = 200, test: int = 500
) -> dict[str, list[SlotRow]]:
    """Make the data set.

    Args:
        seed: The same seed and sizes give the same sentences.
        train: Count of rows of the training split.
        valid: Count of rows of the validation split, worded like the training split.
        test: Count of rows of the test split, with frames and remarks that no other split has.

    Returns:
        `train`, `valid` and `test`, each a shuffled list of rows. No sentence occurs twice, in one
        split or in two.
    """
    return draw_splits(_row, "text", seed, train=train, valid=valid, test=test)


def _row(generator: random.Random, label: str, held_out: bool) -> SlotRow:  # noqa: FBT001
    return _read(_sentence(generator, label, held_out=held_out))


def _sentence(generator: random.Random, intent: str, *, held_out: bool) -> str:
    """A sentence in which every slot is marked, and the wish is between BEGIN and END."""
    known = INTENTS[intent]
    if generator.random() < _REMARKS:
        remarks = known.remarks + (known.test_remarks if held_out else ())
        template = f"{_BEGIN}{generator.choice(remarks)}{_END}"
    else:
        frame = generator.choice(FRAMES + (TEST_FRAMES if held_out else ()))
        decoy = generator.choice(INTENTS[choose_decoy(generator, intent)].phrases)
        wish = f"{_BEGIN}{generator.choice(known.phrases)}{_END}"
        template = frame.format(wish=wish, decoy=decoy)
    return generator.choice(OPENERS) + _fill(generator, template) + generator.choice(CLOSERS)


def _fill(generator: random.Random, template: str) -> str:
    """Fill the slots from left to right; a thing named before may become a pronoun."""
    named: set[str] = set()

    def thing(match: re.Match[str]) -> str:
        *names, pronoun = THINGS[match[1]]
        if match[1] in named and generator.random() < _PRONOUNS:
            return _slot("device", pronoun)
        named.add(match[1])
        return _marked_device(generator.choice(names))

    template = re.sub(rf"\{{({'|'.join(THINGS)})\}}", thing, template)
    template = re.sub(
        r"\{minutes\} minutes",
        lambda _: _slot("duration", f"{generator.choice(MINUTES)} minutes"),
        template,
    )
    return re.sub(r"\{room\}", lambda _: _slot("room", generator.choice(ROOMS)), template)


def _marked_device(name: str) -> str:
    """Mark what is neither article nor room: "the {room} lights" names "lights"."""
    device = max(_NOT_NAMED.split(name), key=len).strip()
    return name.replace(device, _slot("device", device))


def _slot(label: str, text: str) -> str:
    return f"{_BEGIN}{label}|{text}{_END}"


def _read(marked: str) -> SlotRow:
    """Take the marks out of a sentence, and keep the slots of the wish."""
    text, entities, inside = "", [], False
    for part in _parts(marked):
        slot = _SLOT.fullmatch(part)
        if slot and inside:
            start = len(text)
            entities.append(Slot(start=start, end=start + len(slot[2]), label=slot[1]))
        if part in (_BEGIN, _END):
            inside = part == _BEGIN
        else:
            text += slot[2] if slot else part
    return SlotRow(text=text, entities=entities)


def _parts(marked: str) -> Iterator[str]:
    """Slots, the two marks of the wish, and what is between them."""
    place = 0
    for match in re.finditer(rf"{_SLOT.pattern}|{_BEGIN}|{_END}", marked):
        yield marked[place : match.start()]
        yield match[0]
        place = match.end()
    yield marked[place:]
