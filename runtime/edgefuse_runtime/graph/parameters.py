"""Trained parameters: inputs of the training graph whose gradients are its outputs."""

from msgspec import Struct

PADDING_ID = "padding_id"
"""The input of train.onnx that holds the padding's number among `input_ids`, (1,), where rows of an
embedding are free."""


class Parameter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A trained parameter: an input of train.onnx, a tensor in trainable.safetensors.

    Attributes:
        name: Name in the torch model, in the graphs and in the safetensors file.
        shape: Dimensions.
        gradient: The output of train.onnx that holds the gradient, of the same shape.
        decay: Whether weight decay applies (not on biases and norms).
        free_rows: Whether this is an embedding of `input_ids` of which the graph takes any number
            of rows: a row whose token does not occur has a zero gradient and may be left out, and
            tokens be renumbered. The gradient is then summed into the graph's input `zeros`, which
            may share the gradient's memory, and `PADDING_ID` is an input too.
        rate: Factor on the learning rate; 1 where rows are free.
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


def zeros_of(name: str) -> str:
    """The input of train.onnx that the gradient of the embedding `name` is summed into."""
    return f"zeros.{name}"
