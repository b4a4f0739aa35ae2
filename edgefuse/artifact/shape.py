"""Give an empty model the shape that a record describes, so that weights can be loaded into it."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, LayerRecord, MatrixRecord
from edgefuse.artifact.recorded_mlps import recorded_mlps
from edgefuse.layers.chains.modules import Chain
from edgefuse.layers.stand_ins import put_multiplicity
from edgefuse.mlps.install import resize
from edgefuse.mlps.low_rank import make_room
from edgefuse.mlps.matrices import place_chains
from edgefuse.mlps.mlp import MLP, by_stack
from edgefuse.mlps.unstack import unstack


def give_shape(model: PreTrainedModel, record: CompressionRecord) -> None:
    """Give a plain model without values the record's widths and what stands in for its layers.

    Args:
        model: Model on the meta device, or within transformers' loading, that is changed in place.
        record: Record of the files that will be loaded: plain tensors need the widths alone.
    """
    known = recorded_mlps(model, record)
    fused = [(mlp, layer) for mlp, layer in known if layer.kind == "fused"]
    thin = [(mlp, layer) for mlp, layer in known if layer.kind == "low-rank"]
    resize([mlp for mlp, _ in fused], [layer.width_after for _, layer in fused])
    if record.folded:
        return
    _put_multiplicities(model, fused)
    make_room([mlp for mlp, _ in thin], [layer.rank or 1 for _, layer in thin])
    if any(matrix.kind == "mlp" for matrix in record.matrices):
        unstack(model)
    _place_empty_chains(model, record.matrices)


def _put_multiplicities(model: PreTrainedModel, fused: Sequence[tuple[MLP, LayerRecord]]) -> None:
    for group in by_stack([mlp for mlp, _ in fused]):
        mlp = fused[group[0]][0]
        p = torch.tensor([fused[index][1].multiplicities for index in group])
        put_multiplicity(model, mlp.layout.down.name, p if mlp.stack else p[0])


def _place_empty_chains(model: PreTrainedModel, matrices: Sequence[MatrixRecord]) -> None:
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
