"""Training layer by layer is training the whole graph, in little more memory than a layer's."""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from transformers import AutoModelForCausalLM

import edgefuse_runtime
from edgefuse.bundling.engine import suitable_engine
from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import BundleError, InputError, ModelError
from edgefuse_export.operators.dropout import Dropout
from edgefuse_export.source import Source
from edgefuse_export.tasks.task import WantedTask
from edgefuse_export.tasks.text2text_generation import WantedText2TextGeneration
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_export.tasks.text_generation import WantedTextGeneration
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Engine, Part
from edgefuse_runtime.engines.onnxruntime import OnnxRuntime
from edgefuse_runtime.engines.onnxruntime_layers import Layer, OnnxRuntimeLayers
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.footprint import Term
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.optimizers.sgd import Sgd
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.fit import fit
from edgefuse_runtime.training.run import TrainingSettings
from tests.export.test_stacks import GENERATION, model_of
from tests.pico_causal import save_causal_model
from tests.pico_models import TEXTS, save_pico_model
from tests.shared import made_once
from tests.tuned_pico import LABELS, TASK, exported, pico

STEPS = 10
SIZES = {"batch_size": 4, "sequence_length": 16}
LAYERS, WHOLE = "onnxruntime-layers", "onnxruntime"


@dataclass(frozen=True)
class Case:
    """A model that trains one way.

    Attributes:
        model: Name of a model: `tied-llama`, `mpo-llama`, or one of `tuned_pico.pico`.
        tune: Name of the way.
        kinds: Kind of each layer.
        lowest: The lowest layer that is differentiated.
        options: Options of the way.
        writes: Whether it is a language model.
    """

    model: str
    tune: str
    kinds: tuple[int, ...]
    lowest: int = 0
    options: tuple[tuple[str, Any], ...] = ()
    writes: bool = True

    @property
    def task(self) -> WantedTask:
        return WantedTextGeneration() if self.writes else WantedTextClassification(labels=LABELS)

    def bundle(self, engine: str) -> Bundle:
        """A bundle to read, made once; the whole graph of a classifier serves other tests too."""
        if engine == WHOLE and not self.writes:
            return exported(self.model, self.tune, **dict(self.options))
        name = f"{self.model}-by-{self.tune}-on-{engine}"
        model = causal(self.model) if self.writes else pico(self.model)
        return open_bundle(
            made_once(
                name,
                lambda output: export(
                    str(model),
                    output,
                    device=load_device("rpi5"),
                    task=self.task,
                    tune=find_way(self.tune, dict(self.options)),
                    engine=engine,
                    **SIZES,
                ),
            )
        )


@cache
def causal(kind: str) -> Path:
    """The directory of a language model to read."""
    word, _, rest = kind.partition("-")

    def make(directory: Path) -> None:
        if word == "mpo":
            compress(str(causal(rest)), directory, method="mpo", matrices=("mlp",), max_error=0.2)
        else:
            save_causal_model(directory, rest or word, tied=word == "tied", layers=2)

    return made_once(f"stack-{kind}", make)


TIED = Case("tied-llama", "full", (0, 0))
LORA = Case("llama", "lora", (0, 0), options=(("lora_rank", 2),))
CASES = [
    TIED,
    LORA,
    Case("fused-bert", "child-f", (0, 0, 0), writes=False),
    Case(
        "llama",
        "prefix",
        (0, 0, 0),
        options=(("prefix_length", 4), ("prefix_projection", 0)),
        writes=False,
    ),
    Case("bert", "last-1", (0, 0, 1), lowest=2, writes=False),
    Case("bert", "head", (0, 0, 0), lowest=3, writes=False),
]
MATRIX = [
    Case("gemma2", "lora", (0, 1), options=(("lora_rank", 2),)),
    Case("mixtral", "last-1", (0, 1), lowest=1),
    Case("mpo-llama", "mpo", (0, 1)),  # bonds of an error differ
    Case("gpt2", "adapter", (0, 0), options=(("adapter_size", 3),)),
    Case("deberta-v2", "full", (0, 0, 0), writes=False),
]


def batches(bundle: Bundle, count: int, shape: tuple[int, int] = (4, 9)) -> list[Feeds]:
    """Random batches, whose last row has padding."""
    task, rng = bundle.manifest.task, np.random.default_rng(0)
    return [task.random_feeds(rng, shape, np.arange(50), padded=True) for _ in range(count)]


def losses(engine: Engine, feeds: Sequence[Feeds]) -> list[float]:
    return [engine.step(one, 1e-3).loss for one in feeds]


