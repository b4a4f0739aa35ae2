"""What was read of texts is not read again, whatever becomes of the batch."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from edgefuse_runtime.graph.cache import POSITIONS, past_name, present_name
from edgefuse_runtime.inference.continuation import Continuation
from edgefuse_runtime.session import onnxruntime

VOCABULARY, SIZE = 50, 3
PAST, PRESENT = past_name(0, "key"), present_name(0, "key")
TABLE = np.random.default_rng(0).normal(size=(VOCABULARY, SIZE)).astype(np.float32)


class Graph:
    """A decode.onnx of one layer, whose last token sees the mean of all, by id and place."""

    outputs = ("logits", PRESENT)

    def __init__(self) -> None:
        free = ["batch_size", "sequence_length"]
        shape = ["batch_size", 1, "past_sequence_length", SIZE]
        self.shapes = {"input_ids": free, "attention_mask": free, POSITIONS: free, PAST: shape}
        self.read: list[tuple[int, ...]] = []

    def run(self, feeds: dict[str, Any]) -> dict[str, Any]:
        ids, mask, past = feeds["input_ids"], feeds["attention_mask"], feeds[PAST]
        self.read.append(ids.shape)
        before = past if isinstance(past, np.ndarray) else past.numpy()
        new = TABLE[ids] * (1 + feeds[POSITIONS][..., None])
        present = np.concatenate([before, new[:, None].astype(np.float32)], axis=2)
        assert mask.shape == (len(ids), present.shape[2])
        weights = (mask / mask.sum(axis=1, keepdims=True))[:, None, :, None]
        logits = (present * weights).sum(axis=2) @ TABLE.T
        value_of = onnxruntime().OrtValue.ortvalue_from_numpy
        return {
            "logits": SimpleNamespace(numpy=lambda: logits),
            PRESENT: value_of(np.ascontiguousarray(present)),
        }


def anew(text: list[int]) -> np.ndarray:
    places = np.arange(1, len(text) + 1)[:, None]
    return (TABLE[text] * places).mean(axis=0) @ TABLE.T


def check(continuation: Continuation, *texts: list[int]) -> None:
    expected = np.stack([anew(text) for text in texts])
    np.testing.assert_allclose(continuation(texts), expected, rtol=1e-5)


@pytest.fixture
def graph() -> Graph:
    return Graph()


def test_texts_of_other_lengths_go_on_together_and_end_one_by_one(graph: Graph) -> None:
    continuation = Continuation(graph, padding_id=0)
    one, two, three = [7, 3, 9, 4], [5], [7, 3]
    check(continuation, one, two, three)
    one, two, three = [*one, 1], [*two, 2], [*three, 9]
    check(continuation, one, two, three)
    check(continuation, [*one, 8], [*three, 6])  # the second one has ended
    check(continuation, [*three, 6, 11])
    assert graph.read == [(3, 4), (3, 1), (2, 1), (1, 1)]


def test_of_a_text_alone_what_it_shares_with_the_one_before_is_kept(graph: Graph) -> None:
    continuation = Continuation(graph, padding_id=0)
    check(continuation, [7, 3, 9, 4])
    check(continuation, [7, 3, 9, 4, 4, 1])
    check(continuation, [7, 3, 9, 8, 8, 8, 8])  # as a template writes an older answer otherwise
    check(continuation, [7, 3, 9])  # all of it is known, and its last token is read again
    check(continuation, [1, 2])
    assert graph.read == [(1, 4), (1, 2), (1, 4), (1, 1), (1, 2)]


def test_a_text_that_was_padded_is_cut_behind_its_padding(graph: Graph) -> None:
    continuation = Continuation(graph, padding_id=0)
    check(continuation, [7, 3, 9, 4], [5, 6])
    check(continuation, [5, 6, 1])
    check(continuation, [5, 8, 8])
    assert graph.read == [(2, 4), (1, 1), (1, 2)]


def test_other_texts_are_read_from_their_beginning(graph: Graph) -> None:
    continuation = Continuation(graph, padding_id=0)
    check(continuation, [7, 3], [5, 6])
    check(continuation, [7, 3, 1], [5, 6, 1, 2])  # not by the same count
    check(continuation, [7, 3, 1, 1], [9, 9])
    assert graph.read == [(2, 2), (2, 4), (2, 4)]
