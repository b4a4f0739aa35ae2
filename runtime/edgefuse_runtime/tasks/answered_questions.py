"""Questions about a text, with their answers: parts of it."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from edgefuse_devices.errors import DataError
from edgefuse_runtime.data.cells import decoded_cell
from edgefuse_runtime.data.json_lines import json_object
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.texts import field_of

ANSWERED_ROW = (
    'A row looks like {"context": "The lamp is in the hall.", "question": "Where is the lamp?", '
    '"answers": [{"text": "in the hall", "start": 12}]}'
)

_ASKED_ROW = (
    'A row looks like {"context": "The lamp is in the hall.", "question": "Where is the lamp?"}'
)
_SHOWN = 60


class Answer(NamedTuple):
    """An answer to a question.

    Attributes:
        text: The part of the context that answers.
        start: Index of its first character in the context.
    """

    text: str
    start: int


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """A question about a text; equal to itself only.

    Attributes:
        place: File and line, as messages name it.
        text: The question, which begins with no blank.
        context: The text that answers it.
        answers: Answers, of which the first is trained on; none where the context has none.
    """

    place: str
    text: str
    context: str
    answers: tuple[Answer, ...] = ()


def read_questions(file: Path, *, unanswerable: bool) -> list[Question]:
    """Read a file of questions with their answers.

    `answers` is a list of objects with `text` and `start`, or an object of two lists, as SQuAD has
    it; `answer_start` stands for `start`. A cell of a table holds it as JSON.

    Args:
        file: Rows with `context`, `question` and `answers`.
        unanswerable: Whether questions may be without an answer, as in SQuAD 2.0.

    Raises:
        DataError: The file cannot be read, a row is broken, or an answer is not in its context
            where it says; the message names file and line.
    """
    questions: list[Question] = []
    contexts: dict[str, str] = {}
    for row in read_rows(file, ANSWERED_ROW):
        question = _question(row, ANSWERED_ROW)
        answers = _answers(row)
        if not answers and not unanswerable:
            raise DataError(
                f"{row.place} has no answer",
                "Remove the row, or export the model with --unanswerable, which lets questions "
                "be without",
            )
        for answer in answers:
            _check(answer, question.context, row.place)
        # Several questions are about one text, which is kept once.
        context = contexts.setdefault(question.context, question.context)
        questions.append(Question(row.place, question.text, context, tuple(answers)))
    return questions


def asked_question(asked: str | Mapping[str, Any], place: str) -> Question:
    """A question to answer, given as a row, as a row's JSON, or alone, with an empty context.

    Args:
        asked: Fields of a row, or a text.
        place: Name of what was given, for messages.

    Raises:
        DataError: It is blank, or the row lacks one of the two texts.
    """
    if not isinstance(asked, str):
        return _question(Row(place, dict(asked)), _ASKED_ROW)
    if asked.lstrip().startswith("{"):
        return _question(Row(place, json_object(asked, place, _ASKED_ROW)), _ASKED_ROW)
    if not asked.strip():
        raise DataError(f"{place} is blank", "Give a question")
    return Question(place, asked.lstrip(), "")


def _question(row: Row, form: str) -> Question:
    context, question = (field_of(row, name, form) for name in ("context", "question"))
    # Blanks before a question would be tokens of their own, as run_qa.py of transformers says.
    return Question(row.place, question.lstrip(), context)


def _answers(row: Row) -> list[Answer]:
    answers = row.fields.get("answers")
    if isinstance(answers, str) and answers.strip():
        answers = decoded_cell(answers, "answers", row.place)
    if answers is None or isinstance(answers, str):
        raise DataError(f'{row.place} has no "answers"', ANSWERED_ROW)
    if isinstance(answers, dict):
        texts, starts = _list(answers.get("text")), _list(_start(answers))
        if len(texts) != len(starts):
            raise DataError(
                f'{row.place} has {len(texts)} texts and {len(starts)} starts in "answers"',
                "Give each answer a text and a start",
            )
        found = list(zip(texts, starts, strict=True))
    elif isinstance(answers, list) and all(isinstance(answer, dict) for answer in answers):
        found = [(answer.get("text"), _start(answer)) for answer in answers]
    else:
        raise DataError(f'{row.place} has "answers" of another form', ANSWERED_ROW)
    return [_answer(text, start, row.place) for text, start in found]


def _start(answer: Mapping[str, Any]) -> Any:
    return answer.get("start", answer.get("answer_start"))


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return value if isinstance(value, list) else [value]


def _answer(text: Any, start: Any, place: str) -> Answer:
    if not isinstance(text, str):
        raise DataError(f"{place} has an answer without a text", ANSWERED_ROW)
    if not text.strip():
        raise DataError(
            f"{place} has an empty answer",
            'Remove it; "answers": [] says that the context has none',
        )
    whole = isinstance(start, float) and start.is_integer()
    if isinstance(start, bool) or not (isinstance(start, int) or whole):
        raise DataError(
            f"{place} has the answer {_shown(text)} without a start",
            "A start is the index of the answer's first character in the context, from 0",
        )
    return Answer(text, int(start))


def _check(answer: Answer, context: str, place: str) -> None:
    """Refuse an answer that is not in its context where it says.

    Raises:
        DataError: It is not; the hint says where it is.
    """
    text, start = answer
    if start < 0 or context[start : start + len(text)] != text:
        raise DataError(
            f"{place} has the answer {_shown(text)} at {start}, where its context has something "
            "else",
            _hint(answer, context),
        )


def _hint(answer: Answer, context: str) -> str:
    text, start = answer
    places = [match.start() for match in re.finditer(f"(?={re.escape(text)})", context)]
    if places:
        counted = [place for place in places if len(context[:place].encode()) == start]
        if counted:
            return f"It begins at {counted[0]}: count characters, not bytes"
        return f"It begins at {min(places, key=lambda place: abs(place - start))}, counted from 0"
    like = re.search(re.escape(text), context, re.IGNORECASE)
    if like:
        return f"The context has it as {_shown(like.group())}, at {like.start()}"
    return "An answer is a part of its context, letter by letter"


def _shown(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…")


def texts_of_answers(answers: Sequence[Answer]) -> list[str]:
    """The texts of answers."""
    return [answer.text for answer in answers]
