"""Layers whose matrix is a chain of tensors: a central one and four auxiliary ones."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.chains.contraction import TOKENS, Order, cheapest
from edgefuse.layers.chains.decomposition import CENTRAL, bonds_of, dimensions_of, rebuild
from edgefuse.layers.chains.dimensions import Dimensions
from edgefuse.layers.chains.lookup import by_two_parts, suits
from edgefuse.layers.fused import FusedConv1D, FusedLinear
from edgefuse.layers.plain import conv1d_of, linear_of


class Chain(nn.Module):
    """A matrix (I, J) as a chain.

    Attributes:
        rows: Count I of the matrix's rows; the chain's own may be more, and those are padding.
        auxiliary: Tensors T_1, T_2, T_4 and T_5.
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
        """Use another chain's central tensor, of the same shape, from now on."""
        del self.central
        self._leader = [leader]

    def __getattr__(self, name: str) -> Any:
        """Give T_3 (d_2, i_3, j_3, d_3) as `central`, its own or that of the chain it follows."""
        if name == "central" and (leader := self.__dict__.get("_leader")):
            return leader[0].central
        return super().__getattr__(name)

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """All tensors T_1 … T_5."""
        auxiliary = list(self.auxiliary)
        return (*auxiliary[:CENTRAL], self.central, *auxiliary[CENTRAL:])

    @property
    def dimensions(self) -> Dimensions:
        """Local dimensions of the chain."""
        return dimensions_of(self.tensors)

    @property
    def bonds(self) -> tuple[int, ...]:
        """Bonds d_1 … d_4."""
        return bonds_of(self.tensors)

    @property
    def weight(self) -> Tensor:
        """The matrix (I, J), rebuilt, where models look for its type or device."""
        return rebuild(self.tensors)[: self.rows]


class MPOLinear(Chain):
    """A linear layer whose matrix is a chain.

    Attributes:
        in_features: Count J of inputs.
        out_features: Count I of outputs.
        bias: Bias (I,), or None.
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
        """Order in which its chain meets activations."""
        return cheapest(self.dimensions, self.bonds)

    @classmethod
    def from_plain(cls, layer: nn.Linear | Conv1D, tensors: Sequence[Tensor]) -> Self:
        """Put T_1 … T_5 in the place of a layer's matrix; its bias stays, and P where it is fused.

        Args:
            layer: Plain or fused layer of a matrix (I, J).
            tensors: T_1 … T_5, which become of its type.
        """
        return cls(
            [tensor.to(layer.weight) for tensor in tensors],
            None if layer.bias is None else layer.bias.detach(),
            multiplicity=layer.multiplicity
            if isinstance(layer, FusedLinear | FusedConv1D)
            else None,
            transposed=isinstance(layer, Conv1D),
        )

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map (…, J) to (…, I)."""
        if self.multiplicity is not None:
            input = input * self.multiplicity  # noqa: A001
        return self.order(input, self.tensors, self.bias)

    def merged(self) -> nn.Linear | Conv1D:
        """The layer in whose place it is, with its matrix as it is now and P standalone."""
        weight = self.weight.detach()
        bias = None if self.bias is None else self.bias.detach()
        layer = conv1d_of(weight, bias) if self.transposed else linear_of(weight, bias)
        if self.multiplicity is None:
            return layer
        if isinstance(layer, Conv1D):
            return FusedConv1D.from_plain(layer, self.multiplicity)
        return FusedLinear.from_plain(layer, self.multiplicity)

    def plain(self) -> nn.Linear | Conv1D:
        """The plain layer with its matrix as it is now, P folded in."""
        layer = self.merged()
        return layer.plain() if isinstance(layer, FusedLinear | FusedConv1D) else layer


class MPOEmbedding(Chain):
    """An embedding table that is a chain.

    Attributes:
        num_embeddings: Count I of rows.
        embedding_dim: Size J of a row.
        padding_idx: Number of the row that gets no gradient from its tokens, or None.
        tokens: Row numbers in the largest batch that is expected.
    """

    def __init__(self, tensors: Sequence[Tensor], rows: int, padding_idx: int | None) -> None:
        """Make it from T_1 … T_5 of a table with `rows` rows."""
        super().__init__(tensors, rows)
        self.num_embeddings, self.embedding_dim = rows, self.dimensions.column_count
        self.padding_idx = padding_idx
        self.tokens = TOKENS

    @classmethod
    def from_plain(cls, table: nn.Embedding, tensors: Sequence[Tensor]) -> Self:
        """Put T_1 … T_5 in the place of a table (I, J), of whose type they become."""
        chain = [tensor.to(table.weight) for tensor in tensors]
        return cls(chain, table.num_embeddings, table.padding_idx)

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

    def merged(self) -> nn.Embedding:
        """The table as it is now."""
        table = nn.Embedding(
            self.num_embeddings, self.embedding_dim, padding_idx=self.padding_idx, device="meta"
        )
        table.weight = nn.Parameter(self.weight.detach())
        return table

    def plain(self) -> nn.Embedding:
        """The table as it is now."""
        return self.merged()


def expect_batches(model: nn.Module, tokens: int) -> None:
    """Set how many tokens a model's embeddings expect in the largest batch."""
    for module in model.modules():
        if isinstance(module, MPOEmbedding):
            module.tokens = tokens


def chains_of(model: nn.Module) -> dict[str, Chain]:
    """Find a model's chains, by their names."""
    return {name: module for name, module in model.named_modules() if isinstance(module, Chain)}
