"""Proof that the graphs compute what torch computes: loss, every gradient, logits."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgefuse_devices.errors import InternalError
from edgefuse_export.module import INPUTS, Loss
from edgefuse_export.trace import TRACED_SHAPE, example
from edgefuse_runtime.bundle import Certificate, zeros_of
from edgefuse_runtime.session import open_session

CHECKED_SHAPE = (4, 23)
LOSS_TOLERANCE = 1e-4
LOGITS_TOLERANCE = 1e-3
GRADIENT_TOLERANCE = 1e-2
"""Of the gradient's own largest entry: float32 sums in another order stay far below."""


def certify(
    model: nn.Module,
    *,
    training: Path,
    inference: Path,
    inference_tensors: Mapping[str, np.ndarray],
    trainable: Sequence[str],
    vocabulary: int,
    labels: int,
) -> Certificate:
    """Run both graphs on ONNX Runtime and the model on torch, at a shape that was not traced.

    Args:
        model: A sequence classifier in evaluation mode; its gradients are overwritten.
        training: train.onnx.
        inference: inference.onnx.
        inference_tensors: The initializers of the latter.
        trainable: Names of trained parameters.
        vocabulary: Token ids are below it.
        labels: Count of classes.

    Raises:
        InternalError: They differ.
    """
    inputs = example(CHECKED_SHAPE, vocabulary=vocabulary, labels=labels, seed=1)
    model.zero_grad()
    loss, expected_logits = Loss(model)(*inputs)
    loss.backward()
    expected = {name: p.grad.numpy() for name, p in model.named_parameters() if p.grad is not None}
    feeds = dict(zip((*INPUTS, "labels"), map(_numpy, inputs), strict=True))
    actual = _run(training, {**feeds, **_parameters(model, trainable)})

    # A gradient that is zero but for rounding (a key's bias, say) is held against all the others.
    floor = 1e-4 * max(float(np.abs(expected[name]).max()) for name in trainable)
    errors = {
        name: float(
            np.abs(actual[f"gradient.{name}"] - expected[name]).max()
            / (np.abs(expected[name]).max() + floor)
        )
        for name in trainable
    }
    worst = max(errors, key=errors.__getitem__)
    session = open_session(inference, threads=1, initializers=inference_tensors)
    (logits,) = session.run(["logits"], {n: feeds[n] for n in INPUTS})
    certificate = Certificate(
        traced_shape=TRACED_SHAPE,
        checked_shape=CHECKED_SHAPE,
        loss_difference=abs(float(actual["loss"]) - loss.item()),
        gradients=len(errors),
        worst_gradient=worst,
        worst_gradient_error=errors[worst],
        logits_difference=float(np.abs(logits - _numpy(expected_logits)).max()),
    )
    _check(certificate)
    return certificate


def _check(certificate: Certificate) -> None:
    for what, difference, tolerance in (
        ("loss", certificate.loss_difference, LOSS_TOLERANCE),
        ("logits", certificate.logits_difference, LOGITS_TOLERANCE),
        (
            f"gradient of {certificate.worst_gradient}",
            certificate.worst_gradient_error,
            GRADIENT_TOLERANCE,
        ),
    ):
        if not difference <= tolerance:
            raise InternalError(
                f"The exported graph's {what} differs from torch's by {difference:.2g}",
                "Nothing was written; please report it with the model's configuration",
            )


def _run(path: Path, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    session = open_session(path, threads=1)
    names = [value.name for value in session.get_outputs()]
    wanted = {value.name for value in session.get_inputs()}
    fed = {name: value for name, value in feeds.items() if name in wanted}
    return dict(zip(names, session.run(names, fed), strict=True))


def _parameters(model: nn.Module, names: Sequence[str]) -> dict[str, np.ndarray]:
    parameters = {name: _numpy(model.get_parameter(name)) for name in names}
    zeros = {zeros_of(name): np.zeros_like(value) for name, value in parameters.items()}
    return {**parameters, **zeros}


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()
