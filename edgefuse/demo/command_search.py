"""Search for the right command, made from the grammar of smart-home sentences.

    anchor    "don't turn the hall lights off, turn them on"
    positive  "turn the lights on"

Each action has one command, so that finding it takes what naming the action takes: the structure of
the sentence, and not its words alone.
"""

from edgefuse.demo.lexicon import INTENTS, THINGS
from edgefuse.demo.smart_home import Row, make_splits

_FILLED = {**{slot: names[0] for slot, names in THINGS.items()}, "room": "room", "minutes": "some"}

COMMANDS = {label: intent.phrases[0].format(**_FILLED) for label, intent in INTENTS.items()}
"""The command of each action, by the action's label."""


def make_search_splits(
    seed: int = 0, *, train: int = 1200, valid: int = 200, test: int = 500
) -> dict[str, list[Row]]:
    """Make the data set of sentences and the commands that they mean.

    Args:
        seed: The same seed and sizes give the same sentences, those of `make_splits`.
        train: Count of rows of the training split; commands are spread evenly in each split.
        valid: Count of rows of the validation split, worded like the training split.
        test: Count of rows of the test split, with wordings that no other split has.

    Returns:
        `train`, `valid` and `test`, each a shuffled list of `{"anchor": …, "positive": …}`; and
        `commands`, a list of `{"text": …}` to search in.
    """
    splits = make_splits(seed, train=train, valid=valid, test=test)
    pairs = {
        name: [{"anchor": row["text"], "positive": COMMANDS[row["label"]]} for row in rows]
        for name, rows in splits.items()
    }
    return {**pairs, "commands": [{"text": command} for command in COMMANDS.values()]}
