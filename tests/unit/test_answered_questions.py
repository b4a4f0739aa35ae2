"""Rows of questions: the forms that are read, and the sentence for each that cannot be."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from edgefuse_devices.errors import DataError
from edgefuse_runtime.tasks.answered_questions import (
    Answer,
    Question,
    asked_question,
    read_questions,
)

CONTEXT = "Die Lampe 💡 ist im Flur, im Flur."
QUESTION = "Wo ist die Lampe?"
ANSWER = Answer("im Flur", 16)


def read(folder: Path, *rows: Any, unanswerable: bool = False) -> list[Question]:
    file = folder / "rows.jsonl"
    file.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return read_questions(file, unanswerable=unanswerable)


def row(answers: Any, **fields: Any) -> dict[str, Any]:
    return {"context": CONTEXT, "question": QUESTION, "answers": answers, **fields}


FORMS = {
    "a list": [{"text": "im Flur", "start": 16}],
    "SQuAD's names": [{"text": "im Flur", "answer_start": 16}],
    "SQuAD's lists": {"text": ["im Flur"], "answer_start": [16]},
    "one alone": {"text": "im Flur", "start": 16},
    "a whole number with a point": {"text": ["im Flur"], "start": [16.0]},
    "a cell of a table": '[{"text": "im Flur", "start": 16}]',
    "a cell as SQuAD has it": '{"text": ["im Flur"], "answer_start": [16]}',
}


@pytest.mark.parametrize("form", FORMS)
def test_answers_are_read_in_every_form_that_they_have(form: str, tmp_path: Path) -> None:
    assert CONTEXT[16:23] == "im Flur"
    (question,) = read(tmp_path, row(FORMS[form]))
    assert question.answers == (ANSWER,)
    assert (question.text, question.context) == (QUESTION, CONTEXT)


def test_a_table_holds_answers_as_json(tmp_path: Path) -> None:
    file = tmp_path / "rows.csv"
    with file.open("w", newline="", encoding="utf-8") as output:
        table = csv.writer(output)
        table.writerow(["id", "context", "question", "answers"])
        table.writerow([7, f"{CONTEXT}\n", QUESTION, json.dumps(FORMS["SQuAD's lists"])])
    (question,) = read_questions(file, unanswerable=False)
    assert question.answers == (ANSWER,)
    assert question.context == f"{CONTEXT}\n"


def test_every_answer_is_kept_and_a_context_only_once(tmp_path: Path) -> None:
    both = [{"text": "im Flur", "start": 16}, {"text": "im Flur, im Flur", "start": 16}]
    first, second = read(tmp_path, row(both), row(both[:1], question="  Wo?", id=7))
    assert first.answers == (ANSWER, Answer("im Flur, im Flur", 16))
    assert first.context is second.context
    assert second.text == "Wo?"


@pytest.mark.parametrize("answers", [[], {"text": [], "answer_start": []}, "[]"])
def test_a_question_without_an_answer_is_read_where_some_have_none(
    answers: Any, tmp_path: Path
) -> None:
    (question,) = read(tmp_path, row(answers), unanswerable=True)
    assert question.answers == ()
    with pytest.raises(DataError, match=r"rows.jsonl:1 has no answer\. .*--unanswerable"):
        read(tmp_path, row(answers))


REFUSED = {
    "no context": ({"question": "x", "answers": []}, r'has no "context"\. A row looks like'),
    "no question": ({"context": "x", "answers": []}, 'has no "question"'),
    "a classifier's row": ({"text": "x", "label": "y"}, 'has no "context"'),
    "blank context": ({"context": " \n", "question": "x"}, 'has an empty "context"'),
    "blank question": ({"context": "x", "question": ""}, 'has an empty "question"'),
    "question is a list": ({"context": "x", "question": ["x"]}, 'has no "question"'),
    "no answers": ({"context": "x", "question": "x"}, 'has no "answers"'),
    "blank cell": (row(" "), 'has no "answers"'),
    "a text alone": (row("im Flur"), '"answers" of broken JSON'),
    "Python's quotes": (row("[{'text': 'im Flur'}]"), r"broken JSON.*double quotes"),
    "texts alone": (row(["im Flur"]), '"answers" of another form'),
    "a number": (row(16), '"answers" of another form'),
    "lists of two lengths": (
        row({"text": ["im Flur", "Flur"], "start": [16]}),
        'has 2 texts and 1 starts in "answers"',
    ),
    "text is a number": (row([{"text": 16, "start": 16}]), "an answer without a text"),
    "empty answer": (row([{"text": " ", "start": 3}]), r"an empty answer.*\"answers\": \[\]"),
    "no start": (row([{"text": "im Flur"}]), "the answer 'im Flur' without a start"),
    "start is true": (row([{"text": "im Flur", "start": True}]), "without a start"),
    "start is a text": (row([{"text": "im Flur", "start": "16"}]), "without a start"),
    "start is a half": (row([{"text": "im Flur", "start": 16.5}]), "without a start"),
    "counted in bytes": (
        row([{"text": "im Flur", "start": 19}]),
        r"the answer 'im Flur' at 19, where.*begins at 16: count characters, not bytes",
    ),
    "counted from 1": (
        row([{"text": "im Flur", "start": 17}]),
        "at 17, where its context has something else.*begins at 16, counted from 0",
    ),
    "counted from the end": (row([{"text": "Flur.", "start": -5}]), "begins at 28, counted from 0"),
    "behind the end": (row([{"text": "im Flur", "start": 99}]), "begins at 25, counted from 0"),
    "other capitals": (
        row([{"text": "die lampe", "start": 0}]),
        "The context has it as 'Die Lampe', at 0",
    ),
    "other words": (
        row([{"text": "im Keller", "start": 16}]),
        "An answer is a part of its context, letter by letter",
    ),
    "a second answer": (row([*FORMS["a list"], {"text": "x", "start": 0}]), "the answer 'x' at 0"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_row_that_says_something_else_is_named_by_file_and_line(
    case: str, tmp_path: Path
) -> None:
    broken, sentence = REFUSED[case]
    with pytest.raises(DataError, match=sentence) as caught:
        read(tmp_path, row(FORMS["a list"]), broken)
    assert f"{tmp_path / 'rows.jsonl'}:2 " in str(caught.value)


def test_a_question_is_asked_as_a_row_or_alone() -> None:
    fields = {"question": " Wo?", "context": CONTEXT}
    for asked in (fields, json.dumps(fields)):
        question = asked_question(asked, "text:1")
        assert (question.text, question.context) == ("Wo?", CONTEXT)
    alone = asked_question(" Wo?", "text:1")
    assert (alone.text, alone.context) == ("Wo?", "")


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        (" \t", "text:3 is blank"),
        ('{"question": "Wo?"', "text:3 is broken JSON"),
        ('{"question": "Wo?"}', 'text:3 has no "context".*"question": "Where'),
        ({"context": "x"}, 'text:3 has no "question"'),
    ],
)
def test_what_is_no_question_is_refused(asked: Any, sentence: str) -> None:
    with pytest.raises(DataError, match=sentence):
        asked_question(asked, "text:3")
