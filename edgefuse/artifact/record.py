"""`edgefuse.json`: what was done to a compressed model."""

from pathlib import Path
from posixpath import commonpath
from typing import Any

import msgspec
from msgspec import Struct

from edgefuse_devices import __version__
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.files.folder_kinds import COMPRESSION_RECORD
from edgefuse_runtime.files.replace import write_json

RECORD = COMPRESSION_RECORD
SCHEMA_VERSION = 4
"""Raised with every change of what a directory holds.

2: modules by name, experts, P as numbers that need not be counts. 3: chains. 4: thin matrices are
stored as they train, as chains are.
"""

_AS_THEY_TRAIN = 4  # schema that stores all that is not plain in one way


class LayerRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one MLP; in a mixture of experts, of one expert.

    Attributes:
        layer: Index from 0, bottom first.
        expert: Index from 0 within the layer; None for an MLP that every token passes.
        name: Name of the module that held it, such as `model.layers.2.mlp.experts[5]`.
        kind: What took its place: `fused`, a narrower MLP with multiplicities; or `low-rank`, the
            MLP with each matrix as a product of two thin ones.
        width_before: I.
        width_after: k.
        parameters_before: Elements of its matrices and biases.
        parameters_after: Elements of those afterwards (P is a constant, not counted).
        multiplicities: P's diagonal, k numbers, which plain tensors have W2 multiplied by.
        rank: Rank of every matrix, where it is a `low-rank` one.
        output_error: ‖y_fused − y‖ / ‖y‖ on held-out text, None without any.
        sign_ntk_error: ‖K_fused − K‖ / ‖K‖ of its sign-NTK there: how it learns under Adam.
        ntk_error: ‖K_fused − K‖ / ‖K‖ of its neural tangent kernel there.
    """

    layer: int
    expert: int | None = None
    name: str
    kind: str = "fused"
    width_before: int
    width_after: int
    parameters_before: int
    parameters_after: int
    multiplicities: list[float] = []
    rank: int | None = None
    output_error: float | None = None
    sign_ntk_error: float | None = None
    ntk_error: float | None = None


class MatrixRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What became of one matrix: a chain of five tensors.

    Attributes:
        name: Name of the module that holds it.
        kind: `mlp`, `attention` or `embeddings`.
        shape: Rows and columns.
        row_dimensions: i_1 … i_5; for a padded table their product is above its rows.
        column_dimensions: j_1 … j_5.
        full_bonds: d_1 … d_4 at which nothing would be lost.
        bonds: d_1 … d_4 that it has.
        parameters_before: Rows times columns.
        parameters_after: Elements of its five tensors.
        auxiliary_parameters: Elements of the four that are not the central one.
        error: ‖W − MPO‖ / ‖W‖; None once it was trained and cut again.
        error_bound: What it could have been by the spectra that were cut: √Σ ε_m² / ‖W‖. None too
            where a central tensor is shared.
        shares_central_of: The matrix that has the central tensor of this one, an expert's too.
    """

    name: str
    kind: str
    shape: tuple[int, int]
    row_dimensions: list[int]
    column_dimensions: list[int]
    full_bonds: list[int]
    bonds: list[int]
    parameters_before: int
    parameters_after: int
    auxiliary_parameters: int
    error: float | None
    error_bound: float | None
    shares_central_of: str | None = None


class CompressionRecord(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole of edgefuse.json.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the EdgeFuse that wrote it.
        edgefuse_version: Version of that EdgeFuse.
        method: Name of the method.
        paper: Where the method comes from.
        source: What was compressed: a hub name or the name of a directory.
        revision: Commit of the hub that it was taken from, None for a directory.
        architecture: The transformers class that was loaded.
        seed: Seed of the method.
        even: Whether the configuration has all widths, so that plain transformers loads the
            directory if its tensors are plain.
        parameters_before: Elements of all parameters of the model.
        parameters_after: Elements of all parameters afterwards.
        allocation: How widths were shared out: `even` or `sensitivity`.
        refitted: The output was fitted to the original's on calibration text.
        tuned: The layer-wise tuning stage followed.
        calibration_texts: Count of texts for the method to read, as far as it reads.
        held_out_texts: Count of other texts, for the errors, as far as they are read.
        layers: MLPs that were compressed, bottom first.
        matrices: Matrices that became chains of tensors, in the order of the model's modules.
        left_out: Names of modules with experts that are built in no way EdgeFuse knows, and stay.
    """

    schema_version: int = SCHEMA_VERSION
    edgefuse_version: str = __version__
    method: str
    paper: str
    source: str
    revision: str | None = None
    architecture: str
    seed: int
    even: bool
    parameters_before: int
    parameters_after: int
    allocation: str = "even"
    refitted: bool = False
    tuned: bool = False
    calibration_texts: int = 0
    held_out_texts: int = 0
    layers: list[LayerRecord]
    matrices: list[MatrixRecord] = []
    left_out: list[str] = []

    @property
    def folded(self) -> bool:
        """Whether the directory holds plain tensors, P folded, and not those that train."""
        return not self.matrices and all(layer.kind == "fused" for layer in self.layers)


class _Version(Struct):
    schema_version: int = 0


def write_record(directory: Path, record: CompressionRecord) -> None:
    """Write edgefuse.json, whole or not at all."""
    write_json(directory / RECORD, record)


def read_record(directory: Path) -> CompressionRecord | None:
    """Read edgefuse.json; None where there is none, so that the model is a plain one.

    Raises:
        ModelError: It is broken, of a newer schema, or of one before 4 with chains or thin
            matrices, which lay otherwise on the disk.
    """
    file = directory / RECORD
    if not file.is_file():
        return None
    raw = file.read_bytes()
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise ModelError(
                f"{directory} was made by a newer EdgeFuse (compressed model schema {version}, "
                f"this one reads up to {SCHEMA_VERSION})",
                "Update EdgeFuse: pip install --upgrade edgefuse",
            )
        fields = msgspec.json.decode(raw)
        record = msgspec.convert(_from_1(fields) if version == 1 else fields, CompressionRecord)
    except (
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:  # msgspec's, UTF-8's, ours
        raise ModelError(f"{file} cannot be read: {error}", "Compress the model again") from error
    if version < _AS_THEY_TRAIN and not record.folded:
        raise ModelError(
            f"{directory} was made by an older EdgeFuse, which stored its matrices otherwise "
            f"(compressed model schema {version})",
            "Compress the model again",
        )
    return record


def _from_1(record: dict[str, Any]) -> dict[str, Any]:
    """Schema 1 knew dense MLPs only, by their two projections."""
    return record | {
        "schema_version": SCHEMA_VERSION,
        "layers": [
            {
                **{key: layer[key] for key in layer.keys() - {"up", "down", "cluster_sizes"}},
                "name": _common_path(layer["up"], layer["down"]),
                "multiplicities": layer["cluster_sizes"],
            }
            for layer in record["layers"]
        ],
    }


def _common_path(a: str, b: str) -> str:
    return commonpath([a.replace(".", "/"), b.replace(".", "/")]).replace("/", ".")
