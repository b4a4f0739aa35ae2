"""Every optimizer moves parameters as torch's does, rows that never occur among them."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
import torch

from edgefuse.bundling.export import export
from edgefuse.bundling.plan import plan_ways
from edgefuse.compression.compress import compress
from edgefuse.tuning.ways.head import Head
from edgefuse_devices.errors import InputError
from edgefuse_export.memory import update_bytes
from edgefuse_export.optimizers.registry import OPTIMIZER_GRAPHS
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.optimizers.adafactor import Adafactor
from edgefuse_runtime.optimizers.adamw import AdamW
from edgefuse_runtime.optimizers.lion import Lion
from edgefuse_runtime.optimizers.optimizer import Optimizer, state_elements
from edgefuse_runtime.optimizers.registry import OPTIMIZERS, find_optimizer
from edgefuse_runtime.optimizers.runner import OptimizerRunner, Stretch
from edgefuse_runtime.optimizers.sgd import Sgd
from tests.pico_models import duplicate_neurons, pico_model, pico_tokenizer
from tests.tuned_pico import OPTIONS, TASK, classifier, exported, pico, random_batch

RATE = 0.01
SHAPES = [(70, 11), (40,), (3, 5, 7), (1, 9), (2, 3, 4, 5)]


class TorchLion(torch.optim.Optimizer):
    """Lion as its authors' own program spells it out (arXiv 2302.06675, program 1)."""

    @torch.no_grad()
    def step(self) -> None:
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                state = self.state[p]
                momentum = state.setdefault("momentum", torch.zeros_like(p))
                p.mul_(1 - group["lr"] * group["weight_decay"])
                update = momentum * beta1 + p.grad * (1 - beta1)
                p.add_(torch.sign(update), alpha=-group["lr"])
                momentum.mul_(beta2).add_(p.grad, alpha=1 - beta2)


def torchs(settings: Optimizer, groups: list[dict[str, object]]) -> torch.optim.Optimizer:
    """The same rule in torch; decay is the groups'."""
    match settings:
        case AdamW():
            betas = settings.beta1, settings.beta2
            return torch.optim.AdamW(groups, lr=RATE, betas=betas, eps=settings.eps)
        case Sgd():
            options = {"momentum": settings.momentum, "nesterov": settings.nesterov}
            return torch.optim.SGD(groups, lr=RATE, **options)
        case Lion():
            return TorchLion(groups, {"lr": RATE, "betas": (settings.beta1, settings.beta2)})
        case Adafactor():
            return torch.optim.Adafactor(groups, lr=RATE, d=settings.clipping_threshold)
    raise AssertionError(settings)


SETTINGS = {
    "adamw": AdamW(),
    "sgd": Sgd(weight_decay=0.1),
    "sgd without momentum": Sgd(momentum=0.0, weight_decay=0.1, max_gradient_norm=0.0),
    "sgd by nesterov": Sgd(nesterov=True),
    "lion": Lion(),
    "adafactor": Adafactor(),
    "adafactor that decays": Adafactor(weight_decay=0.2, max_gradient_norm=3.0),
}
every_optimizer = pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)


def save(settings: Optimizer, folder: Path) -> Path:
    ir.save(OPTIMIZER_GRAPHS[settings.name](settings), folder / "optimizer.onnx")
    return folder / "optimizer.onnx"


