"""The content of manifest.json: frozen structs that refuse unknown fields, with a version."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from edgefuse_devices.errors import BundleError
from edgefuse_devices.profile import DeviceProfile
from edgefuse_runtime.engines import registry as engines
from edgefuse_runtime.engines.engine import EngineSpec
from edgefuse_runtime.graph.base import Base
from edgefuse_runtime.graph.footprint import Footprint
from edgefuse_runtime.graph.masks import GradientMask
from edgefuse_runtime.graph.merges import Merge
from edgefuse_runtime.graph.parameters import Parameter
from edgefuse_runtime.optimizers import registry as optimizers
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.tagged import decode_member
from edgefuse_runtime.tasks import registry as tasks
from edgefuse_runtime.tasks.task import Task

SCHEMA_VERSION = 13
"""Raised with every change of what the manifest holds or the graphs take. 2: optimizer.onnx takes
many blocks at a time. 3: merges, and a learning rate for each parameter. 4: folds of stacks, and
what keeps plain transformers from loading the model. 5: train.onnx is told the padding's number.
6: inference.onnx takes weights as inputs, and model.onnx has them as external initializers. 7: so
does train.onnx take the frozen ones. 8: task, optimizer and engine are tagged unions, and folding P
is a merge. 9: the certificate has several shapes, whose batches and texts are in the bundle, and
tuning names what gets no gradient, and the dropout. 10: an engine that goes layer by layer, the
footprint of a step, and sizes in the certificate. 11: the base in few bits. 12: blocks with
a minimum, what decode.onnx multiplies by as it is, and whether rows of frozen layers are kept. 13:
graphs take int4 codes as bytes."""

AGAIN = "Copy the bundle again, or export it anew"
"""What to do about a bundle that is not as it was written."""


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of the bundle.

    Attributes:
        size: Bytes.
        sha256: Lower-case hexadecimal digest.
    """

    size: int
    sha256: str


