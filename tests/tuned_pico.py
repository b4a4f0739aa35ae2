"""Pico models exported by a way of tuning, and trained for some steps."""

from functools import cache
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel

from edgefuse.bundling.context import context_of_shapes
from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.layers.experts import every_expert_by_name
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_export.tasks.text_classification import (
    TextClassificationExport,
    WantedTextClassification,
)
from edgefuse_export.trace import example
from edgefuse_runtime.bundle.bundle import Bundle, digest, open_bundle, open_engine
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Tensors
from edgefuse_runtime.graph.parameters import PADDING_ID
from edgefuse_runtime.inference.model import InferenceModel, inference_tensors
from edgefuse_runtime.session import open_session
from edgefuse_runtime.tasks.text_classification import TextClassification
from tests.pico_models import save_pico_model
from tests.shared import made_once

LABELS = ["cold", "warm", "hot"]
TASK = TextClassificationExport(TextClassification(labels=LABELS))
OPTIONS = {"device": load_device("rpi5"), "task": WantedTextClassification(labels=LABELS)}
CONTEXT = context_of_shapes(TASK)
"""What a way may look at where no rows are read."""
VOCABULARY = 50


@cache
def pico(kind: str) -> Path:
    """The directory of a model to read: an architecture, or one with a word before it.

    `fused-bert` has a quarter of its neurons, and `shallow-bert` one layer: enough for what a test
    asks of a part that all layers have, and exported in half the time.
    """
    word, _, model = kind.partition("-")
    if word == "fused":
        return made_once(kind, lambda directory: compress(str(pico(model)), directory, ratio=0.25))
    if word == "shallow":
        return made_once(kind, lambda directory: save_pico_model(directory, model, layers=1))
    return made_once(kind, lambda directory: save_pico_model(directory, kind))


@cache
def labelled_rows() -> Path:
    """A file of rows to measure on."""
    texts = ["turn on the lamp", "the door is open", "a sad film", "stop the music"] * 3
    lines = [f'{{"text": "{t}", "label": "{LABELS[i % 3]}"}}\n' for i, t in enumerate(texts)]
    return made_once("rows.jsonl", lambda file: file.write_text("".join(lines)))


@cache
def exported(kind: str, tune: str = "full", **options: object) -> Bundle:
    """A bundle to read, made once: one graph of the whole model, whatever suits it."""
    name = "-".join([kind, "by", tune, *(Path(str(option)).stem for option in options.values())])
    model, way = str(pico(kind)), find_way(tune, options)
    whole = {**OPTIONS, "engine": "onnxruntime"}
    return open_bundle(made_once(name, lambda output: export(model, output, tune=way, **whole)))


@cache
def trained(bundle: Bundle, steps: int = 20) -> Tensors:
    """What trains, after so many steps on random tokens."""
    engine = open_engine(bundle, threads=1)
    for step in range(steps):
        engine.step(random_batch(step), 1e-2)
    return {name: value.copy() for name, value in engine.parameters().items()}


def assert_frozen_stay(bundle: Bundle, values: Tensors) -> None:
    """No file of a bundle that trained has changed; nothing that does not train has in the model.

    Args:
        bundle: Its files have the digests that export wrote down.
        values: What it trained.
    """
    for name, entry in bundle.manifest.files.items():
        assert digest(bundle.path / name) == entry.sha256, name
    frozen, held = bundle.frozen, inference_tensors(bundle, values)
    assert frozen.keys().isdisjoint(values)
    made = {merge.weight for merge in bundle.manifest.merges}
    for name in (frozen.keys() & held.keys()) - made:
        assert held[name].tobytes() == frozen[name].tobytes(), name


def training_outputs(bundle: Bundle) -> dict[str, np.ndarray]:
    """Of train.onnx before the first step: loss, gradient norm and gradients by their names."""
    feeds = {**random_batch(5), **bundle.frozen, **bundle.trainable()}
    for parameter in bundle.manifest.parameters:
        if parameter.free_rows:
            feeds[parameter.zeros] = np.zeros(parameter.shape, np.float32)
            feeds[PADDING_ID] = np.array([bundle.manifest.padding_id])
    session = open_session(bundle.path / "train.onnx", threads=1)
    names = [value.name for value in session.get_outputs()]
    inputs = {value.name: feeds[value.name] for value in session.get_inputs()}
    return dict(zip(names, session.run(names, inputs), strict=True))


def random_batch(seed: int) -> Feeds:
    """Four rows of random tokens, the last one with padding."""
    batch = example(TASK, (4, 9), vocabulary=VOCABULARY, seed=seed)
    return {name: tensor.numpy() for name, tensor in batch.items()}


def logits_on_the_board(bundle: Bundle, values: Tensors) -> np.ndarray:
    """Of inference.onnx on `random_batch(0)`."""
    return InferenceModel(bundle, values, threads=1).run(random_batch(0))["logits"]


@torch.no_grad()
def logits_in_torch(model: torch.nn.Module) -> np.ndarray:
    """Of a classifier on `random_batch(0)`."""
    inputs = {name: torch.tensor(random_batch(0)[name]) for name in TASK.inputs}
    logits: np.ndarray = model.eval()(**inputs).logits.numpy()
    return logits


def classifier(directory: Path) -> PreTrainedModel:
    """As plain transformers loads it; a head that is missing is random."""
    return AutoModelForSequenceClassification.from_pretrained(
        directory,
        num_labels=len(LABELS),
        attn_implementation="eager",
        experts_implementation=every_expert_by_name(),
    )
