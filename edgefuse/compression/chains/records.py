"""What edgefuse.json says of chains."""

from collections.abc import Sequence

import msgspec
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, MatrixRecord
from edgefuse.artifact.recorded_mlps import own_name
from edgefuse.layers.chains.decomposition import MPO, bonds_of, parameter_count
from edgefuse.layers.chains.modules import chains_of
from edgefuse.mlps.matrices import Matrix

_SQUEEZED = "+squeeze"


def matrix_record(matrix: Matrix, whole: MPO, cut: MPO, tensors: Sequence[Tensor]) -> MatrixRecord:
    """What is kept of `whole`: `tensors`, of the same matrix as `cut`."""
    norm = whole.norm or 1
    bonds = bonds_of(tensors)
    parameters, auxiliary = parameter_count(whole.dimensions, bonds)
    return MatrixRecord(
        name=matrix.name,
        kind=matrix.kind,
        shape=(matrix.rows, matrix.columns),
        row_dimensions=list(whole.dimensions.rows),
        column_dimensions=list(whole.dimensions.columns),
        full_bonds=list(whole.dimensions.full_bonds[1:-1]),
        bonds=list(bonds),
        parameters_before=matrix.rows * matrix.columns,
        parameters_after=parameters,
        auxiliary_parameters=auxiliary,
        error=float((whole.matrix() - cut.matrix()).norm()) / norm,
        error_bound=cut.error_bound() / norm,
    )


def record_on_top(fused: CompressionRecord, record: CompressionRecord) -> CompressionRecord:
    """A record of both compressions, one after the other."""
    return msgspec.structs.replace(
        fused,
        schema_version=record.schema_version,
        edgefuse_version=record.edgefuse_version,
        method=f"{fused.method}+{record.method}",
        paper=f"{fused.paper}; {record.paper}",
        parameters_after=record.parameters_after,
        matrices=record.matrices,
    )


def record_of_squeezed(compression: CompressionRecord, model: PreTrainedModel) -> CompressionRecord:
    """What is known of a model now; what training moved has no error any more."""
    before = {own_name(model, matrix.name): matrix for matrix in compression.matrices}
    matrices = []
    for name, chain in chains_of(model).items():
        parameters, auxiliary = parameter_count(chain.dimensions, chain.bonds)
        matrices.append(
            msgspec.structs.replace(
                before[own_name(model, name)],
                name=name,
                bonds=list(chain.bonds),
                parameters_after=parameters,
                auxiliary_parameters=auxiliary,
                error=None,
                error_bound=None,
            )
        )
    method = compression.method
    return msgspec.structs.replace(
        compression,
        method=method if method.endswith(_SQUEEZED) else method + _SQUEEZED,
        architecture=type(model).__name__,
        parameters_after=model.num_parameters(),
        matrices=matrices,
    )
