"""A check that weights are finite numbers."""

import torch

from edgefuse_devices.errors import ModelError


def check_finite(tensor: torch.Tensor, owner: str, name: str) -> None:
    """Refuse weights that are NaN or infinite.

    Args:
        tensor: Weights; those on torch's device "meta" are not looked at.
        owner: Name of the model, for messages.
        name: Name of the tensor, for messages.

    Raises:
        ModelError: A weight is NaN or infinite, or the weights are of an 8-bit type.
    """
    if tensor.is_floating_point() and tensor.element_size() == 1:
        raise ModelError(
            f"{owner} is quantised: {name} is of {tensor.dtype}",
            "Start from the model that it was made from",
        )
    if tensor.is_meta or not tensor.is_floating_point() or not tensor.numel():
        return
    least, most = tensor.aminmax()  # both are NaN where one weight is; takes no memory
    if not (least.isfinite() and most.isfinite()):
        raise ModelError(
            f"{owner} has weights that are NaN or infinite, in {name}",
            "Download the model again, or train it again from a checkpoint that is whole",
        )
