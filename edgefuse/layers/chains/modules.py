"""Layers whose matrix is a chain of tensors: a central one and four auxiliary ones."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edgefuse.layers.chains.contraction import TOKENS, Order, cheapest
from edgefuse.layers.chains.decomposition import CENTRAL, bonds_of, dimensions_of, rebuild
from edgefuse.layers.chains.dimensions import Dimensions
from edgefuse.layers.chains.lookup import by_two_parts, suits
from edgefuse.layers.fused import multiply
from edgefuse.layers.plain import conv1d_of, linear_of


class Chain(nn.Module):
    """A matrix (I, J) as a chain.

    Attributes:
        rows: I; the chain's own may be more, and those are padding.
        auxiliary: T_1, T_2, T_4 and T_5.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: int) -> None:
        """Make it from T_1 … T_5, which become its parameters."""
        super().__init__()
        self.rows = rows
        self._leader: list[Chain] = []  # in a list, or it would count as a part of this module
        self.put(tensors)

    def put(self, tensors: Sequence[Tensor]) -> None:
        """Take other tensors T_1 … T_5 of the same matrix, of any bonds."""
        self._leader.clear()
        self.register_parameter("central", nn.Parameter(tensors[CENTRAL]))
        self.auxiliary = nn.ParameterList([*tensors[:CENTRAL], *tensors[CENTRAL + 1 :]])
        self.__dict__.pop("order", None)  # chosen by the bonds that were

    def follow(self, leader: "Chain") -> None:
        """Have another chain's central tensor, of the same shape, from now on."""
        del self.central
        self._leader = [leader]

    def __getattr__(self, name: str) -> Any:
        """T_3 (d_2, i_3, j_3, d_3) as `central`, whose ever it is."""
        if name == "central" and (leader := self.__dict__.get("_leader")):
            return leader[0].central
        return super().__getattr__(name)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """T_1 … T_5."""
        auxiliary = list(self.auxiliary)
        return (*auxiliary[:CENTRAL], self.central, *auxiliary[CENTRAL:])

    @property
    def dimensions(self) -> Dimensions:
        """Its local dimensions."""
        return dimensions_of(self.tensors)

    @property
    def bonds(self) -> tuple[int, ...]:
        """d_1 … d_4."""
        return bonds_of(self.tensors)

    @property
    def weight(self) -> Tensor:
        """The matrix (I, J), rebuilt, as models that ask for its type or device expect it."""
        return rebuild(self.tensors)[: self.rows]


class MPOLinear(Chain):
    """A linear layer.

    Attributes:
        in_features: J.
        out_features: I.
        bias: (I,), or None.
        multiplicity: Buffer (J,): P of a fused down-projection (see `FusedLinear`), or None.
        transposed: It is in the place of a `Conv1D`, whose matrix lies (J, I).
    """

    multiplicity: Tensor | None

    def __init__(
        self,
        tensors: Sequence[Tensor],
        bias: Tensor | None,
        *,
        multiplicity: Tensor | None = None,
        transposed: bool = False,
    ) -> None:
        """Make it from T_1 … T_5 of a matrix (I, J), and what the layer has besides."""
        dimensions = dimensions_of(tensors)
        super().__init__(tensors, dimensions.padded_rows)
        self.in_features, self.out_features = dimensions.column_count, dimensions.padded_rows
        self.bias = None if bias is None else nn.Parameter(bias)
        self.register_buffer("multiplicity", multiplicity)
        self.transposed = transposed

    @cached_property
    def order(self) -> Order:
        """How its chain meets activations."""
        return cheapest(self.dimensions, self.bonds)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map (…, J) to (…, I)."""
        if self.multiplicity is not None:
            input = input * self.multiplicity  # noqa: A001
        return self.order(input, self.tensors, self.bias)

    def plain(self) -> nn.Module:
        """The layer in whose place it is, with its matrix as it is now and P standalone."""
        weight = self.weight.detach()
        bias = None if self.bias is None else self.bias.detach()
        plain = conv1d_of(weight, bias) if self.transposed else linear_of(weight, bias)
        holder = nn.Sequential(plain)
        if self.multiplicity is not None:
            multiply(holder, "0.weight", self.multiplicity, transposed=self.transposed)
        return holder[0]


class MPOEmbedding(Chain):
    """An embedding table.

    Attributes:
        num_embeddings: I.
        embedding_dim: J.
        padding_idx: Row that gets no gradient from its tokens, or None.
        tokens: Row numbers in the largest batch that is expected.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: int, padding_idx: int | None) -> None:
        """Make it from T_1 … T_5 of a table with `rows` rows."""
        super().__init__(tensors, rows)
        self.num_embeddings, self.embedding_dim = rows, self.dimensions.column_count
        self.padding_idx = padding_idx
        self.tokens = TOKENS

    @property
    def looks_up(self) -> bool:
        """Whether rows are made without the table."""
        return suits(self.dimensions, self.bonds, self.tokens)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Embedding's name
        """Map row numbers (…) to rows (…, J)."""
        if self.looks_up:
            rows = by_two_parts(input, self.tensors)
        else:
            rows = F.embedding(input, rebuild(self.tensors))
        if self.padding_idx is None:
            return rows
        return torch.where((input == self.padding_idx)[..., None], rows.detach(), rows)

    def plain(self) -> nn.Module:
        """The table as it is now."""
        table = nn.Embedding(
            self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx, device="meta"
        )
        table.weight = nn.Parameter(self.weight.detach())
        return table


def expect_batches(model: nn.Module, tokens: int) -> None:
    """Tell a model's chains how many tokens the largest batch will have."""
    for module in model.modules():
        if isinstance(module, MPOEmbedding):
            module.tokens = tokens


def chains_of(model: nn.Module) -> dict[str, Chain]:
    """A model's chains by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Chain)}
