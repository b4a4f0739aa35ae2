"""All that the demo can teach, a task each."""

from edgefuse.demo import bare_onnx
from edgefuse.demo.command_search import make_search_splits
from edgefuse.demo.fusing import Fusing
from edgefuse.demo.slots import make_slot_splits
from edgefuse.demo.smart_home import make_splits
from edgefuse.demo.subject import Subject
from edgefuse.demo.writing import Writing
from edgefuse_devices.errors import InputError
from edgefuse_devices.names import unknown

INTENTS = Fusing(
    task="text-classification",
    title="what smart-home commands mean",
    rows=lambda train, test: make_splits(train=train, test=test),
    export=("--labels", "train.jsonl", "--tune", "full-without-embeddings"),
    finetune=("--learning-rate", "5e-4"),
    test="sentences in other words",
    texts="train.jsonl",
    ask='"it is too dark in here"',
    bare=bare_onnx.accuracy,
)

SLOTS = Fusing(
    task="token-classification",
    title="to find the slots of smart-home commands",
    rows=lambda train, test: make_slot_splits(train=train, test=test),
    export=("--labels", "train.jsonl", "--tune", "full-without-embeddings"),
    finetune=("--learning-rate", "5e-4"),
    test="sentences in other words",
    texts="train.jsonl",
    ask='"don\'t turn the hall lights off, dim the kitchen lights"',
    bare=bare_onnx.entity_f1,
)

SEARCH = Fusing(
    task="sentence-similarity",
    title="to find the command that a sentence means",
    rows=lambda train, test: make_search_splits(train=train, test=test),
    export=("--tune", "full-without-embeddings"),
    finetune=(),
    test="sentences in other words",
    texts="train.jsonl",
    ask='"it is too dark in here" --against {folder}/commands.jsonl',
    bare=bare_onnx.recall,
)

CALLS = Writing()

SUBJECTS: tuple[Subject, ...] = (INTENTS, SLOTS, SEARCH, CALLS)


def find_subject(task: str) -> Subject:
    """The subject of a task.

    Raises:
        InputError: The demo has none.
    """
    found: dict[str, Subject] = {subject.task: subject for subject in SUBJECTS}
    if task not in found:
        raise InputError(*unknown("task of the demo", task, found))
    return found[task]
