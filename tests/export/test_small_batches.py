"""The smallest batches, and padding whose id is not 0, are trained as torch trains them."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

import edgefuse
from edgefuse.bundling.export import export
from edgefuse_devices.catalog import load_device
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.tasks.text_classification import EncodedText
from tests.pico_models import save_pico_model

LABELS = ["cold", "warm", "hot"]
ROWS = {
    "one row": [[2, 30, 31, 32, 3]],
    "one token": [[2]],
    "one token a row": [[2], [30], [31]],
    "one row and one token in a longer batch": [[2, 30, 31, 32, 3], [2]],
}


@pytest.fixture(scope="module", params=["bert", "roberta"])
def exported(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, str]:
    folder = tmp_path_factory.mktemp(request.param)
    model = str(save_pico_model(folder / "model", request.param, num_labels=3, layers=1))
    path = folder / "bundle"
    plain = AdamW(weight_decay=0, max_gradient_norm=0)
    return export(
        model,
        path,
        device=load_device("rpi5"),
        task=WantedTextClassification(labels=LABELS),
        optimizer=plain,
    ), model


def batch_of(rows: list[list[int]], bundle: Bundle) -> Feeds:
    texts = [EncodedText(np.array(row, np.int32), index % 3) for index, row in enumerate(rows)]
    return bundle.manifest.task.collate(texts, padding_id=bundle.manifest.padding_id)


def load(model: str) -> PreTrainedModel:
    return edgefuse.from_pretrained(
        model, AutoModelForSequenceClassification, attn_implementation="eager"
    )


def forward(reference: PreTrainedModel, batch: Feeds) -> SequenceClassifierOutput:
    return reference(**{name: torch.from_numpy(value) for name, value in batch.items()})


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
@pytest.mark.parametrize("announced", [False, True], ids=["every token", "the tokens it sees"])
def test_a_small_batch_trains_as_torch_does(
    rows: list[list[int]], announced: bool, exported: tuple[Bundle, str]
) -> None:
    bundle, model = exported
    batch, reference = batch_of(rows, bundle), load(model)
    seen = np.unique(np.concatenate(rows)) if announced else None
    engine = open_engine(bundle, threads=1, token_ids=seen)
    optimizer = torch.optim.AdamW(reference.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(3):
        optimizer.zero_grad()
        loss = forward(reference, batch).loss
        loss.backward()
        norm = torch.nn.utils.get_total_norm([p.grad for p in reference.parameters()])
        optimizer.step()
        step = engine.step(batch, 1e-3)
        assert step.loss == pytest.approx(loss.item(), abs=1e-4)
        assert step.gradient_norm == pytest.approx(norm.item(), rel=1e-3)


@pytest.mark.parametrize("rows", ROWS.values(), ids=ROWS)
def test_a_small_batch_is_classified_as_torch_does(
    rows: list[list[int]], exported: tuple[Bundle, str]
) -> None:
    bundle, model = exported
    batch = batch_of(rows, bundle)
    logits = InferenceModel(bundle, bundle.trainable(), threads=1).run(batch)["logits"]
    with torch.no_grad():
        expected = forward(load(model), batch).logits.numpy()
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)


def test_padding_that_is_not_token_0_pads(exported: tuple[Bundle, str]) -> None:
    bundle, model = exported
    assert bundle.manifest.padding_id == load(model).config.pad_token_id
    alone = batch_of([[2, 30, 3]], bundle)
    padded = batch_of([[2, 30, 3], [2, 30, 31, 32, 33, 34, 3]], bundle)
    classifier = InferenceModel(bundle, bundle.trainable(), threads=1)
    np.testing.assert_allclose(
        classifier.run(padded)["logits"][0],
        classifier.run(alone)["logits"][0],
        rtol=1e-4,
        atol=1e-5,
    )
