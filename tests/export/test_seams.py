"""A task, an optimizer, an engine and a way of tuning are added from outside the packages.

Each is a class or two and an entry in a list; nothing in the packages changes. That is what a seam
is: the day that one of these tests needs more, the seam is broken.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import pytest
from onnx_ir import tape
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.bundling.export import export
from edgefuse.tuning import ways
from edgefuse.tuning.way import Context, Prepared, Way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError
from edgefuse_export.engines import registry as engine_exports
from edgefuse_export.engines.engine import TrainingContents, TrainingGraphs
from edgefuse_export.gradient import IR_VERSION, OPSET
from edgefuse_export.optimizers import registry as optimizer_exports
from edgefuse_export.source import Source
from edgefuse_export.tasks import registry as task_exports
from edgefuse_export.tasks.task import ExportTask, ModelFacts, WantedTask
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_export.whole import WholeGraphs, whole_graphs
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle
from edgefuse_runtime.data.batching import Feeds, pad, random_texts
from edgefuse_runtime.data.tokenization import tokenize
from edgefuse_runtime.engines import registry as engines
from edgefuse_runtime.engines.engine import Part, Step, Training
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.parameters import PADDING_ID
from edgefuse_runtime.inference.evaluation import evaluate_model
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.inference.predict import predict
from edgefuse_runtime.optimizers import registry as optimizers
from edgefuse_runtime.session import open_session
from edgefuse_runtime.tagged import Tagged
from edgefuse_runtime.tasks import registry as tasks
from edgefuse_runtime.tasks.task import Figure, Model, NoOptions
from edgefuse_runtime.training.fit import fit

ROWS = ["turn on the lamp", "the door is open", "a sad film", "stop the music"] * 3


LABELS = ["cold", "warm"]


@pytest.fixture
def labelled(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    lines = [f'{{"text": "{text}", "label": "{LABELS[i % 2]}"}}\n' for i, text in enumerate(ROWS)]
    file.write_text("".join(lines))
    return file


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.txt"
    file.write_text("\n".join(ROWS))
    return file


def trained(bundle: Bundle, file: Path, steps: int = 6) -> list[float]:
    """Losses of some steps on the rows of a file, from the bundle as it is on the disk."""
    bundle, losses = open_bundle(bundle.path), []
    after = fit(
        bundle,
        bundle.trainable(),
        bundle.read(file),
        steps=steps,
        on_step=lambda outcome: losses.append(outcome.loss),
    )
    assert any(not np.array_equal(after[name], v) for name, v in bundle.trainable().items())
    return losses


def descends(losses: Sequence[float]) -> bool:
    """Whether the second half of the steps had lower losses than the first."""
    half = len(losses) // 2
    return np.mean(losses[half:]) < np.mean(losses[:half])


# A task: how long is a text? --------------------------------------------------------------------


@dataclass(frozen=True)
class Measured:
    """A text and its count of words."""

    token_ids: np.ndarray
    length: float | None = None


class MeanSquare:
    """Mean squared error over all batches."""

    def __init__(self) -> None:
        self.sum, self.count = 0.0, 0

    def update(
        self, examples: Sequence[Measured], feeds: Feeds, outputs: Mapping[str, np.ndarray]
    ) -> None:
        self.sum += float(np.sum((outputs["logits"][:, 0] - feeds["lengths"]) ** 2))
        self.count += len(feeds["lengths"])

    def result(self) -> dict[str, float]:
        return {"error": self.sum / self.count}


class TextLength(Tagged, frozen=True, kw_only=True, tag="text-length"):
    """The count of a text's words, as a number."""

    figures: ClassVar[tuple[Figure, ...]] = (
        Figure(name="error", title="squared error", format=".2f", higher_is_better=False),
    )
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    encoder_decoder: ClassVar[bool] = False
    prediction_options: ClassVar[type[NoOptions]] = NoOptions

    smallest_batch: ClassVar[int] = 1

    @property
    def summary(self) -> str:
        return self.name

    def read(self, file: Path, tokenizer: Any) -> list[Measured]:
        texts = file.read_text().splitlines()
        counts = [float(len(text.split())) for text in texts]
        return [Measured(i, n) for i, n in zip(tokenize(tokenizer, texts), counts, strict=True)]

    def examples(self, asked: Sequence[str], tokenizer: Any) -> list[Measured]:
        return [Measured(ids) for ids in tokenize(tokenizer, asked)]

    def collate(self, examples: Sequence[Measured], *, padding_id: int) -> Feeds:
        ids, mask = pad([example.token_ids for example in examples], padding_id)
        lengths = [one.length for one in examples if one.length is not None]
        feeds: Feeds = {"input_ids": ids, "attention_mask": mask}
        return feeds | ({"lengths": np.array(lengths, np.float32)} if lengths else {})

    def terms(self, feeds: Feeds) -> float:
        return len(feeds["lengths"])

    def learned_tokens(self, feeds: Feeds) -> None:
        pass

    def random_feeds(
        self, rng: Any, shape: tuple[int, int], token_ids: np.ndarray, *, padded: bool = False
    ) -> Feeds:
        lengths = rng.random(shape[0]).astype(np.float32)
        return {**random_texts(rng, shape, token_ids, padded=padded), "lengths": lengths}

    def metric(self) -> MeanSquare:
        return MeanSquare()

    def predict(self, examples: Sequence[Measured], model: Model, options: NoOptions) -> list[str]:
        feeds = self.collate(examples, padding_id=model.padding_id)
        return [f"{row[0]:.1f} words" for row in model.run(feeds)["logits"]]


