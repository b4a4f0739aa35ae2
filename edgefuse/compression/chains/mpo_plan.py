"""What matrix product operators will do to a model: planned, then done."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch
from torch import Tensor
from transformers import PretrainedConfig, PreTrainedModel

from edgefuse.artifact.load import from_pretrained
from edgefuse.artifact.record import CompressionRecord, MatrixRecord, read_record
from edgefuse.artifact.save import save_compressed, save_spectra
from edgefuse.artifact.shape import give_shape
from edgefuse.compression.chains.limit import Limit
from edgefuse.compression.chains.paper import NAME, PAPER
from edgefuse.compression.chains.records import matrix_record, record_on_top
from edgefuse.compression.chains.shared import decompose_together, relative_error
from edgefuse.hub.model import empty_model, load_config, load_model, model_class
from edgefuse.hub.source import ModelSource
from edgefuse.hub.tokenizer import load_tokenizer
from edgefuse.layers.chains.decomposition import MPO, canonical, decompose, parameter_count
from edgefuse.layers.chains.dimensions import Dimensions, choose_dimensions
from edgefuse.layers.chains.modules import MPOLinear
from edgefuse.mlps.matrices import (
    Kind,
    Matrix,
    find_matrices,
    group_experts,
    place_chains,
    read_matrix,
)
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.unstack import unstack
from edgefuse.mlps.verify import verify
from edgefuse_devices.errors import InputError, ModelError
from edgefuse_runtime.progress import OnProgress, silent

_STAGE = "Decomposing matrices"
_BYTES_BESIDE_WEIGHTS = 20_000_000
_GROWTH = 1.15  # of parameters, at full bonds


@dataclass(frozen=True)
class MPOPlan:
    """What will be decomposed, known from the configuration alone.

    Attributes:
        source: The model.
        config: Configuration of the model.
        fused: Record of the model, where it was fused before.
        matrices: Matrices that become chains.
        limit: How far bonds are cut.
        shares_central: Whether experts of a layer have one central tensor.
        parameters: Elements of all parameters of the model.
    """

    source: ModelSource
    config: PretrainedConfig
    fused: CompressionRecord | None
    matrices: tuple[Matrix, ...]
    limit: Limit
    shares_central: bool
    parameters: int

    @property
    def needed_bytes(self) -> int:
        """Room on the disk that the compressed model takes."""
        return int(self.parameters * 4 * _GROWTH) + _BYTES_BESIDE_WEIGHTS

    def preview(self, on_progress: OnProgress = silent) -> CompressionRecord:
        """The record, for which the matrices are decomposed."""
        return decompose_model(self, on_progress=on_progress).record

    def make(self, directory: Path, on_progress: OnProgress = silent) -> CompressionRecord:
        """Decompose the model and write it to an empty directory.

        Raises:
            InputError: The model's weights or the budget do not hold.
        """
        tokenizer = load_tokenizer(self.source)
        decomposed = decompose_model(self, on_progress=on_progress)
        save_compressed(directory, decomposed.model, tokenizer, decomposed.record)
        save_spectra(directory, decomposed.spectra)
        return decomposed.record


@dataclass(frozen=True)
class Decomposed:
    """A model with chains in its matrices' places.

    Attributes:
        model: The model.
        record: What was done.
        spectra: λ_1 … λ_4 of every matrix, before they were cut, by the matrix's name.
    """

    model: PreTrainedModel
    record: CompressionRecord
    spectra: Mapping[str, Sequence[Tensor]]


def plan_mpo(
    source: ModelSource, *, kinds: Sequence[Kind], limit: Limit, shares_central: bool = False
) -> MPOPlan:
    """Plan a decomposition. Reads the configuration, not the weights.

    Args:
        source: The model; it may be fused.
        kinds: Kinds of matrices.
        limit: How far bonds are cut.
        shares_central: Whether experts of a layer get one central tensor.

    Raises:
        InputError: The model, its matrices or the limit do not hold; the message names the reason.
    """
    fused = read_record(Path(source.name))
    if fused is not None and fused.matrices:
        raise ModelError(
            f"{source.name} is decomposed already",
            "Start from the model that it was made from, or cut this one with `edgefuse squeeze`",
        )
    if fused is not None and any(layer.kind != "fused" for layer in fused.layers):
        raise ModelError(
            f"{source.name} was compressed by {fused.method}, and its matrices are products "
            "already",
            "Start from the model that it was made from",
        )
    config = load_config(source)
    empty = empty_model(config)
    if fused is not None:
        give_shape(empty, fused)
    if "mlp" in kinds:
        unstack(empty)
    matrices = find_matrices(empty, kinds)
    largest = max(max(_dimensions(matrix).full_bonds) for matrix in matrices)
    if limit.bond is not None and limit.bond > largest:
        raise InputError(
            f"A bond of {limit.bond} is above the largest of these matrices, {largest}, at which "
            "nothing is lost",
            f"Give a --bond of 1 to {largest}",
        )
    if shares_central and not group_experts(matrices):
        raise ModelError(
            f"The architecture {type(empty).__name__} has no experts among these matrices",
            "Leave --share-central out",
        )
    return MPOPlan(source, config, fused, matrices, limit, shares_central, empty.num_parameters())


@torch.no_grad()
def decompose_model(plan: MPOPlan, *, on_progress: OnProgress = silent) -> Decomposed:
    """Load a model and put chains in its matrices' places.

    Args:
        plan: The plan.
        on_progress: Observer, called after each matrix.

    Raises:
        InputError: The model's weights or the budget do not hold.
    """
    model = _load(plan)
    before = model.num_parameters()
    mpos: list[MPO] = []
    for matrix in plan.matrices:
        on_progress(_STAGE, len(mpos), len(plan.matrices))
        mpos.append(decompose(read_matrix(model, matrix), _dimensions(matrix)))
    on_progress(_STAGE, len(mpos), len(plan.matrices))
    records: list[MatrixRecord] = []

    def cut_one_by_one() -> Iterator[tuple[str, list[Tensor]]]:
        for matrix, mpo, bonds in zip(plan.matrices, mpos, plan.limit.bonds(mpos), strict=True):
            cut = mpo.truncate(bonds)
            # What one bond lost another may carry for nothing: canonical again, it is dropped.
            tensors = canonical(cut.tensors).tensors
            records.append(matrix_record(matrix, mpo, cut, tensors))
            yield matrix.name, [tensor.float().contiguous() for tensor in tensors]

    place_chains(model, cut_one_by_one())
    if plan.shares_central:
        for group in group_experts(plan.matrices):
            _share_central(model, group, mpos, records)
    record = CompressionRecord(
        method=NAME,
        paper=PAPER,
        source=plan.source.label,
        revision=plan.source.revision,
        architecture=type(model).__name__,
        seed=0,
        even=True,
        parameters_before=before,
        parameters_after=model.num_parameters(),
        layers=[],
        matrices=records,
    )
    if plan.fused is not None:
        record = record_on_top(plan.fused, record)
    spectra = {matrix.name: mpo.spectra for matrix, mpo in zip(plan.matrices, mpos, strict=True)}
    return Decomposed(model, record, spectra)


def _share_central(
    model: PreTrainedModel,
    group: Sequence[int],
    mpos: Sequence[MPO],
    records: list[MatrixRecord],
) -> None:
    """Give the matrices of these indices one central tensor, the first one's; records change."""
    matrices = [mpos[index].matrix() for index in group]
    bonds = [max(sizes) for sizes in zip(*(records[index].bonds for index in group), strict=True)]
    leader = records[group[0]].name
    first = model.get_submodule(leader)
    assert isinstance(first, MPOLinear)
    chains = decompose_together(matrices, mpos[group[0]].dimensions, bonds)
    for index, matrix, tensors in zip(group, matrices, chains, strict=True):
        name = records[index].name
        chain = model.get_submodule(name)
        assert isinstance(chain, MPOLinear)
        chain.put([tensor.float().contiguous() for tensor in tensors])
        if name != leader:
            chain.follow(first)
        parameters, auxiliary = parameter_count(chain.dimensions, chain.bonds)
        records[index] = msgspec.structs.replace(
            records[index],
            bonds=list(chain.bonds),
            parameters_after=parameters if name == leader else auxiliary,
            auxiliary_parameters=auxiliary,
            error=relative_error(matrix, tensors),
            error_bound=None,
            shares_central_of=None if name == leader else leader,
        )


def _load(plan: MPOPlan) -> PreTrainedModel:
    torch.manual_seed(0)  # a pooler that the source lacks is made up the same each time
    if plan.fused is None:
        model = load_model(plan.source, plan.config)
    else:
        model = from_pretrained(plan.source.name, model_class(plan.config))
    if any(matrix.kind == "mlp" for matrix in plan.matrices):
        verify(model, [mlp for mlp in find_mlps(model) if mlp.stack is not None])
        unstack(model)
    return model


def _dimensions(matrix: Matrix) -> Dimensions:
    return choose_dimensions(matrix.rows, matrix.columns, pads=matrix.kind == "embeddings")
