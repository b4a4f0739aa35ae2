"""Entities are those that seqeval finds, in every scheme of tags."""

import warnings

import numpy as np
import pytest
from seqeval.metrics import f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from edgefuse_runtime.tasks.entity_metrics import EntityMetric
from edgefuse_runtime.tasks.tagging import Tagging, whole_scheme

IOB = ["O", "B-person", "I-person", "B-place", "I-place"]
IOBES = whole_scheme(["S-person", "E-person", "B-place"])


def random_rows(labels: list[str], seed: int, rows: int = 60) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(len(labels), size=rng.integers(1, 12)).tolist() for _ in range(rows)]


def flat(rows: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    places = [np.full(len(row), index) for index, row in enumerate(rows)]
    return np.concatenate(rows), np.concatenate(places)


def ours(labels: list[str], rows: list[list[int]]) -> list[tuple[str, int, int]]:
    """Types, first and last words, counted as seqeval does: with an O between two rows."""
    tagging = Tagging(labels)
    classes, places = flat(rows)
    return [
        (tagging.types[kind], int(first + places[first]), int(behind - 1 + places[first]))
        for first, behind, kind in tagging.entities(classes, places)
    ]


@pytest.mark.parametrize("labels", [IOB, IOBES], ids=["IOB", "IOBES"])
def test_entities_are_seqevals(labels: list[str]) -> None:
    rows = random_rows(labels, seed=1)
    expected = get_entities([[labels[index] for index in row] for row in rows])
    assert len(expected) > 100
    assert ours(labels, rows) == expected


def test_plain_tags_are_entities_of_words_in_a_row_or_of_each_word() -> None:
    assert ours(["O", "person", "place"], [[1, 1, 2, 0, 2]]) == [
        ("person", 0, 1),
        ("place", 2, 2),
        ("place", 4, 4),
    ]
    assert ours(["NOUN", "VERB"], [[0, 0, 1]]) == [("NOUN", 0, 0), ("NOUN", 1, 1), ("VERB", 2, 2)]


@pytest.mark.parametrize("labels", [IOB, IOBES], ids=["IOB", "IOBES"])
def test_figures_of_batches_are_seqevals_of_all_rows(labels: list[str]) -> None:
    rng = np.random.default_rng(2)
    expected = random_rows(labels, seed=3)
    noise = [np.where(rng.random(len(row)) < 0.3, 0, row).tolist() for row in expected]
    metric = EntityMetric(Tagging(labels))
    for start in range(0, len(expected), 7):
        references, places = flat(expected[start : start + 7])
        predictions, _ = flat(noise[start : start + 7])
        metric.update(np.eye(len(labels), dtype=np.float32)[predictions], references, places)
    named = [[[labels[i] for i in row] for row in rows] for rows in (expected, noise)]
    assert metric.f1 == pytest.approx(f1_score(*named), abs=1e-12)
    assert metric.precision == pytest.approx(precision_score(*named), abs=1e-12)
    assert metric.recall == pytest.approx(recall_score(*named), abs=1e-12)
    assert 0.2 < metric.f1 < 0.9
    right = [one == other for one, other in zip(*map(flat_classes, (expected, noise)), strict=True)]
    assert metric.accuracy == pytest.approx(np.mean(right))


def flat_classes(rows: list[list[int]]) -> list[int]:
    return [index for row in rows for index in row]


def test_rows_without_entities_count_as_nothing_found() -> None:
    metric = EntityMetric(Tagging(IOB))
    metric.update(np.eye(5, dtype=np.float32)[[0, 0]], np.array([0, 0]), np.array([0, 1]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert metric.f1 == f1_score([["O"], ["O"]], [["O"], ["O"]]) == 0
    assert (metric.precision, metric.recall, metric.accuracy) == (0, 0, 1)


def test_the_loss_is_the_mean_cross_entropy_of_all_words() -> None:
    logits = np.random.default_rng(4).normal(size=(6, 5)).astype(np.float32) * 9
    references = np.array([0, 4, 2, 2, 1, 3])
    metric = EntityMetric(Tagging(IOB))
    metric.update(logits[:2], references[:2], np.zeros(2, int))
    metric.update(logits[2:], references[2:], np.zeros(4, int))
    probabilities = np.exp(logits.astype(np.float64))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    assert metric.loss == pytest.approx(-np.log(probabilities[np.arange(6), references]).mean())


@pytest.mark.parametrize(
    ("labels", "words", "spelled"),
    [
        (IOB, 3, ["B-place", "I-place", "I-place"]),
        (IOB, 1, ["B-place"]),
        (IOBES, 1, ["S-place"]),
        (IOBES, 3, ["B-place", "I-place", "E-place"]),
        (["O", "I-place"], 2, ["I-place", "I-place"]),
        (["O", "place"], 2, ["place", "place"]),
    ],
)
def test_an_entity_is_spelled_in_the_scheme_of_the_labels(
    labels: list[str], words: int, spelled: list[str]
) -> None:
    tagging = Tagging(labels)
    classes = tagging.spell("Place", words)
    assert classes is not None
    assert [labels[index] for index in classes] == spelled
    assert tagging.spell("thing", words) is None
    assert len(tagging.entities(np.array(classes), np.zeros(words, int))) == 1


@pytest.mark.parametrize(
    ("tags", "place"),
    [
        (["O", "I-person"], 1),
        (["I-place"], 0),
        (["B-person", "I-place"], 1),
        (["B-person", "I-person", "O", "B-place", "I-place", "B-place"], None),
    ],
)
def test_a_tag_that_goes_on_with_nothing_is_found(tags: list[str], place: int | None) -> None:
    assert Tagging(IOB).first_break([IOB.index(tag) for tag in tags]) == place


def test_labels_without_a_beginning_may_begin_anywhere() -> None:
    labels = ["O", "B-place", "I-place", "I-person"]  # as of heads that were trained on IOB1
    assert Tagging(labels).first_break([0, 3, 3]) is None
    assert Tagging(labels).first_break([0, 2]) == 1


def test_nothing_goes_on_behind_a_last_word() -> None:
    tagging = Tagging(IOBES)
    tags = [tagging.find(tag) for tag in ("B-place", "E-place", "I-place")]
    assert tagging.first_break([tag for tag in tags if tag is not None]) == 2


@pytest.mark.parametrize(
    ("tags", "whole"),
    [
        ({"B-b", "O", "B-a"}, ["O", "B-a", "I-a", "B-b", "I-b"]),
        ({"I-a"}, ["O", "B-a", "I-a"]),
        ({"S-a", "E-a"}, ["O", "B-a", "I-a", "E-a", "S-a"]),
        ({"VERB", "NOUN"}, ["NOUN", "VERB"]),
        ({"b", "a", "O"}, ["O", "a", "b"]),
        ({"10", "9"}, ["9", "10"]),
    ],
)
def test_a_new_head_has_every_tag_of_the_types(tags: set[str], whole: list[str]) -> None:
    assert whole_scheme(tags) == whole
