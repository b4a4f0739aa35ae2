"""Text-to-text generation: an encoder reads a prompt, a decoder writes its completion."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import numpy as np
from msgspec import Meta
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_runtime.data.batching import Feeds, pad, random_texts
from edgefuse_runtime.data.chunks import chunks
from edgefuse_runtime.data.rows import Row, read_rows
from edgefuse_runtime.data.tokenization import (
    TokenIds,
    cut_at,
    refuse_empty,
    refuse_tokenless,
    tokenize,
)
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks import next_token, text_metrics
from edgefuse_runtime.tasks.generation import GenerationOptions, Writer, Written
from edgefuse_runtime.tasks.generation_metric import EvaluationOptions, GenerationMetric
from edgefuse_runtime.tasks.next_token import IGNORED, NextTokenMetric
from edgefuse_runtime.tasks.prompts import PROMPT_ROW, prompt_of, text_in
from edgefuse_runtime.tasks.task import Asked, Figure, Figures, Model, Outputs

TARGET = "labels"
"""The training graph's input that holds the token ids of completions, (batch, tokens)."""


class EncodedPair(NamedTuple):
    """A tokenized prompt, and its completion.

    Attributes:
        prompt_ids: Token ids of the prompt, of shape (prompt,).
        completion_ids: Token ids of the completion, its end among them, of shape (tokens,); None
            where it is to be written.
        prompt: The prompt, where it is to be shown with a completion.
        references: Every good completion, with which what the model writes is compared.
        number: Number of the row, from 0.
        place: File and line, as messages name it.
    """

    prompt_ids: TokenIds
    completion_ids: TokenIds | None = None
    prompt: str = ""
    references: tuple[str, ...] = ()
    number: int = 0
    place: str = ""

    @property
    def token_ids(self) -> TokenIds:
        """Every token id of both."""
        if self.completion_ids is None:
            return self.prompt_ids
        return np.concatenate([self.prompt_ids, self.completion_ids])


class Metric:
    """Loss and perplexity over the batches of a data file."""

    def __init__(self) -> None:
        self._metric = NextTokenMetric()

    def update(self, examples: Sequence[EncodedPair], feeds: Feeds, outputs: Outputs) -> None:
        """Take a batch with its labels."""
        self._metric.update(outputs["logits"], feeds[TARGET])

    def result(self) -> Figures:
        """The figures, the loss first."""
        return self._metric.result()


