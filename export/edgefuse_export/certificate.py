"""Proof that the graphs compute what torch computes: loss, every gradient, outputs."""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgefuse_devices.errors import InternalError
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import TRACED_SHAPE, example
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.bundle.manifest import Certificate
from edgefuse_runtime.graph.parameters import PADDING_ID, zeros_of
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.session import open_session

CHECKED_SHAPE = (4, 23)
LOSS_TOLERANCE = 1e-4
OUTPUT_TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-2
"""Part of the gradient's own largest entry: float32 sums in another order stay far below."""

_REPORT = "Nothing was written; please report it with the model's configuration"


def certify(
    task: ExportTask,
    model: nn.Module,
    bundle: Bundle,
    *,
    vocabulary: int,
    shares: Mapping[str, np.ndarray] | None = None,
) -> Certificate:
    """Run both graphs on ONNX Runtime and the model on torch, at a shape that was not traced.

    Args:
        task: What the model is trained for.
        model: A model with the task's head, in evaluation mode; its gradients are overwritten.
        bundle: Graphs and tensors of the model.
        vocabulary: Token ids are below it.
        shares: Parts of torch's gradients that the graph gives, by parameter; None for the whole.

    Raises:
        InternalError: They differ.
    """
    manifest = bundle.manifest
    trainable = [parameter.name for parameter in manifest.parameters]
    for name, stored in bundle.trainable().items():
        if not np.array_equal(stored, _numpy(model.get_parameter(name))):
            raise InternalError(f"The bundle's {name} is not the model's", _REPORT)
    batch = example(task, CHECKED_SHAPE, vocabulary=vocabulary, seed=1)
    with _without_zeros([model.get_parameter(name) for name in trainable]):
        model.zero_grad()
        loss, *outputs = task.loss(model)(*batch.values())
        loss.backward()
        gradients = {name: model.get_parameter(name).grad for name in trainable}
        expected = {
            name: _numpy(grad) * (shares or {}).get(name, 1)
            for name, grad in gradients.items()
            if grad is not None
        }
        feeds = {name: _numpy(tensor) for name, tensor in batch.items()}
        values = {name: _numpy(model.get_parameter(name)) for name in trainable}
        zeros = {zeros_of(name): np.zeros_like(value) for name, value in values.items()}
        padding = {PADDING_ID: np.array([manifest.padding_id])}
        given = {**bundle.frozen, **feeds, **values, **zeros, **padding}
        actual = _run(bundle.path / "train.onnx", given)
        inferred = InferenceModel(bundle, values, threads=1).run(feeds)

    # A gradient that is zero but for rounding (a key's bias, say) is held against all the others.
    floor = 1e-4 * max(float(np.abs(expected[name]).max()) for name in trainable)
    errors = {
        name: float(
            np.abs(actual[f"gradient.{name}"] - expected[name]).max()
            / (np.abs(expected[name]).max() + floor)
        )
        for name in trainable
    }
    worst = max(errors, key=lambda name: _nan_last(errors[name]))
    certificate = Certificate(
        traced_shape=TRACED_SHAPE,
        checked_shape=CHECKED_SHAPE,
        loss_difference=abs(float(actual["loss"]) - loss.item()),
        gradients=len(errors),
        worst_gradient=worst,
        worst_gradient_error=errors[worst],
        output_difference=max(
            (
                float(np.abs(inferred[name] - _numpy(output)).max())
                for name, output in zip(task.outputs, outputs, strict=True)
            ),
            key=_nan_last,
        ),
    )
    _check(certificate)
    return certificate


def _nan_last(difference: float) -> float:
    """A key by which NaN is worse than any number."""
    return math.inf if math.isnan(difference) else difference


def _check(certificate: Certificate) -> None:
    for what, difference, tolerance in (
        ("loss", certificate.loss_difference, LOSS_TOLERANCE),
        ("outputs", certificate.output_difference, OUTPUT_TOLERANCE),
        (
            f"gradient of {certificate.worst_gradient}",
            certificate.worst_gradient_error,
            GRADIENT_TOLERANCE,
        ),
    ):
        if not difference <= tolerance:
            raise InternalError(
                f"The exported graph's {what} differs from torch's by {difference:.2g}", _REPORT
            )


def _run(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = open_session(path, threads=1)
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    fed = {name: value for name, value in feeds.items() if name in wanted}
    return dict(zip(names, session.run(names, fed), strict=True))


@contextmanager
def _without_zeros(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Give parameters that are all zero small values for a while.

    A factor that starts at zero, as LoRA's B does, would hide a wrong gradient of its partner.
    """
    generator = torch.Generator().manual_seed(2)
    zero = [parameter for parameter in parameters if not parameter.any()]
    with torch.no_grad():
        for parameter in zero:
            parameter.normal_(std=0.1, generator=generator)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter in zero:
                parameter.zero_()


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()
