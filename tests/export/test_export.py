"""A bundle's graphs compute what torch computes, for every encoder and way of tuning."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
import transformers

import edgefuse
from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.tuning.ways import find_way
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, InternalError, ModelError, OutputError, RunError
from edgefuse_export.certificate import certify
from edgefuse_export.tasks.text_classification import (
    TextClassificationExport,
    WantedTextClassification,
)
from edgefuse_export.trace import example, trace
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.graph.merges import Fold
from edgefuse_runtime.tasks.text_classification import TextClassification
from tests.pico_models import ARCHITECTURES, WIDTH, save_pico_model
from tests.tuned_pico import CONTEXT, LABELS, TASK, classifier, exported, pico, training_outputs

PicoModel = Callable[..., Path]


def export_pico(model: Path, output: Path, **options: object) -> Bundle:
    return export(
        str(model),
        output,
        device=load_device("rpi5"),
        task=WantedTextClassification(labels=LABELS),
        **options,
    )


@pytest.mark.parametrize("architecture", ["bert"])  # test_families.py has the others
def test_loss_logits_and_every_gradient_equal_torchs(architecture: str) -> None:
    bundle = exported(architecture)

    certificate = bundle.manifest.certificate
    assert certificate is not None
    shapes = {check.shape for check in certificate.checks}
    assert len(shapes) == 3
    assert certificate.traced_shape not in shapes
    assert min(shapes)[0] == 1
    assert max(tokens for _, tokens in shapes) == bundle.manifest.sequence_length
    assert certificate.gradients == len(bundle.manifest.parameters)
    assert certificate.loss_difference < 1e-5
    assert certificate.output_difference < 1e-5
    assert certificate.worst_gradient_error < 1e-3


@pytest.mark.parametrize(("kind", "layers"), [("shallow-bert", None), ("bert", "0-1")])
def test_matrices_in_two_factors_are_exported_and_convert_to_onnx_alone(
    kind: str, layers: str | None, tmp_path: Path
) -> None:
    compress(str(pico(kind)), tmp_path / "svd", method="svd", ratio=0.5, layers=layers)
    bundle = export_pico(tmp_path / "svd", tmp_path / "bundle")
    assert set(bundle.manifest.model.intermediate_sizes) == {WIDTH}
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.worst_gradient_error < 1e-3
    convert(bundle, bundle.trainable(), tmp_path / "onnx", to="onnx")
    with pytest.raises(RunError, match="no matrices in two factors"):
        convert(bundle, bundle.trainable(), tmp_path / "plain", to="transformers")


def test_the_tanh_form_of_gelu_has_its_own_gradient(tmp_path: Path) -> None:
    model = tmp_path / "tanh"
    shutil.copytree(pico("shallow-bert"), model)
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "hidden_act": "gelu_pytorch_tanh"}))
    certificate = export_pico(model, tmp_path / "bundle").manifest.certificate
    assert certificate is not None
    assert certificate.worst_gradient_error < 1e-3


def test_norms_without_weights_have_a_gradient() -> None:
    certificate = exported("shallow-olmo").manifest.certificate
    assert certificate is not None
    assert certificate.worst_gradient_error < 1e-3


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("tune", ["full-without-embeddings", "head"])
def test_no_table_of_words_trains_but_the_head_does(architecture: str, tune: str) -> None:
    model = classifier(pico(architecture))
    find_way(tune).prepare(model, CONTEXT)

    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert not any("embeddings.word_embeddings" in name for name in trained)
    assert any(name.startswith(("classifier", "pre_classifier")) for name in trained)
    if tune == "head":
        assert not any(".layer." in name for name in trained)
        assert sum(model.get_parameter(name).numel() for name in trained) < 1000


@pytest.mark.parametrize(
    ("architecture", "tune"),
    [("albert", "full-without-embeddings"), ("bert", "full-without-embeddings"), ("bert", "head")],
)
def test_what_is_frozen_is_no_output_of_the_graph(architecture: str, tune: str) -> None:
    bundle = exported(architecture, tune)

    model = classifier(pico(architecture))
    find_way(tune).prepare(model, CONTEXT)
    trained = {parameter.name for parameter in bundle.manifest.parameters}
    assert trained == {name for name, p in model.named_parameters() if p.requires_grad}
    graph = onnx.load(bundle.path / "train.onnx", load_external_data=False).graph
    assert {o.name for o in graph.output} == {
        "loss",
        "gradient_norm",
        *(f"gradient.{name}" for name in trained),
    }
    assert trained.isdisjoint(bundle.frozen)


def test_backward_stops_below_the_lowest_trained_parameter() -> None:
    nodes = {
        tune: len(
            onnx.load(
                exported("bert", tune).path / "train.onnx", load_external_data=False
            ).graph.node
        )
        for tune in ("full", "full-without-embeddings", "head")
    }
    assert nodes["head"] < nodes["full"] / 2
    assert nodes["full-without-embeddings"] < nodes["full"]


def test_graphs_are_of_standard_operators_and_name_no_file_of_this_machine() -> None:
    bundle = exported("bert")
    for name in ("train.onnx", "optimizer.onnx", "inference.onnx", "model.onnx"):
        model = onnx.load(bundle.path / name, load_external_data=False)
        assert {entry.domain for entry in model.opset_import} == {""}
        assert model.ir_version <= 10
        raw = (bundle.path / name).read_bytes()
        assert b".py" not in raw
        assert str(Path.cwd()).encode() not in raw


def test_p_stands_alone_in_training_and_is_folded_for_inference() -> None:
    bundle = exported("fused-bert")
    manifest = bundle.manifest

    assert manifest.model.compression == "mlp-fusion"
    assert manifest.model.intermediate_sizes == [WIDTH // 4] * 3
    multiplicities = {m.multiplicity for m in manifest.merges if isinstance(m, Fold)}
    assert len(multiplicities) == 3
    assert all(bundle.frozen[name].sum() == WIDTH for name in multiplicities)
    training = (bundle.path / "train.onnx").read_bytes()
    inference = (bundle.path / "inference.onnx").read_bytes()
    assert all(name.encode() in training for name in multiplicities)
    assert not any(name.encode() in inference for name in multiplicities)


def test_the_gradient_norm_weighs_a_fused_row_by_the_root_of_its_neurons() -> None:
    bundle = exported("fused-bert")
    frozen, outputs = bundle.frozen, training_outputs(bundle)
    total = plain = 0.0
    reciprocals = {
        m.weight: 1 / frozen[m.multiplicity] for m in bundle.manifest.merges if isinstance(m, Fold)
    }
    for parameter in bundle.manifest.parameters:
        square = outputs[parameter.gradient].astype(np.float64) ** 2
        plain += square.sum()
        down = parameter.name.replace("intermediate", "output").replace("bias", "weight")
        if "intermediate" in parameter.name:
            square = square * reciprocals[down].reshape(-1, *[1] * (square.ndim - 1))
        elif parameter.name in reciprocals:
            square = square * reciprocals[parameter.name]
        total += square.sum()
    assert outputs["gradient_norm"] == pytest.approx(np.sqrt(total), rel=1e-5)
    assert outputs["gradient_norm"] < 0.99 * np.sqrt(plain)


def test_a_wrong_graph_gets_no_certificate(pico_model: PicoModel) -> None:
    bundle = exported("bert", "head")
    other = edgefuse.from_pretrained(
        pico_model(seed=1),
        transformers.AutoModelForSequenceClassification,
        num_labels=3,
        attn_implementation="eager",
    )
    with pytest.raises(InternalError, match="is not the model's"):
        certify(TASK, other, bundle, vocabulary=50)
    for name, value in bundle.trainable().items():
        other.get_parameter(name).data.copy_(torch.from_numpy(value))
    with pytest.raises(InternalError, match="differs from torch's"):
        certify(TASK, other, bundle, vocabulary=50)


def test_weights_that_are_stored_with_other_strides_are_taken_as_they_read(tmp_path: Path) -> None:
    source = save_pico_model(tmp_path / "strided", "bert", num_labels=3, layers=2)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(source)
    (source / "model.safetensors").unlink()
    state = {
        name: tensor.T.contiguous().T if tensor.ndim == 2 else tensor
        for name, tensor in model.state_dict().items()
    }
    torch.save(state, source / "pytorch_model.bin")
    compress(str(source), tmp_path / "same", method="prune", ratio=1)
    for directory in (source, tmp_path / "same"):
        bundle = export_pico(directory, tmp_path / f"{directory.name}-bundle", tune="last-1")
        matrices = "dense.weight"  # of the layer that trains and of the one that does not
        assert all(any(matrices in n for n in part) for part in (bundle.trainable(), bundle.frozen))
        stored = {**bundle.trainable(), **bundle.frozen}
        for name, tensor in state.items():
            np.testing.assert_array_equal(stored[name], tensor)


def test_weight_decay_spares_biases_and_norms() -> None:
    bundle = exported("bert")
    for parameter in bundle.manifest.parameters:
        assert parameter.decay == (
            not parameter.name.endswith("bias") and "LayerNorm" not in parameter.name
        )


def test_batch_size_auto_takes_what_the_board_can_hold(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zero = load_device("rpi-zero-2w")
    small = msgspec.structs.replace(zero, memory_mib=1, memory_variants_mib=[])
    options = {"task": WantedTextClassification(labels=LABELS), "sequence_length": 64}
    model = str(pico("shallow-bert"))
    on_pi = export(model, tmp_path / "pi", device=load_device("rpi5"), **options)
    on_small = export(model, tmp_path / "small", device=small, **options)

    assert on_pi.manifest.batch_size == 16
    assert on_small.manifest.batch_size < 16
    assert on_small.manifest.predicted_memory.total <= 2**19
    assert (
        on_small.manifest.predicted_memory.activations < on_pi.manifest.predicted_memory.activations
    )
    monkeypatch.setattr("edgefuse_export.memory._SHARE_OF_MEMORY", 0.01)
    with pytest.raises(InputError, match="even with one row"):
        export(model, tmp_path / "tiny", device=small, tune="head", **options)
    assert not (tmp_path / "tiny").exists()


def test_the_same_seed_gives_the_same_head(tmp_path: Path) -> None:
    model, options = pico("shallow-bert"), {"tune": "head"}
    bundles = [
        export_pico(model, tmp_path / str(index), seed=seed, **options)
        for index, seed in enumerate((0, 0, 1))
    ]
    heads = [bundle.trainable()["classifier.weight"] for bundle in bundles]
    assert np.array_equal(heads[0], heads[1])
    assert not np.array_equal(heads[0], heads[2])


def test_bad_requests_are_refused_and_leave_nothing(pico_model: PicoModel, tmp_path: Path) -> None:
    model, output = pico_model(), tmp_path / "bundle"
    with pytest.raises(InputError, match="no way of tuning 'everything'"):
        export_pico(model, output, tune="everything")
    with pytest.raises(InputError, match="outside 2 to 64"):
        export_pico(model, output, sequence_length=65)
    with pytest.raises(ModelError, match="does not exist"):
        export_pico(tmp_path / "nothing", output)
    assert not output.exists()
    output.mkdir()
    (output / "precious.txt").write_text("keep me")
    with pytest.raises(OutputError, match="not empty"):
        export_pico(model, output)
    with pytest.raises(OutputError, match="did not write"):
        export_pico(model, output, overwrite=True)
    assert (output / "precious.txt").read_text() == "keep me"


def test_a_bundle_can_be_exported_over_an_older_one(tmp_path: Path) -> None:
    first, output = exported("bert"), tmp_path / "bundle"
    shutil.copytree(first.path, output)
    second = export_pico(pico("shallow-bert"), output, tune="head", overwrite=True)
    assert open_bundle(output).id == second.id != first.id


class ReadsTokens(torch.nn.Module):
    def __init__(self, read: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.read = read
        self.embedding = torch.nn.Embedding(20, 8)
        self.linear = torch.nn.Linear(8, 3)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> object:
        hidden = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        return type("Output", (), {"logits": self.linear(self.read(hidden))})


@pytest.mark.parametrize(
    "read",
    [
        pytest.param(lambda hidden: torch.tanh(hidden).mean(1), id="all"),
        pytest.param(lambda h: torch.tanh(h)[:, 0] + torch.relu(h)[:, 1], id="two of one tensor"),
    ],
)
def test_a_classifier_keeps_every_token_that_it_reads(
    read: Callable[[torch.Tensor], torch.Tensor],
) -> None:
    task = TextClassificationExport(TextClassification(labels=["a", "b", "c"]))
    inputs = example(task, (2, 7), vocabulary=20).values()
    module = task.loss(ReadsTokens(read))
    program = trace(task, module.model, vocabulary=20)
    assert torch.allclose(program.module()(*inputs)[0], module(*inputs)[0])