@pytest.mark.slow
@pytest.mark.no_cover
@pytest.mark.parametrize(
    "case",
    [*CASES, *(pytest.param(case, marks=pytest.mark.matrix) for case in MATRIX)],
    ids=lambda case: f"{case.model}-{case.tune}",
)
def test_ten_steps_are_those_of_the_whole_graph(case: Case) -> None:
    layers, whole = case.bundle(LAYERS), case.bundle(WHOLE)
    spec = layers.manifest.engine
    assert isinstance(spec, OnnxRuntimeLayers)
    assert tuple(layer.kind for layer in spec.layers) == case.kinds
    assert spec.lowest == case.lowest
    assert isinstance(whole.manifest.engine, OnnxRuntime)
    feeds = batches(layers, STEPS)
    engines = [open_engine(bundle, threads=1) for bundle in (layers, whole)]
    found, expected = (losses(engine, feeds) for engine in engines)
    assert found == pytest.approx(expected, abs=1e-5)
    assert len({*found}) == STEPS
    values = engines[0].parameters()
    for name, value in engines[1].parameters().items():
        if not name.endswith("attention.self.key.bias"):  # no gradient but noise, in a softmax
            np.testing.assert_allclose(values[name], value, atol=2e-4, err_msg=name)
    outputs, as_whole = (
        InferenceModel(bundle, values, threads=1).run(feeds[0]) for bundle in (layers, whole)
    )
    for name, output in outputs.items():
        np.testing.assert_allclose(output, as_whole[name], atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_insides_that_are_kept_change_nothing() -> None:
    bundle = TIED.bundle(LAYERS)
    feeds = batches(bundle, 4)
    expected = losses(open_engine(bundle, threads=1), feeds)
    for kept in (1, 2):
        engine = open_engine(bundle, threads=1, kept_layers=kept)
        assert losses(engine, feeds) == pytest.approx(expected, abs=1e-5)


@pytest.mark.slow
def test_parts_have_the_gradient_of_the_whole_batch() -> None:
    bundle = TIED.bundle(LAYERS)
    (feeds,) = batches(bundle, 1, (6, 11))
    whole = open_engine(bundle, threads=1)
    parts = open_engine(bundle, threads=1, accumulates=True)
    task = bundle.manifest.task
    cut = [{name: v[begin : begin + 2] for name, v in feeds.items()} for begin in (0, 2, 4)]
    total = task.terms(feeds)
    before = whole.step(feeds, 1e-3)
    after = parts.step_in_parts([Part(one, task.terms(one) / total) for one in cut], 1e-3)
    assert after.loss == pytest.approx(before.loss, rel=1e-6)
    assert after.gradient_norm == pytest.approx(before.gradient_norm, rel=2e-6)
    largest = np.abs(whole._gradients).max()
    np.testing.assert_allclose(parts._gradients, whole._gradients, rtol=0, atol=1e-6 * largest)


@pytest.mark.slow
def test_a_batch_that_learns_nothing_changes_nothing() -> None:
    bundle = TIED.bundle(LAYERS)
    (feeds,) = batches(bundle, 1)
    engine = open_engine(bundle, threads=1)
    before = {name: value.copy() for name, value in engine.parameters().items()}
    step = engine.step({**feeds, "labels": np.full_like(feeds["labels"], -100)}, 1e-3)
    assert not np.isfinite(step.loss)
    for name, value in engine.parameters().items():
        assert np.array_equal(value, before[name]), name


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("examples") / "examples.jsonl"
    labelled = [
        {"text": text, "label": LABELS[index % len(LABELS)]} for index, text in enumerate(TEXTS)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    return file


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_with_the_same_bits(rows: Path, tmp_path: Path) -> None:
    bundle = TIED.bundle(LAYERS)
    settings = TrainingSettings(epochs=2, learning_rate=1e-2, threads=1, batch_size=2)
    options = {"train": rows, "settings": settings}
    report = finetune(bundle, tmp_path / "whole", **options)
    assert report.engine == LAYERS
    calls = iter(range(100))
    with pytest.raises(Exception, match="stopped after step 3"):
        finetune(bundle, tmp_path / "stopped", **options, stop=lambda: next(calls) == 2)
    finetune(bundle, tmp_path / "stopped", **options, resume=True)
    whole, stopped = (map_tensors(tmp_path / n / "last.safetensors") for n in ("whole", "stopped"))
    for name, value in whole.items():
        assert np.array_equal(value, stopped[name]), name


@pytest.mark.slow
@pytest.mark.parametrize("tune", ["head", "last-1"])
def test_what_frozen_layers_give_is_kept_and_changes_no_bit(
    tune: str, examples: Path, tmp_path: Path
) -> None:
    (case,) = [case for case in CASES if (case.model, case.tune) == ("bert", tune)]
    bundle = case.bundle(LAYERS)
    assert bundle.manifest.engine.keeps_rows
    settings = TrainingSettings(
        epochs=3, learning_rate=1e-2, threads=2, batch_size=2, gradient_accumulation_steps=2
    )
    options = {"train": examples, "settings": settings}
    reports = {
        name: finetune(bundle, tmp_path / name, **options, cache=budget)
        for name, budget in (("kept", None), ("computed", 0), ("in-part", 2000))
    }
    assert reports["kept"].row_cache_mib > reports["in-part"].row_cache_mib > 0
    assert reports["computed"].row_cache_mib == 0
    calls = iter(range(100))
    with pytest.raises(Exception, match="stopped after step 3"):
        finetune(bundle, tmp_path / "stopped", **options, stop=lambda: next(calls) == 2)
    assert {path.name for path in (tmp_path / "stopped").iterdir()} <= {
        path.name for path in (tmp_path / "computed").iterdir()
    }
    finetune(bundle, tmp_path / "stopped", **options, resume=True)
    expected = map_tensors(tmp_path / "computed" / "last.safetensors")
    for run in ("kept", "in-part", "stopped"):
        found = map_tensors(tmp_path / run / "last.safetensors")
        for name, value in expected.items():
            assert np.array_equal(value, found[name]), (run, name)


def test_a_row_is_the_same_whatever_comes_with_it() -> None:
    bundle = next(case for case in CASES if case.tune == "last-1").bundle(LAYERS)
    engine = open_engine(bundle, threads=2)
    rng = np.random.default_rng(0)
    ids = rng.integers(5, 50, (9, 12))
    mask = (np.arange(12) < np.array([5, 12, 5, 7, 1, 5, 3, 12, 8])[:, None]).astype(np.int64)
    feeds = {"input_ids": ids * mask, "attention_mask": mask}
    if "token_type_ids" in bundle.manifest.inputs:
        feeds["token_type_ids"] = np.zeros_like(ids)
    whole = engine._of_rows(feeds)
    for row, length in enumerate(mask.sum(axis=1).tolist()):
        if length > 1:
            alone = {name: array[row : row + 1, :length] for name, array in feeds.items()}
            np.testing.assert_array_equal(engine._of_rows(alone)[0], whole[row, :length])
        assert not whole[row, length:].any()


@pytest.mark.slow
def test_it_fits_and_its_certificate_is_replayed(rows: Path) -> None:
    bundle = TIED.bundle(LAYERS)
    seen: list[float] = []
    data = bundle.read(rows)
    fit(
        bundle,
        bundle.trainable(),
        data,
        steps=8,
        on_step=lambda outcome: seen.append(outcome.loss),
    )
    assert np.mean(seen[4:]) < np.mean(seen[:4])
    diagnosis = edgefuse_runtime.doctor(bundle.path, threads=1)
    assert diagnosis.healthy
    assert [one.gradients for one in diagnosis.replays] == [len(bundle.manifest.parameters)] * 3


@pytest.mark.slow
def test_what_it_trained_converts_as_from_the_whole_graph(tmp_path: Path) -> None:
    layers, whole = TIED.bundle(LAYERS), TIED.bundle(WHOLE)
    engine = open_engine(layers, threads=1)
    losses(engine, batches(layers, 3))
    values = {name: value.copy() for name, value in engine.parameters().items()}
    written = []
    for name, bundle in (("layers", layers), ("whole", whole)):
        convert(bundle, values, tmp_path / name, to="transformers")
        written.append(map_tensors(tmp_path / name / "model.safetensors"))
        convert(bundle, values, tmp_path / f"{name}-onnx", to="onnx")
    assert written[0].keys() == written[1].keys()
    for name, value in written[0].items():
        assert np.array_equal(value, written[1][name]), name
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "layers")
    embedding = loaded.get_input_embeddings().weight
    assert loaded.get_output_embeddings().weight is embedding
    assert np.array_equal(embedding.detach().numpy(), values["model.embed_tokens.weight"])


@pytest.mark.slow
def test_adapters_are_pefts_own(tmp_path: Path) -> None:
    layers, whole = LORA.bundle(LAYERS), LORA.bundle(WHOLE)
    engine = open_engine(layers, threads=1)
    losses(engine, batches(layers, 3))
    values = {name: value.copy() for name, value in engine.parameters().items()}
    for name, bundle in (("layers", layers), ("whole", whole)):
        convert(bundle, values, tmp_path / name, to="peft")
    one, other = (
        map_tensors(tmp_path / name / "adapter_model.safetensors") for name in ("layers", "whole")
    )
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert np.array_equal(value, other[name]), name


@pytest.mark.slow
def test_a_graph_that_is_missing_is_named(tmp_path: Path) -> None:
    bundle = TIED.bundle(LAYERS)
    files = {n: f for n, f in bundle.manifest.files.items() if n != "layers/backward_0.onnx"}
    manifest = msgspec.structs.replace(bundle.manifest, files=files)
    (tmp_path / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    with pytest.raises(BundleError, match=r"does not name layers/backward_0\.onnx"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    "changes", [{"lowest": 2}, {"lowest": -1}, {"kept": []}, {"layers": [{"contexts": [-1]}]}]
)
def test_layers_that_cannot_be_are_refused(changes: dict[str, Any]) -> None:
    layer = {"kind": 0, "prefix": "layers.0.", "contexts": [0]}
    spec = {
        "name": LAYERS,
        "version": "0",
        "layers": [layer],
        "lowest": 0,
        "by_token": True,
        "kept": [[]],
    }
    assert msgspec.convert(spec, OnnxRuntimeLayers).layers == [Layer(**layer)]
    changed = spec | changes
    changed["layers"] = [layer | one for one in changed["layers"]]
    with pytest.raises(msgspec.ValidationError, match="layer"):
        msgspec.convert(changed, OnnxRuntimeLayers)


def test_a_budget_keeps_the_uppermost_insides() -> None:
    spec = OnnxRuntimeLayers(
        version="0",
        layers=[Layer(kind=kind, prefix=f"{kind}.", contexts=[]) for kind in (0, 1, 1)],
        lowest=1,
        by_token=False,
        kept=[[], [Term(10.0, 1, 1)]],
    )
    kept = [spec.layers_kept(budget, rows=2, tokens=3) for budget in (59, 60, 120, 999)]
    assert kept == [(0, 0), (1, 60), (2, 120), (2, 120)]


# Which engine suits a model ---------------------------------------------------------------------


def source_of(
    kind: str,
    *,
    layers: int = 2,
    optimizer: Optimizer | None = None,
    dropout: Dropout | None = None,
    fused: Sequence[Any] = (),
    writes: bool = True,
    trains: str = "",
) -> Source:
    model = model_of(kind, layers)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(bool(re.search(trains, name)))
    return Source(
        task=GENERATION if writes else TASK,
        model=model,
        inference=None,
        merges=[],
        fused=fused,
        optimizer=optimizer or AdamW(),
        dropout=dropout,
        vocabulary=50,
    )


@pytest.mark.parametrize(
    ("kind", "options", "engine"),
    [
        ("llama", {}, LAYERS),
        ("gpt2", {"optimizer": Sgd()}, LAYERS),
        ("llama", {"layers": 1}, WHOLE),
        ("llama", {"dropout": Dropout(0.1)}, WHOLE),
        ("llama", {"optimizer": Sgd(), "fused": [object()]}, WHOLE),
        ("llama", {"optimizer": AdamW(), "fused": [object()]}, LAYERS),
        ("bert", {"writes": False}, WHOLE),
        ("bert", {"writes": False, "layers": 3, "trains": r"layer\.[12]\."}, WHOLE),
        ("bert", {"writes": False, "trains": "classifier"}, LAYERS),
        ("bert", {"writes": False, "trains": "classifier", "dropout": Dropout(0.1)}, WHOLE),
        ("bert", {"writes": False, "trains": "LayerNorm"}, WHOLE),
    ],
)
def test_language_models_and_heads_train_layer_by_layer(
    kind: str, options: dict[str, Any], engine: str
) -> None:
    assert suitable_engine(source_of(kind, **options)) == engine


def test_the_default_is_the_engine_that_suits(tmp_path: Path) -> None:
    shallow = save_causal_model(tmp_path / "shallow", layers=1)
    bundle = export(
        str(shallow),
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextGeneration(),
        tune="last-1",
        **SIZES,
    )
    assert bundle.manifest.engine.name == WHOLE


@pytest.mark.parametrize(
    ("kind", "options", "sentence"),
    [
        ("bert", {"dropout": 0.1}, "Layer by layer there is no dropout"),
        ("fused-bert", {"optimizer": Sgd()}, "Layer by layer, sgd cannot train fused MLPs"),
        ("albert", {}, "cannot be trained layer by layer: it has no list of layers"),
        ("t5", {"task": WantedText2TextGeneration()}, "it is a pair of an encoder and a decoder"),
    ],
)
def test_what_cannot_train_layer_by_layer_is_refused_where_it_is_asked_for(
    kind: str, options: dict[str, Any], sentence: str, tmp_path: Path
) -> None:
    task = WantedTextClassification(labels=LABELS)
    asked = {"device": load_device("rpi5"), "task": task, "engine": LAYERS, **SIZES, **options}
    model = (
        save_pico_model(tmp_path / "t5", "t5", auto_class="AutoModelForSeq2SeqLM")
        if kind == "t5"
        else pico(kind)
    )
    with pytest.raises((InputError, ModelError), match=sentence) as refused:
        export(str(model), tmp_path / "bundle", **asked)
    assert "--engine onnxruntime" in str(refused.value)
    assert not (tmp_path / "bundle").exists()
