"""Chains go to the board and back: `export --tune mpo`, training, conversion."""

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

import edgefuse
from edgefuse.artifact.save import TRAINED_WEIGHTS
from edgefuse.bundling.chains import plain_form
from edgefuse.bundling.export import export
from edgefuse.compression.chains.limit import Limit
from edgefuse.compression.compress import compress
from edgefuse.layers.chains.decomposition import decompose
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.mlps.matrices import Kind
from edgefuse.tuning.way import Way
from edgefuse.tuning.ways.lora import Lora
from edgefuse.tuning.ways.mpo import Mpo
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.graph.merges import Fold, MatrixProduct, merged
from tests.tuned_pico import (
    LABELS,
    assert_frozen_stay,
    classifier,
    logits_in_torch,
    logits_on_the_board,
    pico,
    trained,
)

pytestmark = pytest.mark.no_cover  # it takes as long again, and shows nothing new

PicoModel = Callable[..., Path]
LOSSLESS = Limit(max_error=0)


def export_chains(
    source: Path,
    folder: Path,
    *,
    kinds: tuple[Kind, ...] = ("mlp",),
    limit: Limit = LOSSLESS,
    tune: str | Way = "mpo",
    **options: object,
) -> Bundle:
    if not (folder / "chains").exists():
        compress(str(source), folder / "chains", method="mpo", matrices=kinds, **vars(limit))
    name = tune if isinstance(tune, str) else type(tune).__name__
    board = load_device("rpi5")
    shape = {"batch_size": 4, "sequence_length": 16}
    chains, output = str(folder / "chains"), folder / name
    return export(
        chains,
        output,
        device=board,
        task=WantedTextClassification(labels=LABELS),
        tune=tune,
        **shape,
        **options,
    )


