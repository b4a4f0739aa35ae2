"""Question answering: the part of a text that answers a question."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta, Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import DataError
from edgefuse_devices.options import option
from edgefuse_runtime.data.batching import Feeds, pad, random_texts
from edgefuse_runtime.data.data_file import numbered
from edgefuse_runtime.data.tokenization import TYPE_IDS, TokenIds, tokenize
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks.answer_spans import Found, Search
from edgefuse_runtime.tasks.answer_windows import Window, cut_windows
from edgefuse_runtime.tasks.answered_questions import (
    Question,
    asked_question,
    read_questions,
    texts_of_answers,
)
from edgefuse_runtime.tasks.squad_metrics import exact_match, f1
from edgefuse_runtime.tasks.task import Asked, Figure, Figures, Model, Outputs

TARGETS = ("start_positions", "end_positions")
"""The training graph's inputs that hold the answer's first and last token in a row, (batch,)."""

OUTPUTS = ("start_logits", "end_logits")
"""Logits of each token to be the answer's first, and its last, both (batch, tokens)."""


@dataclass(frozen=True)
class AskedQuestion:
    """A question to answer.

    Attributes:
        question: The question; its context is empty where it was asked alone.
        windows: Windows of its context; none where it was asked alone.
        token_ids: Every token id of these windows, or of the question alone.
    """

    question: Question
    windows: Sequence[Window]
    token_ids: TokenIds


@dataclass(frozen=True)
class AnswerOptions:
    """What `predict` may be told.

    Attributes:
        context: A text file in which questions that are asked alone are answered.
    """

    context: Path | None = option(
        None, help="A text file that answers the questions, which are given alone.", shown=""
    )

    def text(self, place: str) -> str:
        """The text of the file.

        Args:
            place: Name of the question that needs it, for messages.

        Raises:
            DataError: No file is named, or it cannot be read or is blank.
        """
        if self.context is None:
            raise DataError(
                f"{place} is a question without a context",
                "Name the text that answers it with --context FILE, or give a row: "
                '{"question": "…", "context": "…"}',
            )
        text = "\n".join(line for _, line in numbered(self.context))
        if not text.strip():
            raise DataError(f"{self.context} has no text", "Name the text that answers")
        return text


class Prediction(Struct, frozen=True, kw_only=True):
    """An answer that a model found.

    Attributes:
        question: The question as given.
        answer: A part of the context; empty where the context has no answer.
        score: Probability of the answer among the best ones.
        start: Index of the answer's first character in the context.
        end: Index behind the answer's last character.
    """

    question: str
    answer: str
    score: float
    start: int
    end: int

    def __str__(self) -> str:
        """Answer, score, characters and question, with tabs between."""
        answer = " ".join(self.answer.split()) or "(no answer)"
        return f"{answer}\t{self.score:.3f}\t{self.start}:{self.end}\t{self.question}"


