"""The shape that a record gives an empty model."""

from collections.abc import Sequence
from itertools import groupby, pairwise

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, MatrixRecord
from edgefuse.artifact.recorded_mlps import recorded_mlps
from edgefuse.layers.chains.modules import Chain
from edgefuse.layers.stand_ins import put_multiplicity
from edgefuse.mlps.install import resize
from edgefuse.mlps.matrices import place_chains


def give_widths(model: PreTrainedModel, record: CompressionRecord) -> None:
    """Give the fused MLPs of an empty model their widths and P, in place; values are for later."""
    if not record.layers:
        return
    fused = recorded_mlps(model, record)
    resize([mlp for mlp, _ in fused], [layer.width_after for _, layer in fused])
    for name, group in groupby(fused, key=lambda pair: pair[0].layout.down.name):
        members = list(group)
        p = [torch.tensor(layer.multiplicities) for _, layer in members]
        multiplicity = p[0] if members[0][0].stack is None else torch.stack(p)
        put_multiplicity(model, name, multiplicity)


def place_empty_chains(model: PreTrainedModel, matrices: Sequence[MatrixRecord]) -> None:
    """Put chains without values in the places of an empty model's matrices."""
    modules: dict[str, nn.Module] = dict(model.named_modules())
    prefix = f"{model.base_model_prefix}."

    def here(name: str) -> str:
        """The name that a module has under this head, or under none."""
        return next(n for n in (name, prefix + name, name.removeprefix(prefix)) if n in modules)

    place_chains(model, ((here(one.name), _empty_tensors(one)) for one in matrices))
    for matrix in matrices:
        if matrix.shares_central_of is not None:
            chain = model.get_submodule(here(matrix.name))
            leader = model.get_submodule(here(matrix.shares_central_of))
            assert isinstance(chain, Chain)
            assert isinstance(leader, Chain)
            chain.follow(leader)


def _empty_tensors(matrix: MatrixRecord) -> list[Tensor]:
    """T_1 … T_5 without values, which take the device of the matrix in whose place they come."""
    shapes = zip(
        pairwise((1, *matrix.bonds, 1)),
        matrix.row_dimensions,
        matrix.column_dimensions,
        strict=True,
    )
    return [torch.empty(a, i, j, b) for (a, b), i, j in shapes]
