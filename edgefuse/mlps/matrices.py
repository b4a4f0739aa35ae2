"""Find the matrices of a model that can become chains, and put chains in their place."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from edgefuse.hub.finite import check_finite
from edgefuse.layers.chains.modules import MPOEmbedding, MPOLinear
from edgefuse.layers.stand_ins import places, put
from edgefuse.mlps.mlp import find_mlps
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_devices.names import unknown

Kind = Literal["mlp", "attention", "embeddings"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_EXPERT = re.compile(r"((?:^|\.)experts\.)[^.]+")


@dataclass(frozen=True)
class Matrix:
    """A matrix (rows, columns) of a model.

    Attributes:
        name: Name of the module that holds it, such as `bert.encoder.layer.0.intermediate.dense`.
        kind: Part of the model that it belongs to.
        rows: Outputs of a layer, or tokens of an embedding.
        columns: Inputs of a layer, or the size of an embedding.
    """

    name: str
    kind: Kind
    rows: int
    columns: int


def parse_kinds(text: str) -> tuple[Kind, ...]:
    """Parse kinds of matrices, such as `mlp,attention`.

    Raises:
        InputError: One of them is none.
    """
    named = [part.strip() for part in text.split(",")]
    for part in named:
        if part not in KINDS:
            raise InputError(*unknown("kind of matrices", part, KINDS))
    return tuple(kind for kind in KINDS if kind in named)


def find_matrices(model: PreTrainedModel, kinds: Sequence[Kind]) -> tuple[Matrix, ...]:
    """Find every matrix of some kinds, in the order of the model's modules, shared ones once.

    Args:
        model: Model that is plain or fused, without stacks of experts; its weights may be on the
            meta device.
        kinds: Kinds of matrices.

    Raises:
        ModelError: It has none of a kind, or one that cannot become a chain.
    """
    finders: dict[Kind, Callable[[PreTrainedModel], Iterator[str]]] = {
        "mlp": _of_mlps,
        "attention": _of_attention,
        "embeddings": _of_embeddings,
    }
    of_kind: dict[str, Kind] = {}
    for kind in kinds:
        found = dict.fromkeys(finders[kind](model), kind)
        if not found:
            raise ModelError(
                f"The architecture {type(model).__name__} has no matrices of the kind {kind} that "
                "EdgeFuse knows",
                f"Leave {kind} out of --matrices",
            )
        of_kind |= found
    return tuple(
        Matrix(name, of_kind[name], *_shape(module))
        for name, module in model.named_modules()
        if name in of_kind
    )


def group_experts(matrices: Sequence[Matrix]) -> list[list[int]]:
    """Group the indices of matrices that have the same place in the experts of one layer."""
    groups: dict[str, list[int]] = {}
    for index, matrix in enumerate(matrices):
        place = _EXPERT.sub(r"\1*", matrix.name)
        if place != matrix.name:
            groups.setdefault(place, []).append(index)
    return list(groups.values())


def read_matrix(model: nn.Module, matrix: Matrix) -> Tensor:
    """Read a matrix (rows, columns), detached; of a fused down-projection W2 without P.

    Raises:
        ModelError: It has numbers that are NaN or infinite.
    """
    module = model.get_submodule(matrix.name)
    weight = model.get_parameter(f"{matrix.name}.weight").detach()
    check_finite(weight, type(model).__name__, f"{matrix.name}.weight")
    return weight.T if isinstance(module, Conv1D) else weight


def place_chains(model: nn.Module, chains: Iterable[tuple[str, Sequence[Tensor]]]) -> None:
    """Put chains in the places of matrices, with the bias and P that their modules have.

    Args:
        model: Model that is changed in place, chain by chain.
        chains: Names of modules, and T_1 … T_5 of their matrices.
    """
    names = places(model)
    for name, tensors in chains:
        module = model.get_submodule(name)
        chain: nn.Module
        if isinstance(module, nn.Embedding):
            chain = MPOEmbedding.from_plain(module, tensors)
        else:
            assert isinstance(module, nn.Linear | Conv1D)
            chain = MPOLinear.from_plain(module, tensors)
        put(model, names[module], chain)


def _of_mlps(model: PreTrainedModel) -> Iterator[str]:
    for mlp in find_mlps(model):
        for slot in (mlp.layout.gate, mlp.layout.up, mlp.layout.down):
            if slot is not None:
                yield slot.name.removesuffix(".weight")


def _of_attention(model: PreTrainedModel) -> Iterator[str]:
    for name, module in model.named_modules():
        if "attention" in type(module).__name__.lower():
            for inner, child in module.named_modules():
                if isinstance(child, nn.Linear | Conv1D):
                    yield f"{name}.{inner}"


def _of_embeddings(model: PreTrainedModel) -> Iterator[str]:
    table = model.get_input_embeddings()
    if not isinstance(table, nn.Embedding):
        return
    if type(table).forward is not nn.Embedding.forward:
        raise ModelError(
            f"The embeddings of {type(model).__name__} are more than a table: "
            f"{type(table).__name__} computes something else, a scale perhaps",
            "Leave embeddings out of --matrices",
        )
    holders = [n for n, m in model.named_modules() if getattr(m, "weight", None) is table.weight]
    if len(holders) > 1:
        raise ModelError(
            f"The embeddings of {type(model).__name__} are tied: {holders[1]} has them too",
            "Leave embeddings out of --matrices",
        )
    yield holders[0]


def _shape(module: nn.Module) -> tuple[int, int]:
    if isinstance(module, Conv1D):
        return module.nf, module.nx
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    assert isinstance(module, nn.Linear)
    return module.out_features, module.in_features
