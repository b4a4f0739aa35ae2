"""Text generation: a text goes on, token by token."""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, ClassVar

import numpy as np
from msgspec import Meta, field
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import InputError
from edgefuse_runtime.data.batching import Feeds, LearnedTokens, pad, random_texts
from edgefuse_runtime.data.chunks import chunks
from edgefuse_runtime.data.rows import Row
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks import next_token, text_metrics
from edgefuse_runtime.tasks.chat_template import ChatTemplate, Message
from edgefuse_runtime.tasks.conversation import Conversation
from edgefuse_runtime.tasks.generation import GenerationOptions, Writer, Written
from edgefuse_runtime.tasks.generation_metric import EvaluationOptions, GenerationMetric
from edgefuse_runtime.tasks.next_token import IGNORED, NextTokenMetric
from edgefuse_runtime.tasks.passages import (
    EncodedPassage,
    encode_passages,
    question_of,
    read_passages,
)
from edgefuse_runtime.tasks.task import (
    Asked,
    Figure,
    Figures,
    Model,
    NextLogits,
    Outputs,
)

TARGET = "labels"
"""The training graph's input that holds the token ids to learn, (batch, tokens)."""

_PROMPT_SHARE = 4
"""Random rows are a prompt up to one over this of their tokens."""


class Metric:
    """Loss and perplexity over the batches of a data file."""

    def __init__(self) -> None:
        self._metric = NextTokenMetric()

    def update(self, examples: Sequence[EncodedPassage], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch: what a token is, the logits of the token before it say."""
        self._metric.update(outputs["logits"][:, :-1], feeds[TARGET][:, 1:])

    def result(self) -> Figures:
        """The loss first."""
        return self._metric.result()


class TextGeneration(Tagged, frozen=True, kw_only=True, tag="text-generation"):
    """A text that goes on.

    Attributes:
        end_id: Token id that ends a text.
        stop_ids: Token ids at which the model has ended its text, that one among them.
        chat_template: The tokenizer's chat template, in Jinja; None where it has none.
        special_tokens: Texts of special tokens by the names that a chat template knows.
        date: The date that a chat template writes as today's; None where it writes none.
    """

    figures: ClassVar[tuple[Figure, ...]] = (*next_token.FIGURES, *text_metrics.FIGURES)
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[GenerationOptions]] = GenerationOptions
    evaluation_options: ClassVar[type[EvaluationOptions]] = EvaluationOptions

    end_id: Annotated[int, Meta(ge=0)]
    stop_ids: list[int]
    chat_template: str | None = None
    special_tokens: dict[str, str] = field(default_factory=dict)
    date: dt.date | None = None

    @property
    def summary(self) -> str:
        """Name of the task."""
        return self.name

    @property
    def smallest_batch(self) -> int:
        """One row."""
        return 1

    def read(self, file: Path, tokenizer: Tokenizer) -> Iterator[EncodedPassage]:
        """Read and tokenize rows with `text`, `prompt` and `completion`, or `messages`.

        Raises:
            DataError: A row is broken, has no token, or has a prompt as long as the window; the
                message names file and line.
        """
        begin = 0
        for some in chunks(read_passages(file, self._chats), lambda passage: passage.size):
            yield from encode_passages(some, tokenizer, end_id=self.end_id, first=begin)
            begin += len(some)

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[EncodedPassage]:
        """Tokenize prompts to go on from, or rows with a `prompt`, `messages` or a `text`.

        Raises:
            DataError: A prompt is blank, has no token, or is as long as the window.
        """
        rows = [
            Row(f"prompt:{number}", dict(one) if isinstance(one, Mapping) else {"prompt": one})
            for number, one in enumerate(asked, start=1)
        ]
        questions = [question_of(row, self._chats) for row in rows]
        return encode_passages(questions, tokenizer, end_id=self.end_id)

    def collate(self, examples: Sequence[EncodedPassage], *, padding_id: int) -> Feeds:
        """Token ids, mask and token ids to learn, all (batch, tokens).

        What is padding is told by lengths: a token that pads may also be one that ends a text.
        """
        input_ids, mask = pad([example.token_ids for example in examples], padding_id)
        wanted = [np.where(one.counted, one.token_ids, IGNORED) for one in examples]
        labels, _ = pad(wanted, IGNORED)
        return {"input_ids": input_ids, "attention_mask": mask, TARGET: labels}

    def terms(self, feeds: Feeds) -> float:
        """Count the tokens that are learned."""
        return int(np.count_nonzero(feeds[TARGET][:, 1:] != IGNORED))

    def learned_tokens(self, feeds: Feeds) -> LearnedTokens:
        """Places of the tokens whose next one is learned, and that one."""
        following = np.full_like(feeds[TARGET], IGNORED)
        following[:, :-1] = feeds[TARGET][:, 1:]
        places = np.flatnonzero(following != IGNORED)
        return LearnedTokens(places, following.ravel()[places])

    def random_feeds(
        self,
        rng: np.random.Generator,
        shape: tuple[int, int],
        token_ids: NDArray[np.int64],
        *,
        padded: bool = False,
    ) -> Feeds:
        """A batch of random token ids; the first of them are a prompt, which is not learned."""
        feeds = random_texts(rng, shape, token_ids, padded=padded)
        labels = np.where(feeds["attention_mask"] == 1, feeds["input_ids"], IGNORED)
        labels[:, : shape[1] // _PROMPT_SHARE] = IGNORED
        return {**feeds, TARGET: labels}

    def metric(self) -> Metric:
        """Loss and perplexity."""
        return Metric()

    def prediction_metric(
        self, model: Model, options: EvaluationOptions
    ) -> GenerationMetric | None:
        """Exact match, chrF and BLEU of completions, where the model is to write any."""
        writing = options.writing()
        if writing is None:
            return None
        limits = model.tokenizer.truncation
        assert limits is not None
        length = int(limits["max_length"])
        return GenerationMetric(
            lambda examples: self.predict(examples, model, writing),
            has_room=lambda example: 0 < example.prompt_length < length,
        )

    def predict(
        self, examples: Sequence[EncodedPassage], model: Model, options: GenerationOptions
    ) -> list[Written]:
        """How each text goes on."""
        writer = self._writer(examples, model.tokenizer, model.next_logits())
        return writer.write(examples, options)

    def stream(
        self, example: EncodedPassage, model: Model, options: GenerationOptions
    ) -> Iterator[str]:
        """How a text goes on, as it is made."""
        writer = self._writer([example], model.tokenizer, model.next_logits())
        return writer.stream(example, options)

    def conversation(
        self, model: Model, options: GenerationOptions, *, system: str = ""
    ) -> Conversation:
        """A conversation with a model, by its chat template, without a message yet.

        Raises:
            InputError: The tokenizer of the model has no chat template.
        """
        if self.chat_template is None:
            raise InputError(
                "The model's tokenizer has no chat template, so that nobody can say how it reads "
                "a conversation",
                "Begin from a model for chats, or use `edgefuse predict`",
            )
        next_logits = model.next_logits()  # one for all answers: it remembers the messages

        def write(messages: Sequence[Message]) -> Iterator[str]:
            asked = question_of(Row("The conversation", {"messages": [*messages]}), self._chats)
            (example,) = encode_passages([asked], model.tokenizer, end_id=self.end_id)
            writer = self._writer([example], model.tokenizer, next_logits)
            return writer.stream(example, options)

        return Conversation(write, system=system)

    def _writer(
        self, examples: Sequence[EncodedPassage], tokenizer: Tokenizer, next_logits: NextLogits
    ) -> Writer:
        """Writes behind prompts."""
        limits = tokenizer.truncation
        assert limits is not None
        prompts = [example.token_ids[: example.prompt_length].tolist() for example in examples]

        def step(written: Mapping[int, Sequence[int]]) -> NDArray[np.float32]:
            return next_logits([[*prompts[row], *ids] for row, ids in written.items()])

        return Writer(
            step=step,
            rooms=[int(limits["max_length"]) - len(prompt) for prompt in prompts],
            stops=self.stop_ids,
            tokenizer=tokenizer,
        )

    @property
    def _chats(self) -> ChatTemplate | None:
        if self.chat_template is None:
            return None
        return ChatTemplate(self.chat_template, self.special_tokens, self.date)
