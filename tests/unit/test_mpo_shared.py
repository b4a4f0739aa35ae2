"""Experts of a layer share one central tensor and own their auxiliary ones."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

import edgefuse
from edgefuse.compression.chains.limit import Limit
from edgefuse.compression.chains.mpo_plan import decompose_model, plan_mpo
from edgefuse.compression.chains.shared import decompose_together, relative_error
from edgefuse.compression.compress import compress
from edgefuse.hub.source import find_source
from edgefuse.layers.chains.decomposition import CENTRAL, decompose, rebuild
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.layers.chains.modules import MPOLinear
from edgefuse.mlps.matrices import Matrix, group_experts
from edgefuse_devices.errors import ModelError
from tests.pico_models import EXPERTS

SHAPE = (48, 60)


def experts(count: int, *, noise: float) -> list[Tensor]:
    """Matrices that have one central tensor, nearly."""
    generator = torch.Generator().manual_seed(0)
    tensors = decompose(torch.randn(SHAPE, generator=generator), choose_dimensions(*SHAPE)).tensors
    made = []
    for _ in range(count):
        own = [
            t if m == CENTRAL else torch.randn(t.shape, generator=generator).double()
            for m, t in enumerate(tensors)
        ]
        matrix = rebuild(own)
        made.append(matrix / matrix.norm() + noise * torch.randn(SHAPE, generator=generator))
    return made


def errors(matrices: list[Tensor], bonds: tuple[int, ...]) -> list[float]:
    chains = decompose_together(matrices, choose_dimensions(*SHAPE), bonds)
    assert len({id(chain[CENTRAL]) for chain in chains}) == 1
    assert [tuple(t.shape) for t in chains[0]] == [tuple(t.shape) for t in chains[-1]]
    return [relative_error(w, chain) for w, chain in zip(matrices, chains, strict=True)]


def test_one_expert_loses_nothing_at_full_bonds() -> None:
    (matrix,) = experts(1, noise=0.01)
    bonds = choose_dimensions(*SHAPE).full_bonds[1:-1]
    assert errors([matrix], bonds)[0] < 1e-9


def test_a_copy_of_an_expert_costs_nothing() -> None:
    matrix = experts(1, noise=0.01)[0]
    bonds = choose_dimensions(*SHAPE).full_bonds[1:-1]
    assert max(errors([matrix, matrix, 2 * matrix], bonds)) < 1e-9


def test_experts_that_lack_rank_get_the_bonds_of_the_others() -> None:
    whole = experts(1, noise=0.01)[0]
    thin = torch.outer(whole[:, 0], whole[0])
    bonds = choose_dimensions(*SHAPE).full_bonds[1:-1]
    nearly = thin + 1e-6 * torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
    for own, alike in zip(
        errors([whole, thin], bonds), errors([whole, nearly], bonds), strict=True
    ):
        assert own < alike + 0.05  # nothing but the few numbers more is lost for lack of rank
    of_whole, of_dead = errors([whole, torch.zeros(SHAPE)], bonds)
    assert of_whole < 0.02
    assert of_dead < 1e-6


def test_auxiliary_tensors_bring_experts_nearer_than_their_mean() -> None:
    matrices = experts(3, noise=0.0)
    bonds = choose_dimensions(*SHAPE).full_bonds[1:-1]
    mean = torch.stack(matrices).mean(dim=0)
    for matrix, error in zip(matrices, errors(matrices, bonds), strict=True):
        assert error < 0.8 * float((matrix - mean).norm() / matrix.norm())


def test_experts_share_in_memory_and_in_the_file(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = str(pico_model("switch_transformers"))
    limit = Limit(max_error=0)
    apart = decompose_model(plan_mpo(find_source(source), kinds=["mlp"], limit=limit)).record
    plan = plan_mpo(find_source(source), kinds=["mlp"], limit=limit, shares_central=True)
    decomposed = decompose_model(plan)
    record = compress(
        source,
        tmp_path / "chains",
        method="mpo",
        matrices=["mlp"],
        **vars(limit),
        share_central=True,
    )
    shared = {m.name: m.shares_central_of for m in record.matrices if m.shares_central_of}
    assert len(shared) == (EXPERTS - 1) * len(set(shared.values())) > 0
    assert record.parameters_after < apart.parameters_after

    stored = load_file(tmp_path / "chains" / "model.edgefuse.safetensors")
    model = edgefuse.from_pretrained(tmp_path / "chains")
    expected = decomposed.model.state_dict()
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, expected[name]), name
    for name, leader in shared.items():
        assert f"{name}.central" not in stored
        one, other = model.get_submodule(name), model.get_submodule(leader)
        assert isinstance(one, MPOLinear)
        assert one.central is other.central
        assert one.auxiliary[0] is not other.auxiliary[0]
    assert model.num_parameters() == record.parameters_after
    for matrix in record.matrices:
        assert (matrix.error_bound is None) == ("experts" in matrix.name)
        assert matrix.error is not None


def test_experts_share_when_the_command_is_told_so(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    options = ("--method", "mpo", "--matrices", "mlp", "--bond", 4, "--share-central")
    model = pico_model("mixtral")
    done = run("compress", model, tmp_path / "chains", *options, "--dry-run", "--json")
    assert done.code == 0, done.err
    matrices = json.loads(done.out)["compression"]["matrices"]
    assert any(matrix["shares_central_of"] for matrix in matrices)


def test_a_shared_experts_matrices_are_no_group() -> None:
    names = [f"layers.0.mlp.experts.{e}.{m}" for e in range(2) for m in ("up_proj", "down_proj")]
    names += ["layers.0.mlp.shared_experts.up_proj", "layers.0.mlp.shared_experts.down_proj"]
    assert group_experts([Matrix(name, "mlp", 8, 8) for name in names]) == [[0, 2], [1, 3]]


def test_a_model_without_experts_is_refused(pico_model: Callable[..., Path]) -> None:
    with pytest.raises(ModelError, match="no experts"):
        plan_mpo(
            find_source(str(pico_model("bert"))),
            kinds=["mlp"],
            limit=Limit(bond=2),
            shares_central=True,
        )
