"""A bundle that is made without torch, and an engine in numpy that trains it.

The model is a bag of words: logits = (Σ embeddings of the tokens) ⊙ P · Wᵀ + b.
"""

import random
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import msgspec
import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from edgefuse_devices.probe import probe
from edgefuse_runtime.bundle.bundle import Bundle, describe_files, write_manifest
from edgefuse_runtime.bundle.manifest import Manifest, ModelInfo, PredictedMemory, Tuning
from edgefuse_runtime.data.batching import Dataset, Feeds
from edgefuse_runtime.engines.engine import Step, Tensors
from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.files.tensor_file import read_header
from edgefuse_runtime.graph.footprint import Footprint
from edgefuse_runtime.graph.merges import Fold
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.tasks.text_classification import TextClassification

LABELS = ["light_on", "light_off", "heat_up"]
WORDS = {
    "light_on": ["lamp", "bright", "shine"],
    "light_off": ["dark", "night", "dim"],
    "heat_up": ["warm", "cosy", "radiator"],
}
FILLERS = ["please", "the", "make", "it", "now", "home"]
HIDDEN = 4
TRAINED = {"embeddings.weight": (18, HIDDEN), "classifier.weight": (3, HIDDEN)}
FROZEN = {"classifier.bias": (3,)}


def write_data(path: Path, rows: int, seed: int = 0) -> Path:
    """Commands whose label one word tells."""
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        label = rng.choice(LABELS)
        words = [rng.choice(WORDS[label]), *rng.choices(FILLERS, k=rng.randrange(1, 7))]
        rng.shuffle(words)
        lines.append(msgspec.json.encode({"text": " ".join(words), "label": label}))
    path.write_bytes(b"\n".join(lines) + b"\n")
    return path


def make_bundle(path: Path, seed: int = 0) -> Bundle:
    """A bundle for `FakeEngine`, with one fold."""
    path.mkdir()
    rng = np.random.default_rng(seed)
    trained = {name: rng.normal(size=shape).astype(np.float32) for name, shape in TRAINED.items()}
    frozen = {name: rng.normal(size=shape).astype(np.float32) for name, shape in FROZEN.items()}
    multiplicity = {"multiplicity": np.array([1, 2, 1, 3], np.float32)}
    save_file(trained, path / "trainable.safetensors")
    save_file(frozen | multiplicity, path / "frozen.safetensors")
    _write_tokenizer(path / "tokenizer.json")
    _write_inference_graphs(path, trained | frozen)
    for graph in OnnxRuntime.files:  # `FakeEngine` needs none
        (path / graph).touch()
    (path / "model").mkdir()
    (path / "model" / "config.json").write_text('{"model_type": "tiny"}\n')
    manifest = Manifest(
        edgefuse_version="0",
        engine=OnnxRuntime(version="0"),
        task=TextClassification(labels=LABELS),
        model=ModelInfo(
            source="tiny",
            architecture="tiny",
            parameters=87,
            intermediate_sizes=[HIDDEN],
        ),
        tuning=Tuning(method="full", trained_parameters=84),
        optimizer=AdamW(),
        inputs=["input_ids", "attention_mask"],
        padding_id=0,
        sequence_length=8,
        batch_size=4,
        parameters=[
            Parameter(name=name, shape=list(shape), gradient=f"{name}.grad", decay=True)
            for name, shape in TRAINED.items()
        ],
        merges=[Fold(weight="classifier.weight", multiplicity="multiplicity", axis=1)],
        device=probe(),
        footprint=Footprint([]),
        predicted_memory=PredictedMemory(
            parameters=1, gradients=1, optimizer=1, activations=1, frozen=1
        ),
        certificate=None,
        files=describe_files(path),
    )
    return write_manifest(path, manifest)


def logits_of(bundle: Bundle, trained: Tensors, texts: Sequence[str]) -> NDArray[np.float32]:
    """Logits of texts with given weights, in the order of the texts."""
    dataset = Dataset(bundle.manifest.task.examples(texts, bundle.tokenizer()))
    model = InferenceModel(bundle, trained, threads=1)
    rows = {}
    for indices, _, outputs in model.over(dataset):
        rows.update(zip(indices.tolist(), outputs["logits"], strict=True))
    return np.array([rows[index] for index in range(len(texts))])