class SquaredError(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, lengths: Tensor
    ) -> tuple[Tensor, Tensor]:
        logits = self.model(input_ids=input_ids, attention_mask=attention_mask).logits
        return (logits[:, 0] - lengths).square().mean(), logits.detach()


@dataclass(frozen=True)
class TextLengthExport:
    inputs: ClassVar[tuple[str, ...]] = ("input_ids", "attention_mask")
    targets: ClassVar[tuple[str, ...]] = ("lengths",)
    outputs: ClassVar[tuple[str, ...]] = ("logits",)
    peft_type: ClassVar[str] = "SEQ_CLS"
    training_api_loss: ClassVar[str | None] = None
    needs_head: ClassVar[bool] = False

    task: TextLength

    def model_options(self) -> dict[str, Any]:
        return {"num_labels": 1}

    def loss(self, model: nn.Module) -> nn.Module:
        return SquaredError(model)

    def token_loss(self, model: nn.Module) -> None:
        pass

    def save(self, directory: Path, *, length: int) -> None:
        pass


@dataclass(frozen=True)
class WantedTextLength(WantedTask):
    name: ClassVar[str] = "text-length"
    summary: ClassVar[str] = "the count of a text's words"

    def of_model(self, facts: ModelFacts) -> TextLengthExport:
        return TextLengthExport(TextLength())


def test_a_task_from_outside_trains_and_predicts(
    pico_model: Any, rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "TASKS", (*tasks.TASKS, TextLength))
    wanted = (*task_exports.WANTED_TASKS, WantedTextLength)
    monkeypatch.setattr(task_exports, "WANTED_TASKS", wanted)
    bundle = export(
        str(pico_model("bert")),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=task_exports.find_task("text-length"),
    )
    assert descends(trained(bundle, rows, steps=30))
    assert bundle.manifest.certificate.worst_gradient_error < 1e-3
    bundle = open_bundle(bundle.path)
    assert bundle.manifest.task == TextLength()
    model = InferenceModel(bundle, bundle.trainable(), threads=1)
    evaluation = evaluate_model(bundle, model, bundle.read(rows))
    assert evaluation.figures["error"] > 1  # about four words, and it says nearly none
    assert predict(bundle, model, ["a sad film"])[0].endswith(" words")


# An optimizer: plain gradient descent -----------------------------------------------------------


class Descent(Tagged, frozen=True, kw_only=True, tag="descent"):
    """parameter ← parameter − rate · gradient; nothing is kept, nothing decays."""

    follows_gradient: ClassVar[bool] = True
    rate_factor: ClassVar[float] = 100.0

    def states(self, shape: Sequence[int]) -> dict[str, tuple[int, ...]]:
        return {}

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:
        return {"rate": rate}


def descent_graph(settings: Descent) -> ir.Model:
    float32 = ir.TensorType(ir.DataType.FLOAT)
    shape = ir.Shape(["blocks", "elements"])
    parameter, gradient = (
        ir.Value(name=n, type=float32, shape=shape) for n in ("parameter", "gradient")
    )
    rate = ir.Value(name="rate", type=float32, shape=ir.Shape([]))
    recorder = tape.Tape()
    new = recorder.op("Sub", [parameter, recorder.op("Mul", [gradient, rate])])
    new.name, new.type, new.shape = "new_parameter", float32, shape
    graph = ir.Graph(
        [parameter, gradient, rate], [new], nodes=recorder.nodes, opset_imports={"": OPSET}
    )
    return ir.Model(graph, ir_version=IR_VERSION)


