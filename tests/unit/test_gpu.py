"""Where there is a GPU, compression computes there, and says the same."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import edgefuse
from edgefuse.artifact.record import read_record
from edgefuse.compression.compress import compress
from edgefuse.compression.fusions import FUSIONS
from edgefuse.compression.kmeans import cluster, lloyd, means, settle
from edgefuse.hub.device import computing_on, fastest
from edgefuse.mlps.neurons import Neurons
from edgefuse_devices.errors import ModelError
from tests.pico_models import TEXTS, WIDTH

ROOT = Path(__file__).parents[2]

KINDS = ("bert", "llama", "mixtral", "t5")
NAMES = [method.name for method in FUSIONS]


@dataclass(frozen=True)
class Jobs:
    """Compressions on a pretended GPU.

    Attributes:
        texts: To look at.
        folder: Has each one's output under its name.
    """

    texts: Path
    folder: Path


@pytest.fixture(scope="module")
def done(pico_model: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Jobs:
    """Every compression of this file, in a process that has the pretended GPU to itself."""
    folder = tmp_path_factory.mktemp("gpu")
    texts = folder / "texts.txt"
    texts.write_text("\n".join(f"{one} {other}" for one in TEXTS for other in TEXTS[:3]))
    seen = {"calibration": str(texts)}
    jobs: dict[str, tuple[str, dict[str, object]]] = {
        **{f"tuned-{kind}": (kind, {"tune_text": str(texts)}) for kind in KINDS},
        **{f"method-{name}": ("llama", {**seen, "method": name, "refit": True}) for name in NAMES},
        "shared-out": ("bert", {**seen, "allocation": "sensitivity"}),
        "stored": ("mixtral", {}),
        "stored-again": ("mixtral", {}),
    }
    listed = [
        {"model": str(pico_model(kind)), "output": str(folder / name), "options": options}
        for name, (kind, options) in jobs.items()
    ]
    command = [sys.executable, "-m", "tests.pretend_gpu"]
    run = subprocess.run(
        command, input=json.dumps(listed), capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert run.returncode == 0, run.stderr[-3000:]
    there = json.loads(run.stdout)
    assert all(there[str(folder / name)] > 100 for name in jobs), there
    return Jobs(texts, folder)


def same_errors(one: Path, other: Path) -> None:
    """As weights after some hundred steps of Adam differ by what rounding begins with."""
    found, expected = read_record(one), read_record(other)
    assert found is not None
    assert expected is not None
    for layer, wanted in zip(found.layers, expected.layers, strict=True):
        assert layer.width_after == wanted.width_after
        if wanted.output_error is None:
            assert layer.output_error is None
        else:
            assert layer.output_error == pytest.approx(wanted.output_error, abs=0.02)
            assert layer.sign_ntk_error == pytest.approx(wanted.sign_ntk_error, abs=0.05)


@pytest.mark.parametrize("kind", KINDS)
def test_every_stage_runs_there_and_says_the_same(
    kind: str, done: Jobs, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    compress(str(pico_model(kind)), tmp_path / "processor", ratio=0.5, tune_text=done.texts)
    same_errors(done.folder / f"tuned-{kind}", tmp_path / "processor")


@pytest.mark.parametrize("name", NAMES)
def test_every_method_runs_there(name: str, done: Jobs) -> None:
    model = edgefuse.from_pretrained(done.folder / f"method-{name}")
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_widths_are_shared_out_there(
    done: Jobs, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    options = {"calibration": done.texts, "allocation": "sensitivity"}
    compress(str(pico_model("bert")), tmp_path / "processor", ratio=0.5, **options)
    same_errors(done.folder / "shared-out", tmp_path / "processor")


def test_a_stored_model_goes_there_an_mlp_at_a_time(done: Jobs) -> None:
    one, again = (
        load_file(done.folder / n / "model.safetensors") for n in ("stored", "stored-again")
    )
    assert all(torch.equal(tensor, again[name]) for name, tensor in one.items())
    for p in edgefuse.multiplicities(edgefuse.from_pretrained(done.folder / "stored")).values():
        assert (p.sum(dim=-1) == WIDTH).all()


def inertia(points: torch.Tensor, labels: torch.Tensor, width: int) -> float:
    centroids, _ = means(points, labels, width)
    return float((points - centroids[labels]).double().square().sum())


def test_clusters_are_as_tight_as_scikit_learns() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(20, 16, generator=generator)
    points = centres.repeat(20, 1) + 0.3 * torch.randn(400, 16, generator=generator)
    neurons = Neurons(up=points[:, :8].contiguous(), down=points[:, 8:].T.contiguous())
    of_sklearn, ours = cluster(neurons, 20, seed=0), lloyd(points, 20, seed=0)
    assert inertia(points, ours, 20) == pytest.approx(inertia(points, of_sklearn, 20), rel=0.01)
    assert torch.equal(ours, lloyd(points, 20, seed=0))


def test_few_distinct_points_are_their_own_clusters() -> None:
    points = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).repeat(4, 1)
    labels = lloyd(points, 5, seed=0)
    assert inertia(points, labels, 5) == 0
    assert len(labels.unique()) == 3


def test_an_empty_cluster_goes_to_a_far_point() -> None:
    heaps = torch.tensor([[0.0, 0.0], [8.0, 0.0]]).repeat_interleave(5, dim=0)
    points = heaps + 0.1 * torch.randn(10, 2, generator=torch.Generator().manual_seed(0))
    far = torch.tensor([[0.0, 0.0], [500.0, 500.0]])  # nobody is nearest to the second
    labels, error = settle(points, far)
    assert labels.unique().numel() == 2
    assert error == pytest.approx(inertia(points, labels, 2), rel=1e-3)
    assert error < 1


@pytest.mark.parametrize(("found", "name"), [(True, "cuda"), (False, "cpu")])
def test_a_gpu_is_taken_where_torch_finds_one(
    found: bool,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: found)
    assert fastest() == torch.device(name)


def test_order_of_sums_is_fixed_on_a_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with computing_on(torch.device("cpu")):
        assert not torch.are_deterministic_algorithms_enabled()
        assert torch.backends.cuda.mem_efficient_sdp_enabled()
    with computing_on(torch.device("cuda")):
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cuda.mem_efficient_sdp_enabled()
        assert not torch.backends.cuda.flash_sdp_enabled()
    assert not torch.are_deterministic_algorithms_enabled()
    assert torch.backends.cuda.mem_efficient_sdp_enabled()


def test_a_gpu_that_is_too_small_ends_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    with (
        pytest.raises(ModelError, match=r"more memory than the GPU has.*CUDA_VISIBLE_DEVICES="),
        computing_on(torch.device("cuda")),
    ):
        raise torch.OutOfMemoryError
    assert not torch.are_deterministic_algorithms_enabled()
