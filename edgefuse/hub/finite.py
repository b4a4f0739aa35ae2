"""Weights that are numbers to compute with."""

import torch

from edgefuse_devices.errors import ModelError


def check_finite(tensor: torch.Tensor, owner: str, name: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        tensor: Its weights; those that are not in memory are not looked at.
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
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return
    least, most = tensor.aminmax()  # NaN is both; and no answer takes memory
    if not (least.isfinite() and most.isfinite()):
        raise ModelError(
            f"{owner} has weights that are NaN or infinite, in {name}",
            "Download the model again, or train it again from a checkpoint that is whole",
        )
