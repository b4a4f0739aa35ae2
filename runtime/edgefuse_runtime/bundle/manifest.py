"""What manifest.json says: frozen structs that refuse unknown fields, with a version."""

from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from edgefuse_devices.errors import BundleError
from edgefuse_devices.profile import DeviceProfile

SCHEMA_VERSION = 7
"""Raised with every change of what the manifest says or the graphs take. 2: optimizer.onnx takes
many blocks at a time. 3: merges, and a learning rate for each parameter. 4: folds of stacks, and
what keeps plain transformers from loading the model. 5: train.onnx is told the padding's number.
6: inference.onnx takes weights as inputs, and model.onnx has them as external initializers. 7: so
does train.onnx take the frozen ones."""

PADDING_ID = "padding_id"
"""The input of train.onnx that says which of `input_ids` is padding, (1,), where rows are free."""

AGAIN = "Copy the bundle again, or export it anew"
"""What to do about a bundle that is not as it was written."""

EngineName = Literal["onnxruntime", "onnxruntime-training"]


class FileEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A file of the bundle.

    Attributes:
        size: Bytes.
        sha256: Lower-case hexadecimal digest.
    """

    size: int
    sha256: str


def zeros_of(name: str) -> str:
    """The input of train.onnx that the gradient of the embedding `name` is summed into."""
    return f"zeros.{name}"


class Parameter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A trained parameter: an input of train.onnx, a tensor in trainable.safetensors.

    Attributes:
        name: Its name in the torch model, in the graphs and in the safetensors file.
        shape: Its dimensions.
        gradient: The output of train.onnx that holds its gradient, of the same shape.
        decay: Whether weight decay applies (not on biases and norms).
        free_rows: It is an embedding of `input_ids` and the graph takes any number of its rows:
            a row whose token does not occur has a zero gradient and may be left out, and tokens be
            renumbered. The graph's input `zeros` is then what the gradient is summed into; it may
            share its memory. `PADDING_ID` is an input too.
        rate: What the learning rate is multiplied by; 1 where rows are free.
    """

    name: str
    shape: list[int]
    gradient: str
    decay: bool
    free_rows: bool = False
    rate: float = 1.0

    @property
    def zeros(self) -> str:
        """The input of train.onnx that must hold zeros, of the parameter's shape."""
        return zeros_of(self.name)


