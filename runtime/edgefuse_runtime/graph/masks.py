"""Gradient masks, as data: which part of the gradients counts in a step.

Child-Tuning: Xu et al., EMNLP 2021, arXiv 2109.05687.
"""

from typing import Annotated

from msgspec import Meta, Struct


class RandomMask(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="random"):
    """Every step keeps another random part of the gradients: child-F.

    Attributes:
        parameters: Names of the masked parameters.
        keep: Probability q that an entry is kept; what is kept is divided by q.
    """

    parameters: list[str]
    keep: Annotated[float, Meta(gt=0, le=1)]


class FixedMask(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag="fixed"):
    """Every step keeps the same part of the gradients: child-D.

    Attributes:
        parameters: Names of the masked parameters, and of their bits in masks.safetensors, eight a
            byte, in the order of the parameter's elements.
    """

    parameters: list[str]


GradientMask = RandomMask | FixedMask
"""A tagged union."""