@pytest.fixture(scope="module")
def bundle(pico_model: PicoModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A fused pico BERT whose MLPs and embeddings are chains that lost a little."""
    folder = tmp_path_factory.mktemp("mpo")
    compress(str(pico_model("bert")), folder / "fused", ratio=0.5)
    limit = Limit(max_error=0.2)
    return export_chains(folder / "fused", folder, kinds=("mlp", "embeddings"), limit=limit)


def assert_equal_to_torch(bundle: Bundle) -> None:
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.gradients == len(bundle.manifest.parameters)
    assert certificate.loss_difference < 1e-5
    assert certificate.output_difference < 1e-5
    assert certificate.worst_gradient_error < 1e-3


def test_gradients_of_auxiliary_tensors_equal_torchs(bundle: Bundle) -> None:
    assert_equal_to_torch(bundle)
    trained_names = {parameter.name for parameter in bundle.manifest.parameters}
    central = {name for name in bundle.frozen if name.endswith(".central")}
    assert len(central) == 7
    for name in central:
        assert f"{name.removesuffix('central')}auxiliary.3" in trained_names
    frozen = set(bundle.frozen) - central
    assert all(name.endswith(("multiplicity", "_ids")) for name in frozen)
    assert bundle.manifest.tuning.method == "mpo"
    assert bundle.manifest.model.compression == "mlp-fusion+mpo"
    assert sum(isinstance(merge, Fold) for merge in bundle.manifest.merges) == 3


CASES = {
    "bert": ("shallow-bert", ("mlp", "attention", "embeddings"), LOSSLESS),
    "contracted": ("shallow-bert", ("mlp",), Limit(bond=2)),
    "looked up": ("shallow-bert", ("embeddings",), LOSSLESS),
    "albert": ("albert", ("mlp", "attention"), LOSSLESS),
    "llama": ("shallow-llama", ("mlp", "attention"), LOSSLESS),
}


@pytest.mark.slow
@pytest.mark.parametrize(("case", "tune"), [("bert", "full"), *((case, "mpo") for case in CASES)])
def test_gradients_equal_torchs(
    case: str,
    tune: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    architecture, kinds, limit = CASES[case]
    if case == "looked up":  # which a table of so few rows is not
        monkeypatch.setattr("edgefuse.layers.chains.modules.suits", lambda *_: True)
    source = pico(architecture)
    bundle = export_chains(source, tmp_path, kinds=kinds, limit=limit, tune=tune)
    assert_equal_to_torch(bundle)
    names = {parameter.name for parameter in bundle.manifest.parameters}
    assert any(name.endswith(".central") for name in names) is (tune == "full")
    assert_frozen_stay(bundle, trained(bundle, steps=20))


def test_central_tensors_stay_bit_for_bit_through_training(bundle: Bundle) -> None:
    values = trained(bundle, steps=20)
    moved = [n for n, value in values.items() if not np.array_equal(value, bundle.trainable()[n])]
    assert len(moved) == len(values)
    assert_frozen_stay(bundle, values)
    chains = load_file(bundle.path.parent / "chains" / TRAINED_WEIGHTS)
    for name, tensor in bundle.frozen.items():
        if name.endswith(".central"):
            assert tensor.tobytes() == chains[name.removeprefix("bert.")].numpy().tobytes()


def test_transformers_and_onnx_get_rebuilt_matrices(bundle: Bundle, tmp_path: Path) -> None:
    values = trained(bundle, steps=5)
    convert(bundle, values, tmp_path / "plain", to="transformers")
    convert(bundle, values, tmp_path / "onnx", to="onnx")
    expected = logits_on_the_board(bundle, values)
    np.testing.assert_allclose(logits_in_torch(classifier(tmp_path / "plain")), expected, atol=1e-5)
    for graph in (bundle.path / "inference.onnx", tmp_path / "onnx" / "model.onnx"):
        assert "central" not in str(onnx.load(graph, load_external_data=False).graph)
    assert np.abs(expected - logits_on_the_board(bundle, bundle.trainable())).max() > 0.01


def test_the_board_rebuilds_what_torch_rebuilds(bundle: Bundle) -> None:
    tensors = {**bundle.frozen, **bundle.trainable()}
    products = [one for one in bundle.manifest.merges if not isinstance(one, Fold)]
    plain = merged(products, tensors)
    assert not any("central" in name or "auxiliary" in name for name in plain)
    model = edgefuse.from_pretrained(bundle.path.parent / "chains")
    for name, tensor in plain_form(model).state_dict().items():
        if name.endswith("dense.weight") or name.startswith("embeddings"):
            np.testing.assert_allclose(plain[f"bert.{name}"], tensor.numpy(), atol=1e-6)


@pytest.mark.parametrize("transposed", [False, True])
def test_a_matrix_product_is_the_matrix(transposed: bool) -> None:
    matrix = torch.randn(997, 24, generator=torch.Generator().manual_seed(0))
    mpo = decompose(matrix, choose_dimensions(997, 24, pads=True))
    names = [f"t{index}" for index in range(5)]
    tensors = {name: t.float().numpy() for name, t in zip(names, mpo.tensors, strict=True)}
    recipe = MatrixProduct(weight="w", tensors=names, rows=997, transposed=transposed)
    found = merged([recipe], {**tensors, "other": np.zeros(1)})
    assert found.keys() == {"w", "other"}
    expected = (matrix.T if transposed else matrix).numpy()
    np.testing.assert_allclose(found["w"], expected, atol=1e-5)


def test_auxiliary_tensors_have_a_learning_rate_of_their_own(bundle: Bundle) -> None:
    again = export_chains(Path(), bundle.path.parent, tune=Mpo(auxiliary_rate=4.0))
    rates = {parameter.name: parameter.rate for parameter in again.manifest.parameters}
    assert {rate for name, rate in rates.items() if ".auxiliary." in name} == {4.0}
    assert {rate for name, rate in rates.items() if ".auxiliary." not in name} == {1.0}
    assert {parameter.rate for parameter in bundle.manifest.parameters} == {1.0}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
def test_lora_trains_what_was_not_decomposed(bundle: Bundle, tmp_path: Path) -> None:
    both = export_chains(Path(), bundle.path.parent, tune=Lora(rank=2))
    assert_equal_to_torch(both)
    values = trained(both, steps=5)
    convert(both, values, tmp_path / "plain", to="transformers")
    expected = logits_on_the_board(both, values)
    np.testing.assert_allclose(logits_in_torch(classifier(tmp_path / "plain")), expected, atol=1e-5)


def test_a_model_without_chains_is_refused_with_what_to_do(
    pico_model: PicoModel, tmp_path: Path
) -> None:
    with pytest.raises(ModelError, match="has none") as refused:
        export(
            str(pico_model("bert")),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=WantedTextClassification(labels=LABELS),
            tune="mpo",
        )
    assert "edgefuse compress MODEL OUTPUT --method mpo --max-error 0" in str(refused.value)


def test_rates_that_cannot_be_are_refused(bundle: Bundle) -> None:
    for rate in (0, math.inf):
        with pytest.raises(InputError, match="is no rate to multiply by"):
            export_chains(Path(), bundle.path.parent, tune=Mpo(auxiliary_rate=rate), overwrite=True)
    with pytest.raises(InputError, match="one learning rate for all parameters"):
        export_chains(
            Path(),
            bundle.path.parent,
            tune=Mpo(auxiliary_rate=2.0),
            engine="onnxruntime-training",
            overwrite=True,
        )
