"""Figures of a search by embeddings: recall@1 and the mean reciprocal rank, in numpy."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

Embeddings = NDArray[np.float32]
"""Vectors of texts, of shape (texts, hidden)."""

DEPTH = 10
"""Ranks that the mean reciprocal rank looks at."""

_BLOCK = 256
"""Queries whose cosines are held at once."""


class Retrieval:
    """Recall@1 and MRR@10, gathered query by query.

    As sentence-transformers' `InformationRetrievalEvaluator` has them: recall@1 is the share of a
    query's relevant texts that stand first, and the reciprocal rank is that of the first relevant
    one, 0 where it is not among the first ten.
    """

    def __init__(self) -> None:
        self._recall = 0.0
        self._reciprocal_rank = 0.0
        self._queries = 0

    def update(self, order: Sequence[int], relevant: Collection[int]) -> None:
        """Take a query.

        Args:
            order: The ten nearest texts at least, the nearest first.
            relevant: The texts that it shall find; at least one.
        """
        self._queries += 1
        self._recall += (order[0] in relevant) / len(relevant)
        for rank, text in enumerate(order[:DEPTH], start=1):
            if text in relevant:
                self._reciprocal_rank += 1 / rank
                return

    @property
    def recall_at_1(self) -> float:
        """Mean recall@1 of all queries."""
        return self._recall / self._queries

    @property
    def mrr_at_10(self) -> float:
        """Mean reciprocal rank of all queries."""
        return self._reciprocal_rank / self._queries


def unit(embeddings: Embeddings) -> Embeddings:
    """Vectors of length 1, in which products are cosines; those of length 0 stay."""
    lengths = np.linalg.norm(embeddings, axis=-1, keepdims=True)
    scaled: Embeddings = (embeddings / np.maximum(lengths, 1e-12)).astype(np.float32)
    return scaled


def nearest(
    queries: Embeddings, corpus: Embeddings, count: int
) -> list[tuple[list[int], list[float]]]:
    """Find the nearest texts to each query by the cosine.

    Args:
        queries: Vectors, of shape (queries, hidden).
        corpus: Vectors to search, of shape (texts, hidden).
        count: Texts to find for each query; all where there are no more.

    Returns:
        Indices into the corpus and cosines for each query, the nearest first.
    """
    count = min(count, len(corpus))
    corpus, found = unit(corpus), []
    for start in range(0, len(queries), _BLOCK):
        cosines = unit(queries[start : start + _BLOCK]) @ corpus.T
        first = np.sort(np.argpartition(-cosines, count - 1, axis=1)[:, :count], axis=1)
        values = np.take_along_axis(cosines, first, axis=1)
        order = np.argsort(-values, axis=1, kind="stable")
        for indices, row in zip(
            np.take_along_axis(first, order, axis=1),
            np.take_along_axis(values, order, axis=1),
            strict=True,
        ):
            found.append((indices.tolist(), row.tolist()))
    return found