class Fold(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How P (the cluster sizes) goes into a down-projection for inference.

    Attributes:
        weight: The parameter to multiply, trained or frozen.
        multiplicity: The tensor of frozen.safetensors to multiply it by, of shape (width,); of
            a stack of E experts (E, 1, width).
        axis: The axis of the weight that has the block's width.
    """

    weight: str
    multiplicity: str
    axis: int


class LowRankUpdate(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="low-rank-update"
):
    """A weight of the plain model is W + scale · B A: LoRA, with W frozen.

    Attributes:
        weight: W, of shape (rows, columns); what is made takes its name.
        a: A, of shape (rank, columns).
        b: B, of shape (rows, rank).
        scale: α / rank.
        transposed: W is kept as (columns, rows).
    """

    weight: str
    a: str
    b: str
    scale: float
    transposed: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        return self.a, self.b


class MatrixProduct(
    Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="matrix-product"
):
    """A weight of the plain model is a matrix product operator: a chain of tensors.

    Attributes:
        weight: What is made, of shape (rows, columns).
        tensors: T_1 … T_n in order, each of shape (d_{m−1}, i_m, j_m, d_m).
        rows: The chain may have more, which are padding.
        transposed: The weight is kept as (columns, rows).
    """

    weight: str
    tensors: list[str]
    rows: int
    transposed: bool = False

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        return tuple(self.tensors)


class Perceptron(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="perceptron"):
    """A weight that a perceptron makes: tanh(X W1ᵀ + b1) W2ᵀ + b2, prefixes of (length, …).

    Attributes:
        weight: What is made.
        inputs: X.
        hidden_weight: W1.
        hidden_bias: b1.
        output_weight: W2.
        output_bias: b2.
    """

    weight: str
    inputs: str
    hidden_weight: str
    hidden_bias: str
    output_weight: str
    output_bias: str

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the tensors that the plain model does not have."""
        hidden = self.hidden_weight, self.hidden_bias
        return self.inputs, *hidden, self.output_weight, self.output_bias


Merge = LowRankUpdate | MatrixProduct | Perceptron
"""How the board makes a weight of the plain model from tensors that train: a tagged union."""


class RandomMask(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="random"):
    """Gradients of which every step keeps a random part: child-F.

    Attributes:
        parameters: Whose.
        keep: Probability q of an entry; what is kept is divided by q.
    """

    parameters: list[str]
    keep: Annotated[float, Meta(gt=0, le=1)]


class FixedMask(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="fixed"):
    """Gradients of which the same part is kept at every step: child-D.

    Attributes:
        parameters: Whose: names of bits in masks.safetensors, eight a byte, in the order of the
            parameter's elements.
    """

    parameters: list[str]


class ModelInfo(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where the model came from.

    Attributes:
        source: What was given to export: a hub name or the name of a directory.
        architecture: `model_type` of its configuration.
        parameters: Count of all parameters, frozen ones included.
        intermediate_sizes: Width of every MLP, every expert's too, bottom first.
        not_plain: What keeps plain transformers from loading its weights, as the end of a sentence;
            empty where nothing does.
        compression: The method that fused it, or None.
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
        method: full, full-without-embeddings, head …
        trained_parameters: Count of elements that get a gradient.
        learning_rate: The peak that suits what trains, unless the user knows better.
    """

    method: str
    trained_parameters: int
    learning_rate: float = 5e-5


class AdamW(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Decoupled weight decay and bias correction (Loshchilov & Hutter, arXiv 1711.05101).

    Attributes:
        beta1: Decay of the first moment.
        beta2: Decay of the second moment.
        eps: Added to the root of the second moment.
        weight_decay: Applied to parameters whose `decay` is true.
        max_gradient_norm: Global-norm clipping, each fused row weighed by 1/√n; 0 turns it off.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0


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


class Certificate(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Proof that the graph computes what torch computes, at a shape other than the traced one.

    Attributes:
        traced_shape: (batch, sequence) of the trace.
        checked_shape: (batch, sequence) of the check.
        loss_difference: |loss of ONNX Runtime − loss of torch|.
        gradients: Count of gradients compared: all of them.
        worst_gradient: The parameter whose gradient differs most.
        worst_gradient_error: max |g − g_torch| / (max |g_torch| + 1e-4 max over all gradients of
            |g_torch|), the largest of all parameters.
        logits_difference: max |logits of inference.onnx − logits of torch|.
    """

    traced_shape: tuple[int, int]
    checked_shape: tuple[int, int]
    loss_difference: float
    gradients: int
    worst_gradient: str
    worst_gradient_error: float
    logits_difference: float


class Manifest(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is in a bundle, and what it was made for.

    Attributes:
        schema_version: `SCHEMA_VERSION` of the EdgeFuse that wrote it.
        edgefuse_version: That EdgeFuse.
        engine: The engine whose graphs it holds.
        engine_version: The version of that engine which the checks ran on.
        task: The task, in optimum's terms.
        labels: The label of every class, in the order of the logits.
        inputs: Batch inputs of the graphs, int64 of shape (batch, sequence); `labels` (batch,)
            comes besides in train.onnx.
        padding_id: Token id that pads `input_ids`.
        sequence_length: Longest sequence in tokens; longer texts are cut.
        batch_size: Rows in a batch.
        folds: What to multiply by P for inference, after the merges.
        merges: What makes the plain model's weights for inference.
        gradient_mask: What part of the gradients counts; None for all of them.
        device: The board it was exported for.
        certificate: Absent where the engine does not expose its gradients.
        files: Every file but the manifest, by its path with forward slashes.
    """

    schema_version: int = SCHEMA_VERSION
    edgefuse_version: str
    engine: EngineName
    engine_version: str
    task: Literal["text-classification"]
    labels: list[str]
    model: ModelInfo
    tuning: Tuning
    optimizer: AdamW
    inputs: list[str]
    padding_id: Annotated[int, Meta(ge=0)]
    sequence_length: Annotated[int, Meta(gt=0)]
    batch_size: Annotated[int, Meta(gt=0)]
    parameters: list[Parameter]
    folds: list[Fold]
    merges: list[Merge] = []
    gradient_mask: RandomMask | FixedMask | None = None
    device: DeviceProfile
    predicted_memory: PredictedMemory
    certificate: Certificate | None
    files: dict[str, FileEntry]


class _Version(Struct):
    schema_version: int = SCHEMA_VERSION  # a manifest without is no older one, but none


def decode_manifest(raw: bytes, file: Path) -> Manifest:
    """Read what a manifest says.

    Args:
        raw: What the file holds.
        file: Which it is, for messages.

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
        return msgspec.json.decode(raw, type=Manifest)
    except ValueError as error:  # msgspec's, or that of bytes that are not UTF-8
        raise BundleError(f"{file} cannot be read: {error}", AGAIN) from error