class Metric:
    """F1 and exact match of questions, whose windows come in any order."""

    def __init__(self, *, unanswerable: bool) -> None:
        self._unanswerable = unanswerable
        self._searches: dict[Question, Search] = {}
        self._questions = 0
        self._f1 = 0.0
        self._exact = 0.0

    def update(self, examples: Sequence[Window], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch of windows; a question counts once all of its windows came."""
        for window, *logits in zip(examples, *(outputs[name] for name in OUTPUTS), strict=True):
            search = self._searches.setdefault(window.row, Search(window.row.context))
            search.add(window, *logits)
            if search.windows == window.windows:
                self._count(window.row, self._searches.pop(window.row))

    def _count(self, question: Question, search: Search) -> None:
        found = search.best(unanswerable=self._unanswerable).text
        answers = texts_of_answers(question.answers)
        self._questions += 1
        self._f1 += f1(found, answers)
        self._exact += exact_match(found, answers)

    def result(self) -> Figures:
        """The figures over all questions, F1 first."""
        return {"f1": self._f1 / self._questions, "exact_match": self._exact / self._questions}


class QuestionAnswering(Tagged, frozen=True, kw_only=True, tag="question-answering"):
    """The part of a context that answers a question.

    Attributes:
        doc_stride: Count of tokens that neighbouring windows of a long context share; None for 128,
            or a third of shorter windows.
        unanswerable: Whether a context may be without an answer, as in SQuAD 2.0.
        token_types: Whether the model takes the types of tokens: 0 in the question, 1 in the
            context.
        null_tokens: Token ids to which a window without the answer points, the first one that it
            has: CLS, or the one that begins a text.
    """

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="f1", title="F1", format=".1%"),
        Figure(name="exact_match", title="exact match", format=".1%"),
    )

    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[AnswerOptions]] = AnswerOptions

    doc_stride: Annotated[int, Meta(ge=0)] | None = None
    unanswerable: bool = False
    token_types: bool
    null_tokens: list[int]

    @property
    def summary(self) -> str:
        """Name of the task, and whether there may be no answer."""
        return f"{self.name}, {'some without an answer' if self.unanswerable else 'all answered'}"

    @property
    def smallest_batch(self) -> int:
        """One row."""
        return 1

    def read(self, file: Path, tokenizer: Tokenizer) -> list[Window]:
        """Read questions with their contexts and answers, and cut them into windows.

        Raises:
            DataError: A row is broken, its answer is not where it says, or its question leaves no
                room for the context; the message names file and line.
        """
        questions = read_questions(file, unanswerable=self.unanswerable)
        return [window for windows in self._windows(questions, tokenizer) for window in windows]

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[AskedQuestion]:
        """Tokenize questions to answer, an example each.

        Raises:
            DataError: One is blank, or lacks one of the two texts.
        """
        questions = [
            asked_question(one, f"text:{number}") for number, one in enumerate(asked, start=1)
        ]
        with_context = [question for question in questions if question.context]
        windows = dict(zip(with_context, self._windows(with_context, tokenizer), strict=True))
        alone = tokenize(tokenizer, [question.text for question in questions])
        return [
            AskedQuestion(
                question,
                own := windows.get(question, []),
                np.concatenate([window.token_ids for window in own]) if own else ids,
            )
            for question, ids in zip(questions, alone, strict=True)
        ]

    def collate(self, examples: Sequence[Window], *, padding_id: int) -> Feeds:
        """Token ids, mask and, where the model takes them, token types, all (batch, tokens).

        The positions of the answers are (batch,).
        """
        input_ids, mask = pad([window.token_ids for window in examples], padding_id)
        feeds: Feeds = {"input_ids": input_ids, "attention_mask": mask}
        if self.token_types:
            feeds[TYPE_IDS], _ = pad([window.token_types for window in examples], 0)
        spans = np.array([window.span for window in examples], np.int64)
        return {**feeds, **dict(zip(TARGETS, spans.T, strict=True))}

    def terms(self, feeds: Feeds) -> float:
        """Count the windows."""
        return len(feeds[TARGETS[0]])

    def learned_tokens(self, feeds: Feeds) -> None:
        """None: the loss is no mean over tokens that know nothing of each other."""

    def random_feeds(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        token_ids: NDArray[np.int64],
        *,
        padded: bool = False,
    ) -> Feeds:
        """A batch of random token ids and random positions."""
        feeds = random_texts(rng, shape, token_ids, padded=padded)
        if self.token_types:
            feeds[TYPE_IDS] = rng.integers(2, size=shape, dtype=np.int64)
        positions = rng.integers(shape[1], size=(2, shape[0]), dtype=np.int64)
        return {**feeds, **dict(zip(TARGETS, positions, strict=True))}

    def metric(self) -> Metric:
        """F1 and exact match."""
        return Metric(unanswerable=self.unanswerable)

    def predict(
        self, examples: Sequence[AskedQuestion], model: Model, options: AnswerOptions
    ) -> list[Prediction]:
        """The best answer to each question.

        Raises:
            DataError: A question was asked alone, and no context is named; or it leaves no room
                for it.
        """
        questions: list[Question] = []
        windows: list[Window] = []
        for example in examples:
            question = example.question
            if not example.windows:
                context = options.text(question.place)
                question = Question(question.place, question.text, context)
            questions.append(question)
            windows += example.windows or next(self._windows([question], model.tokenizer))
        searches = {question: Search(question.context) for question in questions}
        for start in range(0, len(windows), len(examples)):
            batch = windows[start : start + len(examples)]
            outputs = model.run(self.collate(batch, padding_id=model.padding_id))
            for window, *logits in zip(batch, *(outputs[name] for name in OUTPUTS), strict=True):
                searches[window.row].add(window, *logits)
        found = (search.best(unanswerable=self.unanswerable) for search in searches.values())
        return [
            _prediction(question, answer) for question, answer in zip(questions, found, strict=True)
        ]

    def _windows(
        self, questions: Sequence[Question], tokenizer: Tokenizer
    ) -> Iterator[list[Window]]:
        return cut_windows(
            tokenizer, questions, stride=self.doc_stride, null_tokens=self.null_tokens
        )


def _prediction(question: Question, found: Found) -> Prediction:
    return Prediction(
        question=question.text,
        answer=found.text,
        score=found.probability,
        start=found.start,
        end=found.end,
    )
