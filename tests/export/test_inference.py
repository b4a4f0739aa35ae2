"""The inference graph gets trained weights, with P folded in, and gives rows back in order."""

import msgspec
import numpy as np
import pytest

from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.data.tokenization import tokenize
from edgefuse_runtime.graph.merges import LowRankUpdate
from edgefuse_runtime.inference.model import InferenceModel, inference_tensors
from tests.tiny_bundle import logits_of, make_bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return make_bundle(tmp_path_factory.mktemp("inference") / "bundle")


def test_multiplicities_are_folded_into_their_weights(bundle):
    trained = bundle.trainable()
    tensors = inference_tensors(bundle, trained)
    assert sorted(tensors) == ["classifier.bias", "classifier.weight", "embeddings.weight"]
    folded = trained["classifier.weight"] * np.array([1, 2, 1, 3], np.float32)
    np.testing.assert_array_equal(tensors["classifier.weight"], folded)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_low_rank_update_is_merged_before_p_is_folded(bundle, transposed):
    rng = np.random.default_rng(1)
    a = rng.normal(size=(2, 3 if transposed else 4)).astype(np.float32)
    b = rng.normal(size=(4 if transposed else 3, 2)).astype(np.float32)
    recipe = LowRankUpdate(
        weight="classifier.weight", a="a", b="b", scale=0.5, transposed=transposed
    )
    changed = msgspec.structs.replace(bundle.manifest, merges=[recipe, *bundle.manifest.merges])
    trained = bundle.trainable()
    tensors = inference_tensors(
        Bundle(bundle.path, changed, bundle.id), {**trained, "a": a, "b": b}
    )
    assert sorted(tensors) == ["classifier.bias", "classifier.weight", "embeddings.weight"]
    update = 0.5 * (b @ a).T if transposed else 0.5 * b @ a
    expected = (trained["classifier.weight"] + update) * np.array([1, 2, 1, 3], np.float32)
    np.testing.assert_allclose(tensors["classifier.weight"], expected, rtol=1e-6)


def test_logits_are_those_of_the_weights_and_come_in_the_order_of_the_rows(bundle):
    trained = {name: value + 1 for name, value in bundle.trainable().items()}
    texts = ["warm", "please make it dark now", "the lamp", "night", "home home home", "unseen"]
    rows = tokenize(bundle.tokenizer(), texts)
    logits = logits_of(bundle, trained, texts)
    frozen = bundle.frozen
    expected = [
        (trained["embeddings.weight"][row].sum(0) * frozen["multiplicity"])
        @ trained["classifier.weight"].T
        + frozen["classifier.bias"]
        for row in rows
    ]
    np.testing.assert_allclose(logits, expected, rtol=1e-5, atol=1e-4)


def test_weights_are_used_where_they_stand(bundle):
    trained = bundle.trainable()
    task = bundle.manifest.task
    feeds = task.collate(task.examples(["warm"], bundle.tokenizer()), padding_id=0)
    model = InferenceModel(bundle, trained, threads=1)
    before = model.run(feeds)["logits"]
    trained["embeddings.weight"] += 1
    assert np.abs(model.run(feeds)["logits"] - before).max() > 0.1


def test_texts_are_cut_at_the_bundles_length(bundle):
    (row,) = tokenize(bundle.tokenizer(), ["home " * 50])
    assert row.shape == (8,)