class Text2TextGeneration(Tagged, frozen=True, kw_only=True, tag="text2text-generation"):
    """A text for a text, by an encoder and a decoder.

    Attributes:
        decoder_start_token_id: Token id that the decoder begins with; it is not written.
        eos_token_ids: Token ids each of which ends a text.
        forced_bos_token_id: Token id that every text begins with; None for any.
        forced_eos_token_id: Token id that ends a text of the greatest length; None for any.
        target_length: Most tokens of a completion, its end counted; None for as many as a prompt's.
    """

    figures: ClassVar[tuple[Figure, ...]] = (*next_token.FIGURES, *text_metrics.FIGURES)

    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    encoder_decoder: ClassVar[bool] = True
    prediction_options: ClassVar[type[GenerationOptions]] = GenerationOptions
    evaluation_options: ClassVar[type[EvaluationOptions]] = EvaluationOptions

    decoder_start_token_id: Annotated[int, Meta(ge=0)]
    eos_token_ids: Annotated[list[int], Meta(min_length=1)]
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    target_length: Annotated[int, Meta(ge=2)] | None = None

    @property
    def summary(self) -> str:
        """Name of the task, and the length of completions where it is another than prompts'."""
        if self.target_length is None:
            return self.name
        return f"{self.name}, completions of {self.target_length} tokens"

    @property
    def smallest_batch(self) -> int:
        """One row."""
        return 1

    def read(self, file: Path, tokenizer: Tokenizer) -> Iterator[EncodedPair]:
        """Read and tokenize rows with `prompt` and `completion`.

        Raises:
            DataError: A row is broken, or a text of it has no token; it names file and line.
        """
        numbers = count()
        for some in chunks(read_rows(file, PROMPT_ROW), lambda row: row.size):
            rows = [prompt_of(row) for row in some]
            prompts = tokenize(tokenizer, [row.prompt for row in rows])
            with cut_at(tokenizer, self.target_length):
                completions = tokenize(tokenizer, [row.completion for row in rows])
            for token_ids in (prompts, completions):
                refuse_tokenless(token_ids, [row.place for row in rows])
            for row, prompt, completion in zip(rows, prompts, completions, strict=True):
                yield EncodedPair(
                    prompt, completion, row.prompt, row.references, next(numbers), row.place
                )

    def examples(self, asked: Sequence[Asked], tokenizer: Tokenizer) -> list[EncodedPair]:
        """Tokenize prompts, given as they are or as rows with a `prompt`.

        Raises:
            DataError: A prompt is blank, or has no token.
        """
        rows = [
            Row(f"prompt:{number}", dict(one) if isinstance(one, Mapping) else {"prompt": one})
            for number, one in enumerate(asked, start=1)
        ]
        prompts = [text_in(row, "prompt", PROMPT_ROW) for row in rows]
        token_ids = tokenize(tokenizer, prompts)
        refuse_empty(token_ids, "prompt")
        return [
            EncodedPair(ids, prompt=text, number=number)
            for number, (ids, text) in enumerate(zip(token_ids, prompts, strict=True))
        ]

    def collate(self, examples: Sequence[EncodedPair], *, padding_id: int) -> Feeds:
        """Prompts and their mask, (batch, prompt), and completions, both (batch, tokens).

        Completions stand among the feeds as labels, and as what the decoder reads: the same, one
        place to the right, behind the start token.
        """
        input_ids, mask = pad([example.prompt_ids for example in examples], padding_id)
        feeds: Feeds = {"input_ids": input_ids, "attention_mask": mask}
        completions = [e.completion_ids for e in examples if e.completion_ids is not None]
        if completions:
            labels, _ = pad(completions, IGNORED)
            feeds["decoder_input_ids"] = self.shift_right(labels, padding_id)
            feeds[TARGET] = labels
        return feeds

    def shift_right(self, labels: NDArray[np.int64], padding_id: int) -> NDArray[np.int64]:
        """What the decoder reads to predict the labels, (batch, tokens) as they."""
        starts = np.full((len(labels), 1), self.decoder_start_token_id)
        before = np.where(labels == IGNORED, padding_id, labels)[:, :-1]
        return np.concatenate([starts, before], axis=1)

    def terms(self, feeds: Feeds) -> float:
        """Count the tokens that are learned."""
        return int(np.count_nonzero(feeds[TARGET] != IGNORED))

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
        """A batch of random prompts and completions.

        With padding, completions are a token shorter than prompts, whatever their greatest length:
        a trace tells by two shapes which sizes are free.
        """
        rows, tokens = shape
        feeds = random_texts(rng, shape, token_ids, padded=padded)
        length = max(1, tokens - 1) if padded else min(tokens, self.target_length or tokens)
        target = random_texts(rng, (rows, length), token_ids, padded=padded)
        labels = np.where(target["attention_mask"] == 1, target["input_ids"], IGNORED)
        feeds["decoder_input_ids"] = self.shift_right(labels, int(token_ids[0]))
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
        return GenerationMetric(lambda examples: self.predict(examples, model, writing))

    def predict(
        self, examples: Sequence[EncodedPair], model: Model, options: GenerationOptions
    ) -> list[Written]:
        """A completion for each prompt."""
        return self._writer(examples, model, options).write(examples, options)

    def stream(
        self, example: EncodedPair, model: Model, options: GenerationOptions
    ) -> Iterator[str]:
        """The completion for a prompt, as it is made."""
        return self._writer([example], model, options).stream(example, options)

    def _writer(
        self, examples: Sequence[EncodedPair], model: Model, options: GenerationOptions
    ) -> Writer:
        """Writes completions; prompts are read anew for every token."""
        limits = model.tokenizer.truncation
        assert limits is not None
        room = min(self.target_length or limits["max_length"], options.max_new_tokens)
        input_ids, mask = pad([example.prompt_ids for example in examples], model.padding_id)

        def step(written: Mapping[int, Sequence[int]]) -> NDArray[np.float32]:
            rows = [*written]
            read = [[self.decoder_start_token_id, *token_ids] for token_ids in written.values()]
            feeds = {
                "input_ids": input_ids[rows],
                "attention_mask": mask[rows],
                "decoder_input_ids": np.array(read, np.int64),
            }
            last: NDArray[np.float32] = model.run(feeds)["logits"][:, -1]
            forced = self._forced(place=len(read[0]) - 1, room=room)
            if forced is not None:
                last[:] = -np.inf
                last[:, forced] = 0
            return last

        return Writer(step, [room] * len(examples), self.eos_token_ids, model.tokenizer)

    def _forced(self, *, place: int, room: int) -> int | None:
        """The token id that must be at a place of a completion; None for any."""
        if place == 0 and self.forced_bos_token_id is not None:
            return self.forced_bos_token_id
        return self.forced_eos_token_id if place == room - 1 else None
