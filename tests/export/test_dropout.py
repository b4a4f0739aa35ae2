"""Training drops activations by masks that seed, step and place alone decide."""

import json
import math
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from edgefuse.bundling.export import export
from edgefuse_devices.errors import InputError, Interrupted, ModelError
from edgefuse_export.operators.dropout import keep
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.files.tensor_file import map_tensors
from edgefuse_runtime.graph.dropout import DROPOUT_KEY, dropout_key
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.training.finetune import finetune
from edgefuse_runtime.training.run import TrainingSettings
from tests.pico_models import TEXTS
from tests.tuned_pico import LABELS, OPTIONS, exported, pico, random_batch


def key(seed: int = 0, step: int = 0) -> torch.Tensor:
    return torch.from_numpy(dropout_key(seed, step, 0))


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_masks_keep_the_wanted_share_and_nothing_is_alike(probability: float) -> None:
    like = torch.empty(400, 500)
    masks = [
        keep(like, given, site, probability)
        for given in (key(0, 0), key(0, 1), key(1, 0))
        for site in (1, 2)
    ]
    deviation = math.sqrt(probability * (1 - probability) / like.numel())
    for mask in masks:
        assert abs(mask.double().mean() - (1 - probability)) < 5 * deviation
        for axis in (0, 1):  # nor are rows, columns or neighbours
            shares = mask.double().mean(axis)
            expected = math.sqrt(probability * (1 - probability) / like.shape[axis])
            assert 0.8 < shares.std() / expected < 1.2
    chance = probability**2 + (1 - probability) ** 2
    pairs = [(a, b) for i, a in enumerate(masks) for b in masks[i + 1 :]]
    pairs += [(mask[:, 1:], mask[:, :-1]) for mask in masks]
    pairs += [(mask[1:], mask[:-1]) for mask in masks]
    for one, other in pairs:
        assert abs((one == other).double().mean() - chance) < 0.01


def test_a_key_depends_on_seed_step_and_part() -> None:
    keys = {tuple(dropout_key(*numbers)) for numbers in np.ndindex(4, 4, 4)}
    assert len(keys) == 64
    assert all(0 <= number < 1 << 32 for one in keys for number in one)


@pytest.fixture(scope="module")
def dropping(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A model whose configuration drops a tenth of hidden states and of attention."""
    folder = tmp_path_factory.mktemp("dropout")
    return export(str(pico("shallow-bert")), folder / "bundle", dropout="model", **OPTIONS)


def test_loss_and_gradients_are_torchs_with_the_same_masks(dropping: Bundle) -> None:
    certificate = dropping.manifest.certificate
    assert certificate is not None
    assert certificate.loss_difference < 1e-5
    assert certificate.worst_gradient_error < 1e-3
    assert certificate.output_difference < 1e-5


def test_inference_drops_nothing(dropping: Bundle) -> None:
    assert dropping.manifest.tuning.dropout == "model"
    inputs = {value.name for value in onnx.load(dropping.path / "train.onnx").graph.input}
    assert DROPOUT_KEY in inputs
    plain = exported("shallow-bert")
    logits = [
        InferenceModel(bundle, plain.trainable(), threads=1).run(random_batch(0))["logits"]
        for bundle in (dropping, plain)
    ]
    np.testing.assert_allclose(*logits, atol=1e-6)
    for file in ("inference.onnx", "model.onnx"):
        graph = onnx.load(dropping.path / file, load_external_data=False).graph
        assert "BitShift" not in {node.op_type for node in graph.node}
        assert DROPOUT_KEY not in {value.name for value in graph.input}


def losses(bundle: Bundle, *, seed: int, threads: int = 1) -> list[float]:
    engine = open_engine(bundle, threads=threads, seed=seed)
    return [engine.step(random_batch(1), 0.0).loss for _ in range(4)]


def test_steps_and_seeds_have_masks_of_their_own_and_threads_do_not(dropping: Bundle) -> None:
    once = losses(dropping, seed=3)
    assert len(set(once)) == 4
    assert losses(dropping, seed=3) == once
    assert losses(dropping, seed=3, threads=2) == pytest.approx(once, rel=1e-6)
    assert not set(losses(dropping, seed=4)) & set(once)
    plain = exported("shallow-bert")
    assert len({*losses(plain, seed=3), *losses(plain, seed=0)}) == 1


def test_a_resumed_run_draws_the_same_masks(dropping: Bundle) -> None:
    tokens = np.arange(50)
    first = open_engine(dropping, threads=1, token_ids=tokens, seed=5)
    for step in range(3):
        first.step(random_batch(step), 1e-3)
    second = open_engine(dropping, threads=1, token_ids=tokens, seed=5)
    second.load_state({name: np.array(value) for name, value in first.state().items()})
    for step in range(3, 6):
        assert first.step(random_batch(step), 1e-3) == second.step(random_batch(step), 1e-3)
    for name, value in first.parameters().items():
        assert np.array_equal(value, second.parameters()[name]), name


def test_a_run_that_was_stopped_ends_with_the_same_bits(dropping: Bundle, tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    rows = [
        {"text": text, "label": LABELS[index % len(LABELS)]} for index, text in enumerate(TEXTS)
    ]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = TrainingSettings(epochs=2, learning_rate=1e-2, threads=1, batch_size=2, seed=5)
    options = {"train": data, "settings": settings}
    finetune(dropping, tmp_path / "whole", **options)
    calls = iter(range(100))
    with pytest.raises(Interrupted):
        finetune(dropping, tmp_path / "stopped", **options, stop=lambda: next(calls) == 2)
    finetune(dropping, tmp_path / "stopped", **options, resume=True)
    whole, stopped = (map_tensors(tmp_path / n / "last.safetensors") for n in ("whole", "stopped"))
    for name, value in whole.items():
        assert np.array_equal(value, stopped[name]), name


def test_a_number_drops_where_the_model_could_but_does_not(tmp_path: Path) -> None:
    options = {**OPTIONS, "tune": "head"}
    source = str(pico("shallow-llama"))
    with pytest.raises(ModelError, match=r"no dropout of its own.*--dropout 0\.1"):
        export(source, tmp_path / "own", dropout="model", **options)
    bundle = export(source, tmp_path / "number", dropout=0.2, **options)
    assert len(set(losses(bundle, seed=0))) == 4
    assert bundle.manifest.tuning.dropout == 0.2


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"dropout": "much"}, "--dropout much is neither"),
        ({"dropout": 1.0}, "--dropout 1.0 is neither"),
        ({"dropout": float("nan")}, "--dropout nan is neither"),
    ],
)
def test_what_is_no_probability_is_refused(
    options: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=sentence):
        export(str(pico("shallow-bert")), tmp_path / "bundle", **OPTIONS, **options)
