"""Rows of tagged words and of texts with entities: what is read, and the sentence for the rest."""

import json
from pathlib import Path

import numpy as np
import pytest

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.tokenization import limit_length
from edgefuse_runtime.tasks.encoded_tags import IGNORED, EncodedWords
from edgefuse_runtime.tasks.labels import read_labels
from edgefuse_runtime.tasks.tagged_rows import tags_of_rows
from edgefuse_runtime.tasks.token_classification import TokenClassification
from tests.pico_models import pico_tokenizer

LABELS = ["O", "B-room", "I-room", "B-device", "I-device"]
GOOD = {"tokens": ["dim", "the", "kitchen", "light"], "tags": ["O", "O", "B-room", "B-device"]}
TEXT = "dim the kitchen light"


def write(path: Path, *rows: dict[str, object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(
    file: Path, labels: list[str] | None = None, length: int = 60, side: str = "right"
) -> list[EncodedWords]:
    tokenizer = pico_tokenizer("bert").backend_tokenizer
    limit_length(tokenizer, length, side)
    return list(TokenClassification(labels=labels or LABELS).read(file, tokenizer))


def named(row: EncodedWords, labels: list[str] | None = None) -> list[str]:
    assert row.classes is not None
    return [(labels or LABELS)[index] for index in row.classes if index != IGNORED]


def test_a_word_has_its_class_at_its_first_piece_alone(tmp_path: Path) -> None:
    (row,) = read(write(tmp_path / "rows.jsonl", GOOD))
    tokens = pico_tokenizer("bert").convert_ids_to_tokens(row.token_ids.tolist())
    assert tokens[:4] == ["[CLS]", "d", "##i", "##m"]
    assert row.classes is not None
    assert row.classes.tolist() == [IGNORED, 0, *[IGNORED] * 2, 0, 1, 3, IGNORED]
    assert row.unread == 0


def test_entities_of_a_text_are_tags_of_its_words(tmp_path: Path) -> None:
    marked = {
        "text": TEXT,
        "entities": [
            {"start": 16, "end": 21, "label": "device"},
            {"start": 4, "end": 15, "label": "room"},
        ],
    }
    words, text = read(write(tmp_path / "rows.jsonl", GOOD, marked))
    assert words.token_ids.tolist() == text.token_ids.tolist()
    assert named(text) == ["O", "B-room", "I-room", "B-device"]


def test_a_word_that_an_entity_touches_is_the_entitys(tmp_path: Path) -> None:
    entity = {"start": 10, "end": 17, "label": "room"}
    (row,) = read(write(tmp_path / "rows.jsonl", {"text": TEXT, "entities": [entity]}))
    assert named(row) == ["O", "O", "B-room", "I-room"]


@pytest.mark.parametrize(
    ("tokens", "tags"),
    [
        ("dim the kitchen light", "O O B-room B-device"),
        (json.dumps(GOOD["tokens"]), json.dumps(GOOD["tags"])),
    ],
)
def test_a_cell_is_json_or_has_spaces_between(tokens: str, tags: str, tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", GOOD, {"tokens": tokens, "tags": tags})
    one, other = read(file)
    assert one.token_ids.tolist() == other.token_ids.tolist()
    assert named(one) == named(other)


def test_a_file_may_be_csv(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    file.write_text("tokens,tags\ndim the kitchen light,O O B-room B-device\n")
    assert named(read(file)[0]) == GOOD["tags"]


def test_a_cell_of_entities_is_json(tmp_path: Path) -> None:
    entities = json.dumps([{"start": 4, "end": 15, "label": "room"}])
    (row,) = read(write(tmp_path / "rows.jsonl", {"text": TEXT, "entities": entities}))
    assert named(row) == ["O", "B-room", "I-room", "O"]


def test_tags_may_be_in_another_case_and_numbers_of_classes(tmp_path: Path) -> None:
    lower = {**GOOD, "tags": ["o", "O", "b-ROOM", "b-device"]}
    assert named(read(write(tmp_path / "rows.jsonl", lower))[0]) == GOOD["tags"]
    numbers = {**GOOD, "tags": [0, 0, 1, 2]}
    labels = ["0", "1", "2"]
    (row,) = read(write(tmp_path / "rows.jsonl", numbers), labels)
    assert named(row, labels) == ["0", "0", "1", "2"]


@pytest.mark.parametrize("side", ["right", "left"])
def test_words_that_are_cut_off_do_not_count_and_are_counted(side: str, tmp_path: Path) -> None:
    marked = {"text": TEXT, "entities": [{"start": 4, "end": 15, "label": "room"}]}
    file = write(tmp_path / "rows.jsonl", GOOD, marked)
    for row, tags in zip(read(file, length=5, side=side), (GOOD["tags"], None), strict=True):
        whole = tags or ["O", "B-room", "I-room", "O"]
        if side == "right":  # d ##i ##m are left
            assert (named(row), row.unread) == (whole[:1], 3)
        else:  # the kitchen light are left
            assert (named(row), row.unread) == (whole[1:], 1)


def test_a_word_without_a_piece_is_not_counted(tmp_path: Path) -> None:
    blank = {"tokens": ["the", "\u200d", "light"], "tags": ["O", "B-room", "B-device"]}
    (row,) = read(write(tmp_path / "rows.jsonl", blank))
    assert (named(row), row.unread) == (["O", "B-device"], 1)


ENTITY = {"start": 4, "end": 15, "label": "room"}
BAD: dict[str, tuple[dict[str, object], str]] = {
    "nothing": ({"label": "x"}, 'has neither "tokens" nor a "text"'),
    "no tags": ({"tokens": ["a"]}, 'has no list of "tags"'),
    "a list of pandas": ({"tokens": "['a' 'b']", "tags": "O O"}, 'has "tokens" of broken JSON'),
    "no tokens": ({"tokens": [], "tags": []}, "has no tokens"),
    "another count": ({"tokens": ["a", "b"], "tags": ["O"]}, "has 2 tokens and 1 tags"),
    "a number": ({"tokens": ["a", 3], "tags": ["O", "O"]}, "has a token that is no text: 3"),
    "a truth value": ({"tokens": ["a"], "tags": [True]}, "neither a text nor a whole number: True"),
    "unknown": (
        {"tokens": ["a", "b"], "tags": ["O", "B-roof"]},
        "has the unknown tag 'B-roof' at token 2, 'b'",
    ),
    "I- after O": (
        {"tokens": ["the", "hall"], "tags": ["O", "I-room"]},
        "has I-room at token 2, 'hall', after O, where no such entity has begun",
    ),
    "I- first": (
        {"tokens": ["hall"], "tags": ["I-room"]},
        "has I-room at token 1, 'hall', at the beginning",
    ),
    "I- of another type": (
        {"tokens": ["a", "b"], "tags": ["B-device", "I-room"]},
        "has I-room at token 2, 'b', after B-device",
    ),
    "no entities": ({"text": TEXT}, 'has a "text" and no list of "entities"'),
    "a pair": ({"text": TEXT, "text_pair": "b", "entities": []}, 'has a "text_pair"'),
    "blank": ({"text": " ", "entities": []}, 'has an empty "text"'),
    "no label": (
        {"text": TEXT, "entities": [{"start": 0, "end": 3}]},
        "has an entity without start, end and label",
    ),
    "a truth value as start": (
        {"text": TEXT, "entities": [{**ENTITY, "start": True}]},
        "has an entity without start, end and label",
    ),
    "no entity": ({"text": TEXT, "entities": ["room"]}, "has an entity without start"),
    "beyond the text": (
        {"text": TEXT, "entities": [{**ENTITY, "end": 99}]},
        "has an entity from 4 to 99 in a text of 21 characters",
    ),
    "backwards": ({"text": TEXT, "entities": [{**ENTITY, "end": 4}]}, "an entity from 4 to 4"),
    "white space": (
        {"text": TEXT, "entities": [{**ENTITY, "start": 3, "end": 4}]},
        "has an entity of white space",
    ),
    "an unknown type": (
        {"text": TEXT, "entities": [{**ENTITY, "label": "roof"}]},
        "has the unknown entity 'roof'",
    ),
    "the type of none": (
        {"text": TEXT, "entities": [{**ENTITY, "label": "O"}]},
        "has the unknown entity 'O'",
    ),
    "overlapping": (
        {"text": TEXT, "entities": [ENTITY, {"start": 8, "end": 21, "label": "device"}]},
        "has entities that overlap: 'the kitchen' and 'kitchen light'",
    ),
    "two in a word": (
        {
            "text": "dim it",
            "entities": [
                {"start": 0, "end": 1, "label": "room"},
                {"start": 1, "end": 3, "label": "room"},
            ],
        },
        "has two entities in 'dim'",
    ),
    "nothing known": (
        {"tokens": ["\u200d"], "tags": ["O"]},
        "has no character that the model's tokenizer knows",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_row_is_named_by_file_and_line(case: str, tmp_path: Path) -> None:
    row, sentence = BAD[case]
    file = write(tmp_path / "rows.jsonl", GOOD, row)
    with pytest.raises(DataError) as caught:
        read(file)
    assert f"{file}:2 " in caught.value.problem
    assert sentence in caught.value.problem
    assert caught.value.hint


def test_entities_need_a_tag_for_words_outside(tmp_path: Path) -> None:
    file = write(tmp_path / "rows.jsonl", {"text": TEXT, "entities": [ENTITY]})
    with pytest.raises(DataError, match="none of the model's tags is O"):
        read(file, ["NOUN", "VERB"])


def test_tags_of_rows_are_all_that_occur_and_those_of_entities(tmp_path: Path) -> None:
    marked = {"text": TEXT, "entities": [{**ENTITY, "label": "floor"}]}
    file = write(tmp_path / "rows.jsonl", GOOD, marked)
    expected = {"O", "B-room", "B-device", "B-floor", "I-floor"}
    assert read_labels(file, tags_of_rows) == tags_of_rows(file) == expected
    with pytest.raises(DataError, match="has no tag but O"):
        tags_of_rows(write(file, {"tokens": ["a"], "tags": ["O"]}))


def test_random_rows_have_a_word_each_and_none_in_the_padding() -> None:
    task = TokenClassification(labels=LABELS)
    rng = np.random.default_rng(0)
    feeds = task.random_feeds(rng, (5, 8), np.arange(9), padded=True)
    counted = feeds["labels"] != IGNORED
    assert counted.any(axis=1).all()
    assert not counted[-1, 4:].any()
    assert 0.4 < counted[:4].mean() < 0.9
    assert set(feeds["labels"][counted]) <= set(range(5))
