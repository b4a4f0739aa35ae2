"""What a task needs of the directions of bonds, and what is left out for it."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.layers.chains.decomposition import decompose, rebuild
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.layers.chains.modules import chains_of
from edgefuse.mlps.matrices import KINDS, find_matrices, place_chains, read_matrix
from edgefuse.squeezing.cutting import cut_chains, make_canonical
from edgefuse.squeezing.importance import importance
from edgefuse.squeezing.training import batches, loss_of
from edgefuse_export.tasks.text_classification import TextClassificationExport
from edgefuse_runtime.data.batching import Dataset
from edgefuse_runtime.tasks.text_classification import EncodedText, TextClassification
from tests.tuned_pico import classifier, pico

TOKEN_IDS = ([2, 9, 11, 3], [2, 7, 3], [2, 30, 31, 32, 3], [2, 8, 3])
TASK = TextClassificationExport(TextClassification(labels=["a", "b", "c"]))
ROWS = Dataset(
    [
        EncodedText(np.array(ids, np.int32), label)
        for ids, label in zip(TOKEN_IDS, (0, 1, 2, 1), strict=True)
    ]
)


def model_of_chains(kind: str) -> PreTrainedModel:
    model = classifier(pico(kind))

    def chains() -> Iterator[tuple[str, tuple[Tensor, ...]]]:
        for one in find_matrices(model, KINDS):
            dimensions = choose_dimensions(one.rows, one.columns, pads=one.kind == "embeddings")
            yield one.name, decompose(read_matrix(model, one), dimensions).tensors

    place_chains(model, chains())
    make_canonical(model)
    return model


def importance_of(model: PreTrainedModel, count: int = 2) -> dict[str, list[np.ndarray]]:
    return importance(model, TASK, ROWS, count=count, batch_size=2, seed=0, on_batch=lambda _: None)


class _Gates(nn.Module):
    """Factors of one before the directions of a bond."""

    def __init__(self, bond: int) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.ones(bond))

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor * self.factors


@pytest.mark.parametrize("kind", ["bert", "albert"])
@pytest.mark.parametrize("bond", range(4))
def test_importance_is_the_squared_gradient_of_a_factor_before_each_direction(
    kind: str, bond: int
) -> None:
    model = model_of_chains(kind)
    weighed = importance_of(model)
    name = next(name for name in weighed if name.endswith(("intermediate.dense", ".ffn")))
    chain = chains_of(model)[name]
    gates = _Gates(chain.bonds[bond])
    home, key = (chain, "central") if bond == 2 else (chain.auxiliary, str(bond - (bond > 2)))
    nn.utils.parametrize.register_parametrization(home, key, gates, unsafe=True)
    squares = []
    for index in batches(ROWS, 2, batch_size=2, seed=0):
        (gradient,) = torch.autograd.grad(loss_of(model, TASK, ROWS, index), [gates.factors])
        squares.append(gradient.square().double().numpy())
    np.testing.assert_allclose(weighed[name][bond], np.mean(squares, axis=0), rtol=1e-3, atol=1e-12)


def test_what_is_left_out_are_the_directions_of_least_importance_for_their_parameters() -> None:
    model = model_of_chains("bert")
    chains = chains_of(model)
    name = next(name for name in chains if name.endswith("intermediate.dense"))
    tensors = [tensor.detach() for tensor in chains[name].tensors]
    weighed = {n: [np.full(bond, 1e6) for bond in c.bonds] for n, c in chains.items()}
    out = [0, 3, 5]  # not the last ones
    weighed[name][1][out] = 1e-6
    going = len(out) * (tensors[1][..., 0].numel() + tensors[2][0].numel())

    assert cut_chains(model, going, weighed)

    kept = [index for index in range(len(weighed[name][1])) if index not in out]
    tensors[1], tensors[2] = tensors[1][..., kept], tensors[2][kept]
    torch.testing.assert_close(chains[name].weight, rebuild(tensors), rtol=1e-4, atol=1e-5)
    bonds = {n: chain.bonds for n, chain in chains.items()}
    assert bonds[name][1] == len(kept)


def test_chains_of_which_nothing_was_seen_stay_whole() -> None:
    model = model_of_chains("bert")
    before = {name: chain.bonds for name, chain in chains_of(model).items()}
    weighed = importance_of(model)
    unseen = next(iter(before))
    weighed[unseen] = [np.zeros(bond) for bond in before[unseen]]
    assert cut_chains(model, 2000, weighed)
    after = {name: chain.bonds for name, chain in chains_of(model).items()}
    assert after[unseen] == before[unseen]
    assert sum(map(sum, after.values())) < sum(map(sum, before.values()))

    nothing = {name: [np.zeros(bond) for bond in bonds] for name, bonds in after.items()}
    assert not cut_chains(model, 2000, nothing)
    assert {name: chain.bonds for name, chain in chains_of(model).items()} == after


def test_bonds_of_one_cannot_be_cut() -> None:
    model = model_of_chains("bert")
    while cut_chains(model, 100_000, importance_of(model)):
        pass
    assert {bond for chain in chains_of(model).values() for bond in chain.bonds} == {1}