def test_an_optimizer_from_outside_trains(
    pico_model: Any, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(optimizers, "OPTIMIZERS", (*optimizers.OPTIMIZERS, Descent))
    monkeypatch.setitem(optimizer_exports.OPTIMIZER_GRAPHS, "descent", descent_graph)
    bundle = export(
        str(pico_model("bert")),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextClassification(labels=LABELS),
        tune="head",
        optimizer=Descent(),
    )
    assert bundle.manifest.predicted_memory.optimizer == 0
    bundle = open_bundle(bundle.path)
    feeds = bundle.manifest.task.collate(bundle.read(labelled).examples[:4], padding_id=0)
    engine = bundle.manifest.engine.open(bundle.training(threads=1))
    before = {name: value.copy() for name, value in engine.parameters().items()}
    norm = engine.step(feeds, 0.5).gradient_norm
    moved = sum(float(np.sum((before[n] - v) ** 2)) for n, v in engine.parameters().items())
    assert np.sqrt(moved) == pytest.approx(0.5 * norm, rel=1e-4)
    assert descends(trained(bundle, labelled))


# An engine: the training graph, and descent in numpy --------------------------------------------


class NumpyEngine:
    """Runs train.onnx and moves every parameter against its gradient."""

    def __init__(self, training: Training) -> None:
        self.parameters_ = training.parameters
        self.values = {name: np.array(v) for name, v in map_tensors(training.initial).items()}
        self.frozen = training.frozen
        self.padding_id = np.array([training.padding_id])
        self.session = open_session(training.folder / "train.onnx", threads=training.threads)

    def gradients(self, feeds: Feeds) -> tuple[Step, dict[str, np.ndarray]]:
        zeros = {p.zeros: np.zeros(p.shape, np.float32) for p in self.parameters_}
        given = {**self.frozen, **self.values, **zeros, PADDING_ID: self.padding_id, **feeds}
        wanted = {value.name for value in self.session.get_inputs()}
        names = [value.name for value in self.session.get_outputs()]
        fed = {name: value for name, value in given.items() if name in wanted}
        outputs = dict(zip(names, self.session.run(names, fed), strict=True))
        return Step(loss=float(outputs["loss"]), gradient_norm=float(outputs["gradient_norm"])), {
            parameter.name: outputs[parameter.gradient] for parameter in self.parameters_
        }

    def step(self, feeds: Feeds, learning_rate: float) -> Step:
        done, gradients = self.gradients(feeds)
        for name, gradient in gradients.items():
            self.values[name] -= learning_rate * gradient
        return done

    def step_in_parts(self, parts: Sequence[Part], learning_rate: float) -> Step:
        (part,) = parts
        return self.step(part.feeds, learning_rate)

    def parameters(self) -> dict[str, np.ndarray]:
        return self.values

    def set_parameters(self, parameters: Mapping[str, np.ndarray]) -> None:
        self.values = {name: np.array(value) for name, value in parameters.items()}

    state, load_state = parameters, set_parameters


class Numpy(Tagged, frozen=True, kw_only=True, tag="numpy"):
    files: ClassVar[tuple[str, ...]] = ("train.onnx",)
    frees_rows: ClassVar[bool] = False
    keeps_rows: ClassVar[bool] = False
    no_accumulation: ClassVar[str] = "has one batch a step"

    version: str = "0"

    def refusal(self, *, rates: Any, mask: Any, optimizer: Any, dropout: bool) -> str:
        return "numpy draws no masks" if mask else ""

    def installed(self) -> str:
        return np.__version__

    def layers_kept(self, budget: float, *, rows: int, tokens: int) -> tuple[int, float]:
        return 0, 0.0

    def open(self, training: Training) -> NumpyEngine:
        return NumpyEngine(training)


class NumpyExport:
    keeps_few_bits: ClassVar[bool] = False

    def spec(self, graphs: TrainingGraphs | None = None) -> Numpy:
        return Numpy()

    def refusal(self, task: ExportTask) -> str:
        return "" if len(task.outputs) == 1 else "numpy has one output"

    def graphs(self, source: Source) -> WholeGraphs:
        return whole_graphs(source)

    def write(self, contents: TrainingContents) -> None:
        assert isinstance(contents.graphs, WholeGraphs)
        ir.save(contents.graphs.training, contents.folder / "train.onnx")


def test_an_engine_from_outside_trains_and_says_what_it_cannot(
    pico_model: Any, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "ENGINES", (*engines.ENGINES, Numpy))
    monkeypatch.setitem(engine_exports.ENGINE_EXPORTS, "numpy", NumpyExport())
    options = {
        "device": load_device("rpi5"),
        "task": WantedTextClassification(labels=LABELS),
        "engine": "numpy",
    }
    bundle = export(str(pico_model("bert")), tmp_path / "bundle", tune="head", **options)
    assert not (bundle.path / "optimizer.onnx").exists()
    assert open_bundle(bundle.path).manifest.engine == Numpy()
    assert descends(trained(bundle, labelled))
    with pytest.raises(InputError, match="numpy draws no masks"):
        export(str(pico_model("bert")), tmp_path / "masked", tune="child-f", **options)


# A way of tuning: the last bias -----------------------------------------------------------------


@dataclass(frozen=True)
class LastBias(Way):
    """The classifier's bias trains alone."""

    family: ClassVar[str] = "last-bias"
    title: ClassVar[str] = "last-bias"
    summary: ClassVar[str] = "the classifier's bias"
    learning_rate: ClassVar[float] = 1e-2

    def prepare(self, model: PreTrainedModel, context: Context) -> Prepared:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name == "classifier.bias")
        return Prepared()


def test_a_way_from_outside_trains(
    pico_model: Any, labelled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ways, "WAYS", (*ways.WAYS, LastBias))
    bundle = export(
        str(pico_model("bert")),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextClassification(labels=LABELS),
        tune="last-bias",
    )
    assert [parameter.name for parameter in bundle.manifest.parameters] == ["classifier.bias"]
    assert descends(trained(bundle, labelled))
