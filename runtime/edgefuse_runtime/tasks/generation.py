"""Texts that a model writes token by token, whatever gives it the next token's logits."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray
from tokenizers import Tokenizer

from edgefuse_devices.errors import InputError
from edgefuse_devices.options import option
from edgefuse_runtime.tasks.sampling import Sampler
from edgefuse_runtime.tasks.text_stream import decode, part_before, stream_before, stream_text

Step = Callable[[Mapping[int, Sequence[int]]], NDArray[np.float32]]
"""What a model says next: a function of the token ids written so far, by the row's index, of rows
that are not finished. Gives their logits, of shape (rows, vocabulary), in the mapping's order."""

MAX_NEW_TOKENS = 128
"""Most tokens of a text, unless a user says otherwise."""


@dataclass(frozen=True)
class GenerationOptions:
    """How texts are written; the flags of `predict`.

    Attributes:
        max_new_tokens: Most tokens of a text.
        temperature: What logits are divided by before a token is drawn; 0 takes the likeliest.
        top_k: Count of tokens to draw from, the likeliest ones; 0 for all.
        top_p: Share of the probability that the likeliest tokens to draw from have.
        seed: Seed of the drawing.
        stop: Texts that end a text, and are no part of it.
    """

    max_new_tokens: int = option(MAX_NEW_TOKENS, help="Most tokens of a text that is written.")
    temperature: float = option(
        0.0, help="What logits are divided by before a token is drawn; 0 takes the likeliest."
    )
    top_k: int = option(0, help="Draw from so many of the likeliest tokens.", shown="all of them")
    top_p: float = option(
        1.0, help="Draw from the likeliest tokens that have this share of the probability."
    )
    seed: int = option(0, help="Seed of the drawing.")
    stop: tuple[str, ...] = option(
        (),
        help="Text that ends what is written, and is no part of it; may be given several times.",
        shown="",
        type=list[str],
    )

    def __post_init__(self) -> None:
        """Refuse values that mean nothing.

        Raises:
            InputError: One is out of its range.
        """
        if self.max_new_tokens < 1:
            raise InputError(f"--max-new-tokens is {self.max_new_tokens}", "Give 1 or more")
        if not 0 <= self.temperature < float("inf"):
            raise InputError(
                f"--temperature is {self.temperature:g}", "Give 0 for the likeliest tokens, or 0.7"
            )
        if self.top_k < 0:
            raise InputError(f"--top-k is {self.top_k}", "Give a count of tokens, or 0 for all")
        if not 0 < self.top_p <= 1:
            raise InputError(f"--top-p is {self.top_p:g}", "Give a share above 0, up to 1")
        if self.seed < 0:
            raise InputError(f"--seed is {self.seed}", "Give 0 or more")
        if not all(self.stop):
            raise InputError("--stop is empty", "Give a text, or leave it out")


class Written(Struct, frozen=True, kw_only=True):
    """A text that a model wrote.

    Attributes:
        prompt: What it was asked.
        text: What it wrote.
        finish_reason: Why it ended: `stop` at a token or a text that ends it, `length` where no
            more tokens were allowed, or fitted.
        tokens: Count of tokens written.
    """

    prompt: str
    text: str
    finish_reason: Literal["stop", "length"]
    tokens: int

    def __str__(self) -> str:
        """The text."""
        return self.text


class Asked(Protocol):
    """What a text is written for: a tokenized row."""

    @property
    def prompt(self) -> str:
        """The text that was asked."""
        ...

    @property
    def number(self) -> int:
        """Number of the row, from 0, which the drawing of its tokens depends on."""
        ...


@dataclass(frozen=True)
class Writer:
    """Writes a text for each row of a batch.

    Attributes:
        step: Function that gives the next tokens' logits.
        rooms: Most tokens that each row has room for.
        stops: Token ids that end a text; they are not part of it.
        tokenizer: Tokenizer that makes texts of token ids.
    """

    step: Step
    rooms: Sequence[int]
    stops: Collection[int]
    tokenizer: Tokenizer

    def write(self, rows: Sequence[Asked], options: GenerationOptions) -> list[Written]:
        """Write the texts of all rows, together."""
        ids: list[list[int]] = [[] for _ in rows]
        for row, token_id in self._tokens(rows, options):
            ids[row].append(token_id)
        return [
            self._written(row, own, options, limit=limit)
            for row, own, limit in zip(rows, ids, self._limits(options), strict=True)
        ]

    def stream(self, row: Asked, options: GenerationOptions) -> Iterator[str]:
        """Write the text of the only row, and give it piece by piece."""
        token_ids = (token_id for _, token_id in self._tokens([row], options))
        return stream_before(options.stop, stream_text(self.tokenizer, token_ids))

    def _written(
        self, row: Asked, ids: Sequence[int], options: GenerationOptions, *, limit: int
    ) -> Written:
        whole = decode(self.tokenizer, ids)
        text = part_before(options.stop, whole)
        return Written(
            prompt=row.prompt,
            text=text,
            finish_reason="length" if text == whole and len(ids) >= limit else "stop",
            tokens=len(ids),
        )

    def _has_stop(self, ids: Sequence[int], options: GenerationOptions) -> bool:
        if not options.stop:
            return False
        text = decode(self.tokenizer, ids)
        return any(stop in text for stop in options.stop)

    def _limits(self, options: GenerationOptions) -> list[int]:
        return [min(room, options.max_new_tokens) for room in self.rooms]

    def _tokens(
        self, rows: Sequence[Asked], options: GenerationOptions
    ) -> Iterator[tuple[int, int]]:
        """Index of a row and its next token id, as they are made."""
        limits = self._limits(options)
        samplers = [
            Sampler(
                options.temperature, options.top_k, options.top_p, seed=(options.seed, r.number)
            )
            for r in rows
        ]
        written: dict[int, list[int]] = {r: [] for r, limit in enumerate(limits) if limit}
        while written:
            logits = self.step(written)
            for (row, ids), scores in zip([*written.items()], logits, strict=True):
                token_id = samplers[row].choose(scores)
                if token_id in self.stops:
                    del written[row]
                    continue
                ids.append(token_id)
                if len(ids) == limits[row] or self._has_stop(ids, options):
                    del written[row]
                yield row, token_id
