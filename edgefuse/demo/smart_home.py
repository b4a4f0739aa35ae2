"""Smart-home commands made from a grammar.

A command is a wish put into a frame, mostly next to a second wish that is *not* meant:

    frame   "don't {decoy}, {wish}"
    decoy   "turn {lights} off"
    wish    "turn {lights} on"         the label: light_on
    text    "don't turn the hall lights off, turn them on"

The label depends on the structure of the sentence (negation, correction, order, question or
command) and not on which words occur, so a bag of words cannot find it. The other sentences are
remarks that name no action:
"it is too dark in the hall". The test split has frames and remarks of its own.
"""

import random
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

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

LABELS = tuple(INTENTS)

Row = dict[str, str]
AnyRow = TypeVar("AnyRow", bound=Mapping[str, Any])

_REMARKS = 0.25  # share of sentences that name no action
_SIBLINGS = 0.6  # share of decoys that are about the same thing as the wish


def make_splits(
    seed: int = 0, *, train: int = 1200, valid: int = 200, test: int = 500
) -> dict[str, list[Row]]:
    """Make the data set.

    Args:
        seed: The same seed and sizes give the same sentences.
        train: Count of rows of the training split; labels are spread evenly in each split.
        valid: Count of rows of the validation split, worded like the training split.
        test: Count of rows of the test split, with frames and remarks that no other split has.

    Returns:
        `train`, `valid` and `test`, each a shuffled list of `{"text": …, "label": …}`. No sentence
        occurs twice, in one split or in two.
    """
    return draw_splits(_row, "text", seed, train=train, valid=valid, test=test)


def draw_splits(
    make: Callable[[random.Random, str, bool], AnyRow],
    key: str,
    seed: int,
    *,
    train: int,
    valid: int,
    test: int,
) -> dict[str, list[AnyRow]]:
    """Draw rows of the grammar into shuffled splits, in which intents are spread evenly.

    Args:
        make: Function that draws a row for an intent, in the test split's wordings or not.
        key: Name of the row's sentence; none occurs twice.
        seed: Seed of everything that is drawn.
        train: Count of rows of the training split.
        valid: Count of rows of the validation split.
        test: Count of rows of the test split, with wordings that no other split has.
    """
    generator = random.Random(seed)  # noqa: S311 - sentences, not secrets
    seen: set[object] = set()
    splits = {}
    for name, count in (("train", train), ("valid", valid), ("test", test)):
        split: list[AnyRow] = []
        while len(split) < count:
            row = make(generator, LABELS[len(split) % len(LABELS)], name == "test")
            if row[key] not in seen:
                seen.add(row[key])
                split.append(row)
        generator.shuffle(split)
        splits[name] = split
    return splits


def _row(generator: random.Random, label: str, held_out: bool) -> Row:  # noqa: FBT001
    return {"text": _sentence(generator, label, held_out=held_out), "label": label}


def _sentence(generator: random.Random, label: str, *, held_out: bool) -> str:
    intent = INTENTS[label]
    if generator.random() < _REMARKS:
        template = generator.choice(intent.remarks + (intent.test_remarks if held_out else ()))
    else:
        frame = generator.choice(FRAMES + (TEST_FRAMES if held_out else ()))
        decoy = generator.choice(INTENTS[choose_decoy(generator, label)].phrases)
        template = frame.format(wish=generator.choice(intent.phrases), decoy=decoy)
    return generator.choice(OPENERS) + _fill(generator, template) + generator.choice(CLOSERS)


def choose_decoy(generator: random.Random, label: str) -> str:
    """Choose the intent of what is not meant, mostly one about the same thing.

    Args:
        generator: Source of randomness.
        label: The intent that is meant.
    """
    others = [other for other in LABELS if other != label]
    siblings = [other for other in others if INTENTS[other].thing == INTENTS[label].thing]
    return generator.choice(siblings if siblings and generator.random() < _SIBLINGS else others)


def _fill(generator: random.Random, template: str) -> str:
    """Fill the slots from left to right; a thing named before may become a pronoun."""
    named: set[str] = set()

    def name(match: re.Match[str]) -> str:
        slot = match[1]
        if slot == "room":
            return generator.choice(ROOMS)
        if slot == "minutes":
            return generator.choice(MINUTES)
        *names, pronoun = THINGS[slot]
        if slot in named and generator.random() < 0.5:
            return pronoun
        named.add(slot)
        return generator.choice(names)

    slots = re.compile(r"\{(\w+)\}")
    return slots.sub(name, slots.sub(name, template))
