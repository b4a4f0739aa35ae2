"""Weights that are numbers to compute with."""

import torch

from edgefuse_devices.errors import ModelError

_AT_ONCE = 1 << 20  # numbers that are looked at: the answers take memory too


def check_finite(tensor: torch.Tensor, owner: str, name: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        tensor: Its weights.
        owner: What messages say that has them.
        name: The tensor's.

    Raises:
        ModelError: One is; or they are of a type that nothing is computed with.
    """
    if tensor.is_floating_point() and tensor.element_size() == 1:
        raise ModelError(
            f"{owner} is quantised: {name} is of {tensor.dtype}",
            "Start from the model that it was made from",
        )
    if not all(part.isfinite().all() for part in torch.split(tensor.flatten(), _AT_ONCE)):
        raise ModelError(
            f"{owner} has weights that are NaN or infinite, in {name}",
            "Download the model again, or train it again from a checkpoint that is whole",
        )