class FakeEngine:
    """Softmax regression with Adam, deterministic, in float32."""

    def __init__(
        self,
        bundle: Bundle,
        *,
        threads: int,
        token_ids: NDArray[np.int64] | None = None,
        seed: int = 0,
        accumulates: bool = False,
        kept_layers: int = 0,
        row_cache: object = None,
    ) -> None:
        self._parameters = bundle.trainable()
        self._bias = bundle.frozen["classifier.bias"]
        self._multiplicity = bundle.frozen["multiplicity"]
        self._moments = {
            f"{kind}.{name}": np.zeros_like(value)
            for name, value in self._parameters.items()
            for kind in ("first", "second")
        }
        self._step = np.zeros(1, np.float32)

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        mask = feeds["attention_mask"].astype(np.float32)
        ids, labels = feeds["input_ids"], feeds["labels"]
        embeddings, weight = (self._parameters[name] for name in TRAINED)
        hidden = (embeddings[ids] * mask[..., None]).sum(1) * self._multiplicity
        logits = hidden @ weight.T + self._bias
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        rows = np.arange(len(ids))
        loss = -np.log(p[rows, labels]).mean()
        p[rows, labels] -= 1
        p /= len(ids)
        for_embeddings = np.zeros_like(embeddings)
        spread = ((p @ weight) * self._multiplicity)[:, None, :] * mask[..., None]
        np.add.at(for_embeddings, ids, spread)
        gradients = dict(zip(TRAINED, [for_embeddings, p.T @ hidden], strict=True))
        self._step += 1
        for name, gradient in gradients.items():
            first, second = self._moments[f"first.{name}"], self._moments[f"second.{name}"]
            first += np.float32(0.1) * (gradient - first)
            second += np.float32(0.001) * (gradient**2 - second)
            correct = np.sqrt(1 - 0.999 ** self._step[0]) / (1 - 0.9 ** self._step[0])
            update = first / (np.sqrt(second) + np.float32(1e-8))
            self._parameters[name] -= np.float32(learning_rate * correct) * update
        norm = np.sqrt(sum(float(np.sum(g**2)) for g in gradients.values()))
        return Step(loss=float(loss), gradient_norm=float(norm))

    def parameters(self) -> Tensors:
        return self._parameters

    def set_parameters(self, parameters: Tensors) -> None:
        for name, value in self._parameters.items():
            value[...] = parameters[name]

    def state(self) -> Tensors:
        return {**self._parameters, **self._moments, "step": self._step}

    def load_state(self, state: Tensors) -> None:
        for name, value in self.state().items():
            value[...] = state[name]


def _write_tokenizer(path: Path) -> None:
    words = ["[PAD]", "[UNK]", "[CLS]", *chain.from_iterable(WORDS.values()), *FILLERS]
    vocabulary = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A", None, [("[CLS]", 2)])
    tokenizer.save(str(path))


def _write_inference_graphs(path: Path, tensors: Tensors) -> None:
    """Weights are inputs, or parts of model.safetensors as `save_file` lays it out."""
    scratch = path / "scratch"
    save_file(tensors, scratch)
    header, start = read_header(scratch)
    scratch.unlink()
    initializers = []
    for name, value in tensors.items():
        begin, end = header[name]["data_offsets"]
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=value.shape)
        tensor.data_location = TensorProto.EXTERNAL
        for key, text in {
            "location": "model.safetensors",
            "offset": str(start + begin),
            "length": str(end - begin),
        }.items():
            tensor.external_data.add(key=key, value=text)
        initializers.append(tensor)
    constants = {"two": np.array([2]), "one": np.array([1])}
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["embeddings.weight", "input_ids"], ["embedded"]),
            helper.make_node("Cast", ["attention_mask"], ["flags"], to=TensorProto.FLOAT),
            helper.make_node("Unsqueeze", ["flags", "two"], ["mask"]),
            helper.make_node("Mul", ["embedded", "mask"], ["masked"]),
            helper.make_node("ReduceSum", ["masked", "one"], ["hidden"], keepdims=0),
            helper.make_node("Transpose", ["classifier.weight"], ["transposed"]),
            helper.make_node("MatMul", ["hidden", "transposed"], ["product"]),
            helper.make_node("Add", ["product", "classifier.bias"], ["logits"]),
        ],
        "tiny",
        [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [*initializers, *(numpy_helper.from_array(v, k) for k, v in constants.items())],
    )
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10)
    onnx.save(model, path / "model.onnx")
    for initializer in initializers:
        model.graph.initializer.remove(initializer)
        model.graph.input.append(
            helper.make_tensor_value_info(initializer.name, TensorProto.FLOAT, initializer.dims)
        )
    onnx.save(model, path / "inference.onnx")
