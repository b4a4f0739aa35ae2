"""Batches with what torch makes of them: the part of the certificate that a board replays."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from edgefuse_devices.errors import BundleError
from edgefuse_runtime.bundle.manifest import AGAIN
from edgefuse_runtime.checking.summary import Summary
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.files.tensor_file import map_tensors, write_tensors

BATCHES = "proof/batches.safetensors"


@dataclass(frozen=True)
class CheckedBatch:
    """A batch, and what torch computes of it at the bundle's parameters, `without_zeros`.

    Attributes:
        shape: (rows, tokens).
        feeds: Arrays by graph-input name, targets among them.
        loss: The loss.
        gradient_norm: Global norm of the gradients, fused rows weighed by 1/√n.
        outputs: The task's outputs by name, summarized by their place among the sorted names.
        gradients: Gradients by parameter, summarized by their place among the parameters.
    """

    shape: tuple[int, int]
    feeds: Feeds
    loss: float
    gradient_norm: float
    outputs: Mapping[str, Summary]
    gradients: Mapping[str, Summary]


def write_batches(folder: Path, batches: Sequence[CheckedBatch]) -> None:
    """Write batches into a bundle's folder.

    Args:
        folder: The bundle's directory.
        batches: The batches.
    """
    tensors: dict[str, np.ndarray] = {}
    for number, batch in enumerate(batches):
        tensors[f"{number}.shape"] = np.array(batch.shape, np.int64)
        tensors[f"{number}.figures"] = np.array([batch.loss, batch.gradient_norm])
        tensors[f"{number}.gradients"] = np.array(list(batch.gradients.values())).reshape(-1, 2)
        for name, array in batch.feeds.items():
            tensors[f"{number}.feeds.{name}"] = array
        for name, summary in batch.outputs.items():
            tensors[f"{number}.outputs.{name}"] = np.array(summary)
    file = folder / BATCHES
    file.parent.mkdir(exist_ok=True)
    write_tensors(file, tensors)


def read_batches(
    folder: Path, parameters: Sequence[str], outputs: Collection[str]
) -> list[CheckedBatch]:
    """Read the batches of a bundle.

    Args:
        folder: The bundle's directory.
        parameters: Names of the trained parameters, in the manifest's order.
        outputs: Names of what the inference graph gives.

    Raises:
        BundleError: The file is none that export wrote, or has outputs of another graph.
    """
    file = folder / BATCHES
    try:
        tensors = {name: np.array(value) for name, value in map_tensors(file).items()}
        count = sum(name.endswith(".shape") for name in tensors)
        batches = [_batch(tensors, f"{number}.", parameters) for number in range(count)]
    except (KeyError, TypeError, ValueError) as error:
        raise BundleError(f"{file} cannot be read: {error}", AGAIN) from error
    for name in (name for batch in batches for name in batch.outputs):
        if name not in outputs:
            raise BundleError(
                f"{file} has the output {name}, which the bundle's inference graph does not give",
                AGAIN,
            )
    return batches


def _batch(
    tensors: Mapping[str, np.ndarray], prefix: str, parameters: Sequence[str]
) -> CheckedBatch:
    own = {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}
    rows, tokens = own["shape"].tolist()
    loss, gradient_norm = own["figures"].tolist()
    gradients = own["gradients"].tolist()
    return CheckedBatch(
        shape=(rows, tokens),
        feeds=_below("feeds.", own),
        loss=loss,
        gradient_norm=gradient_norm,
        outputs={n: Summary(*pair.tolist()) for n, pair in _below("outputs.", own).items()},
        gradients={n: Summary(*pair) for n, pair in zip(parameters, gradients, strict=True)},
    )


def _below(prefix: str, tensors: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {n.removeprefix(prefix): array for n, array in tensors.items() if n.startswith(prefix)}
