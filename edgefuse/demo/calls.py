"""Smart-home commands and the calls that they mean, as JSON.

The commands are those of the grammar in `smart_home.py`: a wish beside one that is not meant. The
call has the wish's intent, with its room, door and minutes where the sentence names them; a pronoun
has those of the thing before it:

    prompt      "don't turn the hall lights off, turn them on"
    completion  {"action":"light_on","room":"hall"}
"""

import random
import re
from collections.abc import Mapping

import msgspec

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
from edgefuse.demo.smart_home import Row, choose_decoy, draw_splits

_REMARKS = 0.25  # share of sentences that name no action
_PRONOUNS = 0.5  # share of things that become a pronoun, of those that were named before

_COUNTS = dict(zip(MINUTES, (3, 5, 8, 10, 12, 20, 30, 90), strict=True))
_SLOT = re.compile(r"\{(wish_)?(\w+)\}")

Call = dict[str, str | int]
"""An `action`, and perhaps its `room`, `door` and `minutes`."""


def make_call_splits(
    seed: int = 0, *, train: int = 1200, valid: int = 200, test: int = 500
) -> dict[str, list[Row]]:
    """Make the data set.

    Args:
        seed: The same seed and sizes give the same sentences.
        train: Count of rows of the training split; actions are spread evenly in each split.
        valid: Count of rows of the validation split, worded like the training split.
        test: Count of rows of the test split, with frames and remarks that no other split has.

    Returns:
        `train`, `valid` and `test`, each a shuffled list of `{"prompt": …, "completion": …}`. No
        sentence occurs twice, in one split or in two.
    """
    return draw_splits(_row, "prompt", seed, train=train, valid=valid, test=test)


def _row(generator: random.Random, action: str, held_out: bool) -> Row:  # noqa: FBT001
    text, details = _sentence(generator, action, held_out=held_out)
    call: Call = {"action": action, **details}
    return {"prompt": text, "completion": msgspec.json.encode(call).decode()}


def _sentence(generator: random.Random, action: str, *, held_out: bool) -> tuple[str, Call]:
    """A sentence, and what it says of the action."""
    intent = INTENTS[action]
    if generator.random() < _REMARKS:
        remarks = intent.remarks + (intent.test_remarks if held_out else ())
        template = _as_wish(generator.choice(remarks))
    else:
        frame = generator.choice(FRAMES + (TEST_FRAMES if held_out else ()))
        decoy = generator.choice(INTENTS[choose_decoy(generator, action)].phrases)
        template = frame.format(wish=_as_wish(generator.choice(intent.phrases)), decoy=decoy)
    text, details = _fill(generator, template)
    return generator.choice(OPENERS) + text + generator.choice(CLOSERS), details


def _as_wish(phrase: str) -> str:
    return _SLOT.sub(r"{wish_\2}", phrase)


def _fill(generator: random.Random, template: str) -> tuple[str, Call]:
    """Fill the slots from left to right; a thing named before may become a pronoun."""
    known: dict[str, Mapping[str, str | int]] = {}
    meant: Call = {}

    def fill(match: re.Match[str]) -> str:
        slot = match[2]
        text, details = (
            _plain(generator, slot) if slot not in THINGS else _thing(generator, slot, known)
        )
        if match[1]:
            meant.update(details)
        return text

    return _SLOT.sub(fill, template), {name: meant[name] for name in sorted(meant)}


def _plain(generator: random.Random, slot: str) -> tuple[str, Mapping[str, str | int]]:
    if slot == "room":
        room = generator.choice(ROOMS)
        return room, {"room": room}
    minutes = generator.choice(MINUTES)
    return minutes, {"minutes": _COUNTS[minutes]}


def _thing(
    generator: random.Random, slot: str, known: dict[str, Mapping[str, str | int]]
) -> tuple[str, Mapping[str, str | int]]:
    """A thing's name or its pronoun, and what is known of it."""
    *names, pronoun = THINGS[slot]
    if slot in known and generator.random() < _PRONOUNS:
        return pronoun, known[slot]
    name = generator.choice(names)
    details: dict[str, str | int] = {}
    if "{room}" in name:
        details["room"] = generator.choice(ROOMS)
        name = name.replace("{room}", str(details["room"]))
    if name.endswith(" door"):
        details["door"] = name.split()[1]
    known[slot] = details
    return name, details
