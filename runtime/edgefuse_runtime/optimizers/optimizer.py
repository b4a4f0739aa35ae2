"""The optimizer seam: what the runtime has to know of an optimizer beside its graph.

An optimizer is one file here, one in `edgefuse_export.optimizers`, and an entry in each of the two
lists.
"""

from typing import ClassVar, Protocol, runtime_checkable


@runtime_checkable
class Optimizer(Protocol):
    """A rule by which gradients move parameters: a member of the manifest's union.

    The rule itself is optimizer.onnx. Its inputs are `parameter`, `gradient` and the states, each
    of shape (blocks, elements), and scalars; its outputs `new_parameter` and a new value of each
    state, which may share the memory of the inputs of the same role.

    Attributes:
        states: Names of what the optimizer keeps for each element.
    """

    states: ClassVar[tuple[str, ...]]

    @property
    def name(self) -> str:
        """The name."""
        ...

    def scalars(self, *, step: int, rate: float, norm: float, decay: bool) -> dict[str, float]:
        """The graph's scalars for a step.

        Args:
            step: Count of steps, this one included.
            rate: Learning rate of the elements.
            norm: Global norm of the gradients before clipping.
            decay: Whether weight decay applies to the elements.
        """
        ...

    def absent_factor(self, rate: float) -> float:
        """What a step multiplies a row by that decays and whose token does not occur."""
        ...


def decays(dimensions: int) -> bool:
    """Whether weight decay applies to a parameter: to matrices, not to biases and norms."""
    return dimensions > 1


def clipping_scale(limit: float, norm: float) -> float:
    """What gradients are multiplied by so that their norm is at most the limit; 0 is no limit.

    As torch.nn.utils.clip_grad_norm_.
    """
    return min(1.0, limit / (norm + 1e-6)) if limit else 1.0