class ModelInfo(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the model came from.

    Attributes:
        source: What was given to export: a hub name or the name of a directory.
        architecture: `model_type` of the model's configuration.
        parameters: Count of all parameters, frozen ones included.
        intermediate_sizes: Width of every MLP, every expert's too, bottom first.
        not_plain: What keeps plain transformers from loading the weights, as the end of a sentence;
            empty where nothing does.
        compression: The method that compressed the model, or None.
    """

    source: str
    architecture: str
    parameters: int
    intermediate_sizes: list[int]
    compression: str | None = None
    not_plain: str = ""


class Tuning(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What trains.

    Attributes:
        method: Name of the way of tuning: full, head, lora …
        trained_parameters: Count of elements that get a gradient.
        learning_rate: Peak that suits what trains, unless the user knows better.
        not_plain: What keeps plain transformers from loading what was trained, as `ModelInfo` has
            it for the model; empty for nothing.
        without_gradient: Names of the parameters that the way of tuning would train, and that the
            task's loss does not depend on: they stay as they are, as in torch.
        dropout: Probability that an activation is dropped in a step, or `model` for the model's own
            probabilities; None for none.
    """

    method: str
    trained_parameters: int
    learning_rate: float = 5e-5
    not_plain: str = ""
    without_gradient: list[str] = []
    dropout: float | str | None = None


class PredictedMemory(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Bytes that training is expected to hold, for the bundle's batch size and sequence length."""

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    frozen: int

    @property
    def total(self) -> int:
        """All of them, in bytes, the interpreter and libraries not counted."""
        return self.parameters + self.gradients + self.optimizer + self.activations + self.frozen


class ShapeCheck(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Differences between the graphs and torch at one shape, the last row half padding.

    Attributes:
        shape: (batch, sequence).
        loss: Loss of torch.
        loss_difference: |loss of ONNX Runtime − loss of torch|.
        gradient_norm_error: |global norm − that of torch| / that of torch.
        worst_gradient: The parameter whose gradient differs most; empty where the engine gives no
            gradients out.
        worst_gradient_error: max |g − g_torch|, less what float32 cannot hold beside the largest
            gradient of all (4.8e-7 of it), / (max |g_torch| + 1e-4 of that largest gradient), the
            largest of all parameters.
        largest_output: max |output of torch|, of all outputs.
        output_difference: max |output of inference.onnx − output of torch|, of all outputs.
    """

    shape: tuple[int, int]
    loss: float
    loss_difference: float
    gradient_norm_error: float
    worst_gradient: str
    worst_gradient_error: float
    largest_output: float
    output_difference: float


class Certificate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Proof that the graphs compute what torch computes, at shapes other than the traced one.

    The batches are in proof/batches.safetensors, and texts with their token ids in
    proof/texts.json.

    Attributes:
        traced_shape: (batch, sequence) of the trace.
        gradients: Count of gradients compared: all of them, or 0 where the engine gives none out.
        checks: The differences at each shape.
    """

    traced_shape: tuple[int, int]
    gradients: int
    checks: Annotated[list[ShapeCheck], Meta(min_length=1)]

    @property
    def loss_difference(self) -> float:
        """The largest difference of the loss."""
        return max(check.loss_difference for check in self.checks)

    @property
    def output_difference(self) -> float:
        """The largest difference of the outputs."""
        return max(check.output_difference for check in self.checks)

    @property
    def worst_gradient_error(self) -> float:
        """The largest difference of a gradient."""
        return self._worst.worst_gradient_error

    @property
    def worst_gradient(self) -> str:
        """The parameter whose gradient differs most."""
        return self._worst.worst_gradient

    @property
    def _worst(self) -> ShapeCheck:
        return max(self.checks, key=lambda check: check.worst_gradient_error)


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A description of a bundle: its content, and what it was made for.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the EdgeFuse that wrote the bundle.
        edgefuse_version: Version of that EdgeFuse.
        engine: The engine whose graphs the bundle holds.
        task: What the model is trained for, with all that only that task has.
        model: Origin of the model.
        tuning: What trains.
        optimizer: How gradients move what trains.
        inputs: Inputs of the inference graph that are the batch's. The training graph has these and
            the task's targets.
        padding_id: Token id that pads `input_ids`.
        sequence_length: Longest sequence in tokens; longer texts are cut.
        batch_size: Rows in a batch.
        parameters: What trains, in the model's order.
        merges: Recipes of the plain model's weights for inference, in the order in which they are
            applied.
        gradient_mask: Which part of the gradients counts; None for all of them.
        base: How matrices that do not train are kept; None for float32.
        device: The board that the bundle was exported for.
        predicted_memory: What training is expected to hold there.
        footprint: What a step holds besides tensors and gradients, for any size of batch.
        certificate: Proof of the graphs; None where nothing was proven.
        files: Every file but the manifest, by its path with forward slashes.
    """

    schema_version: int = SCHEMA_VERSION
    edgefuse_version: str
    engine: EngineSpec
    task: Task
    model: ModelInfo
    tuning: Tuning
    optimizer: Optimizer
    inputs: list[str]
    padding_id: Annotated[int, Meta(ge=0)]
    sequence_length: Annotated[int, Meta(gt=0)]
    batch_size: Annotated[int, Meta(gt=0)]
    parameters: list[Parameter]
    merges: list[Merge] = []
    gradient_mask: GradientMask | None = None
    base: Base | None = None
    device: DeviceProfile
    predicted_memory: PredictedMemory
    footprint: Footprint
    certificate: Certificate | None
    files: dict[str, FileEntry]


class _Version(Struct):
    schema_version: int = SCHEMA_VERSION  # a manifest without is no older one, but none


def decode_manifest(raw: bytes, file: Path) -> Manifest:
    """Read a manifest.

    Args:
        raw: Content of the file.
        file: Path of the file, for messages.

    Raises:
        BundleError: It is of another schema, or no manifest.
    """
    try:
        version = msgspec.json.decode(raw, type=_Version).schema_version
        if version > SCHEMA_VERSION:
            raise BundleError(
                f"{file.parent} was made by a newer EdgeFuse (bundle schema {version}, "
                f"this one reads {SCHEMA_VERSION})",
                "Update EdgeFuse on this machine: pip install --upgrade edgefuse",
            )
        if version < SCHEMA_VERSION:
            raise BundleError(
                f"{file.parent} was made by an older EdgeFuse (bundle schema {version}, "
                f"this one reads {SCHEMA_VERSION})",
                "Export it again: edgefuse export MODEL BUNDLE --device NAME",
            )
        return msgspec.json.decode(raw, type=Manifest, dec_hook=_member)
    except (ValueError, RecursionError) as error:  # msgspec's, or that of bytes that are not UTF-8
        raise BundleError(f"{file} cannot be read: {error}", AGAIN) from error


def _member(union: type[Any], value: Any) -> Any:
    """Decode a member of one of the unions, whose lists are read anew each time."""
    unions: dict[type[Any], tuple[str, Sequence[type[Any]]]] = {
        Task: ("task", tasks.TASKS),
        Optimizer: ("optimizer", optimizers.OPTIMIZERS),
        EngineSpec: ("engine", engines.ENGINES),
    }
    field, members = unions[union]
    try:
        return decode_member(members, value)
    except msgspec.ValidationError as error:
        raise ValueError(f"{field}: {error}") from error