@every_optimizer
@pytest.mark.parametrize("threads", [1, 2])
def test_every_step_is_torchs(settings: Optimizer, threads: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    sizes = [math.prod(shape) for shape in SHAPES]
    ends = np.cumsum([0, *sizes]).tolist()
    values = rng.normal(0, 0.1, ends[-1]).astype(np.float32)
    gradients = np.zeros_like(values)
    parameters = [
        torch.nn.Parameter(torch.from_numpy(values[a:b].reshape(shape).copy()))
        for shape, a, b in zip(SHAPES, ends, ends[1:], strict=False)
    ]
    stretches = [
        Stretch(a, b, shape, decay=len(shape) > 1, rate=1.0)
        for shape, a, b in zip(SHAPES, ends, ends[1:], strict=False)
    ]
    runner = OptimizerRunner(
        save(settings, tmp_path), settings, values, gradients, stretches=stretches, threads=threads
    )
    assert sum(s.size for s in runner.states.values()) == state_elements(settings, SHAPES)
    reference = torchs(
        settings,
        [
            {"params": [p], "weight_decay": settings.weight_decay if p.ndim > 1 else 0.0}
            for p in parameters
        ],
    )
    for step in range(8):
        # Some are large, and some so small that an epsilon shows.
        sizes_of_gradients = 10.0 ** rng.uniform(-6, 0, len(SHAPES))
        for p, stretch, size in zip(parameters, stretches, sizes_of_gradients, strict=True):
            drawn = rng.normal(0, size, stretch.shape).astype(np.float32)
            gradients[stretch.start : stretch.stop] = drawn.ravel()
            p.grad = torch.from_numpy(drawn.copy())
        rate = RATE * (step + 1) / 8
        norm = float(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        if settings.max_gradient_norm:
            torch.nn.utils.clip_grad_norm_(parameters, settings.max_gradient_norm)
        for group in reference.param_groups:
            group["lr"] = rate
        reference.step()
        runner.step(rate, norm, absent={})
        for p, stretch in zip(parameters, stretches, strict=True):
            part = values[stretch.start : stretch.stop].reshape(stretch.shape)
            np.testing.assert_allclose(part, p.detach().numpy(), rtol=1e-6, atol=1e-6)


@pytest.fixture(scope="module")
def bundle_with(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Optimizer], Bundle]:
    """One pico model's bundle, with an optimizer put in the place of its own."""
    original = exported("shallow-bert")

    def make(settings: Optimizer) -> Bundle:
        folder = tmp_path_factory.mktemp(settings.name)
        shutil.copytree(original.path, folder, dirs_exist_ok=True)
        (folder / "optimizer.onnx").unlink()
        save(settings, folder)
        manifest = msgspec.structs.replace(original.manifest, optimizer=settings)
        return Bundle(folder, manifest, original.id)

    return make


TOKENS = np.array([5, 7, 9, 20, 31, 32, 47])


def batch(seed: int) -> dict[str, np.ndarray]:
    feeds = random_batch(seed)
    return {**feeds, "input_ids": TOKENS[feeds["input_ids"] % len(TOKENS)]}


@every_optimizer
def test_rows_that_never_occur_move_as_if_they_were_there(
    settings: Optimizer, bundle_with: Callable[[Optimizer], Bundle]
) -> None:
    if settings.weight_decay:  # enough to be seen
        settings = msgspec.structs.replace(settings, weight_decay=2.0)
    bundle = bundle_with(settings)
    whole = open_engine(bundle, threads=1)
    part = open_engine(bundle, threads=1, token_ids=TOKENS)
    assert part.state()["values"].size < whole.state()["values"].size
    for seed in range(6):
        left = part.step(batch(seed), RATE)
        assert left.loss == pytest.approx(whole.step(batch(seed), RATE).loss, rel=1e-5)
    embedding = next(p.name for p in bundle.manifest.parameters if p.free_rows)
    left, right = part.parameters()[embedding], whole.parameters()[embedding]
    absent = np.setdiff1d(np.arange(len(right)), [*TOKENS, bundle.manifest.padding_id])
    np.testing.assert_allclose(left[absent], right[absent], rtol=2e-6, atol=1e-9)
    np.testing.assert_allclose(left, right, rtol=1e-4, atol=1e-5)
    decayed = left[absent] / bundle.trainable()[embedding][absent]
    assert (decayed < 0.95).all() if settings.weight_decay else (decayed == 1).all()


@every_optimizer
def test_training_goes_on_bit_for_bit_from_its_state(
    settings: Optimizer, bundle_with: Callable[[Optimizer], Bundle]
) -> None:
    bundle = bundle_with(settings)
    first = open_engine(bundle, threads=2, token_ids=TOKENS)
    for seed in range(3):
        first.step(batch(seed), RATE)
    state = {name: np.array(value) for name, value in first.state().items()}
    second = open_engine(bundle, threads=2, token_ids=TOKENS)
    second.load_state(state)
    for seed in range(3, 6):
        assert first.step(batch(seed), RATE) == second.step(batch(seed), RATE)
    for name, value in first.parameters().items():
        assert np.array_equal(value, second.parameters()[name]), name


SIZES = [9, 7, 5, 4, 3, 2, 1, 1]


def test_under_sgd_a_fused_model_learns_as_its_duplicated_neurons_do(tmp_path: Path) -> None:
    wide = pico_model("bert", num_labels=3, layers=1)
    duplicate_neurons(wide, SIZES)
    wide.save_pretrained(tmp_path / "wide")
    pico_tokenizer("bert").save_pretrained(tmp_path / "wide")
    record = compress(str(tmp_path / "wide"), tmp_path / "fused", ratio=0.25)
    assert sorted(record.layers[0].multiplicities) == sorted(SIZES)
    settings = Sgd(momentum=0.5, weight_decay=0.1, max_gradient_norm=0.5)
    engines = []
    for kind in ("wide", "fused"):
        bundle = export(
            str(tmp_path / kind), tmp_path / f"{kind}-bundle", optimizer=settings, **OPTIONS
        )
        engines.append(open_engine(bundle, threads=1))
    bundle_rate = bundle.manifest.tuning.learning_rate
    assert bundle_rate == pytest.approx(5e-5 * Sgd.rate_factor)
    norms = []
    for seed in range(8):
        steps = [engine.step(random_batch(seed), 0.1) for engine in engines]
        assert steps[0].loss == pytest.approx(steps[1].loss, rel=1e-5)
        assert steps[0].gradient_norm == pytest.approx(steps[1].gradient_norm, rel=1e-4)
        norms.append(steps[0].gradient_norm)
    assert max(norms) > 0.5, "some are clipped"
    before = wide.bert.encoder.layer[0].intermediate.dense.weight.detach().numpy()
    name = "bert.encoder.layer.0.intermediate.dense.weight"
    after, fused = (engine.parameters()[name] for engine in engines)
    assert np.abs(after - before).max() > 1e-3
    distances = np.abs(after[:, None] - fused[None]).max(axis=2)  # every neuron has its fused one
    assert distances.min(axis=1).max() < 1e-5


def test_memory_follows_from_the_states() -> None:
    shapes = [(100, 50), (50,)]
    elements = {kind().name: state_elements(kind(), shapes) for kind in OPTIMIZERS}
    assert elements == {"adamw": 10_100, "sgd": 5_050, "lion": 5_050, "adafactor": 201}
    assert state_elements(Sgd(momentum=0.0), shapes) == 0
    held = {
        n: update_bytes(make(find_optimizer(n)), shapes) for n, make in OPTIMIZER_GRAPHS.items()
    }
    assert held["adamw"] == held["sgd"] == held["lion"] == 0
    assert 2 * 4 * 5_000 <= held["adafactor"] <= 4 * 4 * 5_000


def test_a_plan_counts_the_states_of_the_optimizer_that_is_asked_for() -> None:
    model = classifier(pico("shallow-bert"))
    (with_adamw,), (with_lion,), (with_adafactor,) = (
        plan_ways(model, TASK, optimizer=o, ways=[Head()], batch_size=2, sequence_length=8)
        for o in (None, Lion(), Adafactor())
    )
    assert with_adamw.optimizer_bytes == 2 * with_adamw.gradient_bytes
    assert with_lion.optimizer_bytes == with_lion.gradient_bytes
    assert 0 < with_adafactor.optimizer_bytes < with_adafactor.gradient_bytes / 2


def test_nesterov_needs_momentum() -> None:
    with pytest.raises(InputError, match="needs momentum"):
        find_optimizer("sgd", {"momentum": 0.0, "nesterov": True})
