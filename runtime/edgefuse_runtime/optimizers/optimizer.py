"""The optimizer seam: what the runtime has to know of an optimizer beside its graph.

An optimizer is one file here, one in `edgefuse_export.optimizers`, and an entry in each of the two
lists.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Annotated, ClassVar, Protocol, runtime_checkable

from msgspec import Meta

Shape = tuple[int, ...]

WeightDecay = Annotated[
    float, Meta(ge=0, description="Weight decay, which biases and norms do not get.")
]
MaxGradientNorm = Annotated[
    float, Meta(ge=0, description="Global norm that gradients are clipped at; 0 does not clip.")
]
"""Fields that optimizers share, and so flags."""


@runtime_checkable
class Optimizer(Protocol):
    """A rule by which gradients move parameters: a member of the manifest's union.

    The rule itself is optimizer.onnx. Its inputs are `parameter`, `gradient`, the states, and
    scalars; its outputs `new_parameter` and a new value of each state, which may share the memory
    of the inputs of the same role. There are two kinds of such a graph:

    - One that moves every element by itself takes (blocks, elements), of several parameters at a
      time. Its states have the shape of the parameter.
    - Any other takes one parameter at a time, as `matrices` gives its shape, and states of three
      dimensions too. It may ask for three scalars besides: `is_vector`, which is 1 for a parameter
      of one dimension; `share`, the part of the parameter's rows that are there; and `absent`, the
      sum of squares of those that are not, over the count of all elements.

    Rows of an embedding are left out if their token never occurs. Their gradient is zero, and a
    rule has to multiply all of them by the same number then.

    Attributes:
        follows_gradient: Whether a step grows with the gradient. The gradient of a fused row, the
            sum of those of its neurons, is then divided by their count (Wei et al., "NTK-
            approximating MLP Fusion", arXiv 2307.08941).
        rate_factor: The learning rate that suits the optimizer, over the one that suits AdamW.
    """

    follows_gradient: ClassVar[bool]
    rate_factor: ClassVar[float]

    @property
    def name(self) -> str:
        """The name."""
        ...

    def states(self, shape: Sequence[int]) -> dict[str, Shape]:
        """Shapes of what the optimizer keeps of a parameter, by their names.

        Args:
            shape: Shape of the parameter.
        """
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


def matrices(shape: Sequence[int]) -> tuple[int, int, int]:
    """A parameter's shape as (matrices, rows, columns); a vector is one row."""
    *stacks, rows, columns = (1, 1, *shape)
    return math.prod(stacks), rows, columns


def state_elements(optimizer: Optimizer, shapes: Iterable[Sequence[int]]) -> int:
    """Count the elements of all states of parameters.

    Args:
        optimizer: The optimizer.
        shapes: Shapes of the parameters.
    """
    return sum(math.prod(state) for shape in shapes for state in optimizer.states(shape).values())


def decays(dimensions: int) -> bool:
    """Whether weight decay applies to a parameter: to matrices, not to biases and norms."""
    return dimensions > 1


def clipping_scale(limit: float, norm: float) -> float:
    """What gradients are multiplied by so that their norm is at most the limit; 0 is no limit.

    As torch.nn.utils.clip_grad_norm_.
    """
    return min(1.0, limit / (norm + 1e-6)) if limit else 1.0
