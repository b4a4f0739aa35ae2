"""Embeddings of the tokens that training sees, and of no others.

A token that never occurs gets a zero gradient at every step: only weight decay moves its row, and
all such rows are multiplied by the same number. So they are left out of the training graph's
buffers and multiplied at the end, with the same result.
"""

from collections.abc import Sequence
from typing import Self

import numpy as np
from numpy.typing import NDArray

from edgefuse_devices.errors import BundleError, InternalError
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.graph.parameters import PADDING_ID, Parameter


class Vocabulary:
    """Which rows of the embeddings train, and the numbers that tokens have among them."""

    def __init__(self, rows: NDArray[np.int64] | None, padding_id: int | None) -> None:
        """Take the rows that train, sorted, None for all; and the padding, if the graph asks."""
        self.rows = rows
        if rows is not None:
            self._numbers = np.full(rows[-1] + 1, -1, np.int64)
            self._numbers[rows] = np.arange(len(rows))
        self._padding: dict[str, NDArray[np.int64]] = {}
        if padding_id is not None:
            ids = np.array([padding_id])
            self._padding[PADDING_ID] = ids if rows is None else self._numbers[ids]

    @classmethod
    def of(
        cls,
        parameters: Sequence[Parameter],
        token_ids: NDArray[np.int64] | None,
        *,
        padding_id: int,
    ) -> Self:
        """Choose the rows.

        Args:
            parameters: What trains; `Parameter.free_rows` says which embeddings may be cut down.
            token_ids: Every token id that training will see, in any order; None for all.
            padding_id: Token id that pads.

        Raises:
            BundleError: The model has no such token.
        """
        if not any(parameter.free_rows for parameter in parameters):
            return cls(None, None)
        rows = None if token_ids is None else np.union1d(token_ids, [padding_id])
        known = min(parameter.shape[0] for parameter in parameters if parameter.free_rows)
        if rows is not None and rows[-1] >= known:
            raise BundleError(
                f"the bundle's tokenizer gives the token id {rows[-1]}, and its model has {known}",
                "Export the bundle anew",
            )
        return cls(rows, padding_id)

    def renumber(self, feeds: Feeds) -> Feeds:
        """A batch with token ids as numbers of the rows that train, and the padding's number.

        Raises:
            InternalError: A token was not among those announced.
        """
        if self.rows is None:
            return {**feeds, **self._padding}
        token_ids = feeds["input_ids"]
        if token_ids.max(initial=0) > self.rows[-1]:
            raise InternalError("A token occurs that training was not told of")
        numbers = self._numbers[token_ids]
        if numbers.min(initial=0) < 0:
            raise InternalError("A token occurs that training was not told of")
        return {**feeds, **self._padding, "input_ids": numbers}

    def shape(self, parameter: Parameter) -> tuple[int, ...]:
        """Shape of the part of a parameter that trains."""
        if self.rows is None or not parameter.free_rows:
            return tuple(parameter.shape)
        return (len(self.rows), *parameter.shape[1:])

    def take(self, parameter: Parameter, whole: NDArray[np.float32]) -> NDArray[np.float32]:
        """The part of a parameter that trains."""
        return whole if self.rows is None or not parameter.free_rows else whole[self.rows]

    def left_out(self, parameter: Parameter, whole: NDArray[np.float32]) -> float:
        """Sum of squares of the rows of a parameter that do not train."""
        if self.rows is None or not parameter.free_rows:
            return 0.0
        squares = np.einsum("ij,ij->i", whole, whole).astype(np.float64)
        squares[self.rows] = 0
        return float(squares.sum())

    def restore(
        self,
        parameter: Parameter,
        part: NDArray[np.float32],
        initial: NDArray[np.float32],
        absent_factor: float,
    ) -> NDArray[np.float32]:
        """The whole parameter.

        Args:
            parameter: The parameter's description.
            part: The part that trained.
            initial: The whole parameter before the first step.
            absent_factor: What all steps multiply a decaying row by whose token does not occur.
        """
        if self.rows is None or not parameter.free_rows:
            return part
        whole = initial * np.float32(absent_factor if parameter.decay else 1)
        whole[self.rows] = part
        return whole
