"""Texts that a model goes on with: what it has read of them is not computed again."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse_runtime.graph.cache import POSITIONS, past_names, present_of
from edgefuse_runtime.inference.bound import BoundGraph
from edgefuse_runtime.session import onnxruntime

Text = Sequence[int]
"""Token ids."""


class Continuation:
    """Gives the logits that follow texts, by the keys and values of what it read last.

    The texts of a batch are padded on the left, so that all of them end together: what is new of
    each is one block, and the masks and places of tokens say where a text begins. Where the texts
    of a call go on from those of the one before, by as many tokens each, only these are computed. A
    text that is alone may also differ from the one before: what both begin with is kept.
    """

    def __init__(self, graph: BoundGraph, *, padding_id: int) -> None:
        """Begin with nothing read.

        Args:
            graph: decode.onnx.
            padding_id: Token id that pads.
        """
        self._graph, self._padding_id = graph, padding_id
        self._texts: list[list[int]] = []
        self._mask = np.zeros((0, 0), np.int64)
        self._past: dict[str, Any] = dict.fromkeys(past_names(graph.shapes))

    def __call__(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits of the token after each text, (texts, vocabulary).

        Args:
            texts: At least one text of at least one token.
        """
        wanted = [list(text) for text in texts]
        new = self._go_on(wanted) or self._begin(wanted)
        block = np.full((len(wanted), new), self._padding_id, np.int64)
        for row, text in enumerate(wanted):
            own = text[-new:]
            block[row, new - len(own) :] = own
        places = np.maximum(self._mask.cumsum(axis=1) - 1, 0)[:, -new:]
        given = {"input_ids": block, "attention_mask": self._mask, POSITIONS: places}
        found = self._graph.run({**given, **self._past})
        self._texts = wanted
        self._past = {name: found[present_of(name)] for name in self._past}
        logits: NDArray[np.float32] = found["logits"].numpy()[:, -1]
        return logits

    def _begin(self, texts: Sequence[list[int]]) -> int:
        """Forget what was read, and give the count of tokens to read."""
        lengths = np.array([len(text) for text in texts])
        new = int(lengths.max())
        self._mask = (np.arange(new) >= new - lengths[:, None]).astype(np.int64)
        for name in self._past:
            _, heads, _, size = self._graph.shapes[name]
            assert isinstance(heads, int)
            assert isinstance(size, int)
            self._past[name] = np.zeros((len(texts), heads, 0, size), np.float32)
        return new

    def _go_on(self, texts: Sequence[list[int]]) -> int:
        """Keep what was read of texts, and give the count of tokens that are new; 0 for none."""
        if len(texts) == len(self._texts) == 1:
            kept = min(_shared(texts[0], self._texts[0]), len(texts[0]) - 1)
            if not kept:
                return 0
            rows, new = [0], len(texts[0]) - kept
        else:
            rows = [row for text in texts if (row := self._row_of(text)) is not None]
            counts = {
                len(text) - len(self._texts[row]) for text, row in zip(texts, rows, strict=False)
            }
            if len(rows) < len(texts) or len(counts) != 1:
                return 0
            (new,) = counts
        length = self._mask.shape[1] - len(self._texts[rows[0]]) + len(texts[0]) - new
        self._keep(rows, length)
        self._mask = np.pad(self._mask, ((0, 0), (0, new)), constant_values=1)
        return new

    def _row_of(self, text: list[int]) -> int | None:
        """The row that a text goes on from."""
        begun = (
            row
            for row, known in enumerate(self._texts)
            if len(known) < len(text) and text[: len(known)] == known
        )
        return next(begun, None)

    def _keep(self, rows: list[int], length: int) -> None:
        """Keep some rows, and their first places."""
        if rows == [*range(len(self._texts))] and length == self._mask.shape[1]:
            return
        self._mask = self._mask[rows, :length]
        value_of = onnxruntime().OrtValue.ortvalue_from_numpy
        for name, value in self._past.items():
            kept = value.numpy()[rows, :, :length]
            self._past[name] = value_of(np.ascontiguousarray(kept))


def _shared(one: list[int], other: list[int]) -> int:
    """Count of tokens that two texts both begin with."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))
