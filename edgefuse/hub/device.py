"""The processor or GPU that a workstation computes on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgefuse_devices.errors import ModelError


def fastest() -> torch.device:
    """Give a GPU where torch finds CUDA, else the processor; `CUDA_VISIBLE_DEVICES=` hides GPUs."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def move(model: nn.Module, device: torch.device) -> None:
    """Move a model in place; transformers wraps its own `to` in a way that has no types."""
    model.to(device)


@contextmanager
def computing_on(device: torch.device) -> Iterator[None]:
    """Let a GPU add up in the same order every time, which the processor does anyway.

    torch warns of the few operations that have no such order.

    Raises:
        ModelError: The GPU's memory does not suffice.
    """
    if device.type == "cpu":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when CUDA begins
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(mode=True, warn_only=True)
    try:
        with sdpa_kernel(SDPBackend.MATH):  # other attention adds up gradients in any order
            yield
    except torch.OutOfMemoryError as error:
        raise ModelError(
            "The model and the text need more memory than the GPU has",
            "Hide it, to compute on the processor: CUDA_VISIBLE_DEVICES= edgefuse …",
        ) from error
    finally:
        torch.use_deterministic_algorithms(mode=before, warn_only=warned)
