"""Batches: every row once, little padding, and the same ones for the same seed and epoch."""

import numpy as np
import pytest

from edgefuse_runtime.data.batching import (
    Dataset,
    batches_per_epoch,
    evaluation_batches,
    pad,
    training_batches,
)
from edgefuse_runtime.tasks.text_classification import EncodedText, TextClassification

LENGTHS = np.random.default_rng(0).integers(3, 60, size=1003)


def padded(batches):
    return sum(LENGTHS[rows].max() * len(rows) for rows in batches)


def test_an_epoch_has_every_row_once_in_batches_of_the_size():
    batches = training_batches(LENGTHS, 8, seed=0, epoch=0)
    assert sorted(np.concatenate(batches)) == list(range(1003))
    assert sorted(len(rows) for rows in batches) == [3] + [8] * 125
    assert len(batches) == batches_per_epoch(1003, 8) == 126


@pytest.mark.parametrize(("rows", "size", "count"), [(1, 8, 1), (8, 8, 1), (9, 8, 2), (400, 8, 50)])
def test_the_count_of_batches_is_known_beforehand(rows, size, count):
    made = training_batches(LENGTHS[:rows], size, seed=0, epoch=0)
    assert len(made) == batches_per_epoch(rows, size) == count


def test_order_depends_on_seed_and_epoch_alone():
    def order(seed, epoch):
        return np.concatenate(training_batches(LENGTHS, 8, seed=seed, epoch=epoch)).tolist()

    assert order(0, 1) == order(0, 1)
    assert len({tuple(order(seed, epoch)) for seed in (0, 1) for epoch in (0, 1)}) == 4


def test_rows_of_similar_length_share_a_batch():
    random = np.array_split(np.random.default_rng(1).permutation(1003), 126)
    grouped = training_batches(LENGTHS, 8, seed=0, epoch=0)
    assert padded(grouped) < 1.05 * LENGTHS.sum() < padded(random)


def test_the_longest_row_comes_in_the_first_batch_and_lengths_are_mixed_after_it():
    batches = training_batches(LENGTHS, 8, seed=0, epoch=0)
    longest = [int(LENGTHS[rows].max()) for rows in batches]
    assert longest[0] == LENGTHS.max()
    assert longest != sorted(longest, reverse=True)


def test_evaluation_goes_by_falling_length():
    batches = evaluation_batches(LENGTHS, 8)
    assert (np.diff(LENGTHS[np.concatenate(batches)]) <= 0).all()
    assert sorted(np.concatenate(batches)) == list(range(1003))


def test_rows_are_padded_to_the_longest_of_them():
    rows = [np.array([5, 6, 7], np.int32), np.array([8], np.int32)]
    padded, mask = pad(rows, 9)
    np.testing.assert_array_equal(padded, [[5, 6, 7], [8, 9, 9]])
    np.testing.assert_array_equal(mask, [[1, 1, 1], [1, 0, 0]])
    assert padded.dtype == mask.dtype == np.dtype("int64")


def test_a_batch_has_labels_where_its_rows_have_them():
    task = TextClassification(labels=["cold", "warm", "hot"])
    rows = [EncodedText(np.array([5, 6], np.int32), 2), EncodedText(np.array([8], np.int32), 0)]
    feeds = task.collate(rows, padding_id=9)
    assert feeds.keys() == {"input_ids", "attention_mask", "labels"}
    assert feeds["labels"].tolist() == [2, 0]
    assert {array.dtype for array in feeds.values()} == {np.dtype("int64")}
    unlabelled = task.collate([EncodedText(row.token_ids) for row in rows], padding_id=9)
    assert unlabelled.keys() == {"input_ids", "attention_mask"}


def test_a_data_set_knows_its_lengths_and_tokens():
    dataset = Dataset([EncodedText(np.array(ids, np.int32)) for ids in ([5, 6, 5], [8])])
    assert (len(dataset), dataset.lengths.tolist()) == (2, [3, 1])
    assert dataset.token_ids.tolist() == [5, 6, 8]
