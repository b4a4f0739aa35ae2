"""Proof that the graphs compute what torch computes: loss, every gradient, outputs."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from edgefuse_devices.errors import InternalError, ModelError
from edgefuse_export.operators.dropout import Dropout, with_dropout
from edgefuse_export.passes.norm_weights import NormWeight
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import TRACED_SHAPE, example
from edgefuse_runtime.bundle.bundle import Bundle, open_engine
from edgefuse_runtime.bundle.manifest import Certificate, ShapeCheck
from edgefuse_runtime.checking.batches import CheckedBatch
from edgefuse_runtime.checking.summary import floor_of, summarize, without_zeros
from edgefuse_runtime.checking.tolerances import beyond_rounding, nan_last
from edgefuse_runtime.data.batching import Feeds
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.graph.dropout import dropout_key
from edgefuse_runtime.inference.model import InferenceModel

_FEWEST, _MOST = 4, 256
"""Tokens of the longest rows that are checked: a long context would make export slow."""

_REPORT = "Nothing was written; please report it with the model's configuration"

Values = Mapping[str, np.ndarray]


def certify(
    task: ExportTask,
    model: nn.Module,
    bundle: Bundle,
    *,
    vocabulary: int,
    weights: Mapping[str, NormWeight] | None = None,
    shares: Mapping[str, np.ndarray] | None = None,
    dropout: Dropout | None = None,
) -> tuple[Certificate, list[CheckedBatch]]:
    """Run the engine and the inference graph, and the model on torch, at shapes not traced.

    Args:
        task: What the model is trained for.
        model: A model with the task's head, in evaluation mode; its gradients are overwritten.
        bundle: Graphs and tensors of the model.
        vocabulary: Token ids are below it.
        weights: Weights of the graph's gradients in the global norm, by parameter; None
            for 1.
        shares: Parts of torch's gradients that the graph gives, by parameter; None for the whole.
        dropout: How the training graph drops activations; None for not at all.

    Returns:
        The differences, and the batches with torch's results, for a board to compute again.

    Raises:
        InternalError: They differ.
        ModelError: They differ by an engine that builds its gradients itself.
    """
    names = [parameter.name for parameter in bundle.manifest.parameters]
    own = {name: _numpy(model.get_parameter(name)) for name in names}
    for name, stored in bundle.trainable().items():
        if not np.array_equal(stored, own[name]):
            raise InternalError(f"The bundle's {name} is not the model's", _REPORT)
    values = without_zeros(own)
    engine = open_engine(bundle, threads=1)
    engine.set_parameters(values)
    inference = InferenceModel(bundle, values, threads=1)
    checks, batches = [], []
    with _holding(model, {n: value for n, value in values.items() if value is not own[n]}):
        for seed, shape in enumerate(checked_shapes(bundle.manifest.sequence_length), start=1):
            batch = example(task, shape, vocabulary=vocabulary, seed=seed)
            feeds = _padded(batch, bundle.manifest.padding_id)
            expected = _of_torch(
                task,
                model,
                feeds,
                names,
                weights=weights or {},
                shares=shares or {},
                dropout=dropout,
            )
            check = _compare(shape, feeds, expected, engine, inference)
            _refuse_difference(check, bundle.manifest.engine.name)
            checks.append(check)
            batches.append(expected.summarized(shape, feeds))
    certificate = Certificate(
        traced_shape=TRACED_SHAPE,
        gradients=len(names) if checks[0].worst_gradient else 0,
        checks=checks,
    )
    return certificate, batches


def checked_shapes(longest: int) -> tuple[tuple[int, int], ...]:
    """Shapes (rows, tokens) that are checked: one row, several, and rows of the bundle's length.

    Args:
        longest: Longest sequence of the bundle, in tokens.
    """
    most = max(_FEWEST, min(longest, _MOST))
    return (1, min(7, most)), (4, min(23, most)), (2, most)


@dataclass(frozen=True)
class _Expected:
    """What torch makes of a batch."""

    loss: float
    norm: float
    outputs: Values
    gradients: Values

    def summarized(self, shape: tuple[int, int], feeds: Feeds) -> CheckedBatch:
        return CheckedBatch(
            shape=shape,
            feeds=feeds,
            loss=self.loss,
            gradient_norm=self.norm,
            outputs={
                n: summarize(a, key) for key, (n, a) in enumerate(sorted(self.outputs.items()))
            },
            gradients={n: summarize(a, key) for key, (n, a) in enumerate(self.gradients.items())},
        )


def _of_torch(
    task: ExportTask,
    model: nn.Module,
    feeds: Feeds,
    names: Sequence[str],
    *,
    weights: Mapping[str, NormWeight],
    shares: Mapping[str, np.ndarray],
    dropout: Dropout | None,
) -> _Expected:
    batch = [torch.from_numpy(array) for array in feeds.values()]
    loss, *outputs = task.loss(model)(*batch)
    if dropout:  # the outputs are those of inference, which drops nothing
        key = torch.from_numpy(dropout_key(seed=0, step=0, part=0))
        loss, *_ = with_dropout(task.loss(model), dropout)(*batch, key)
    model.zero_grad()
    loss.backward()
    found = {name: model.get_parameter(name).grad for name in names}
    gradients = {
        name: _numpy(gradient) * shares[name] if name in shares else _numpy(gradient)
        for name, gradient in found.items()
        if gradient is not None
    }
    squares = 0.0
    for name, gradient in gradients.items():
        weight = weights.get(name)
        weighed = gradient if weight is None else gradient * weight.broadcast(gradient.ndim)
        squares += float(np.sum(np.square(weighed), dtype=np.float64))
    arrays = dict(zip(task.outputs, map(_numpy, outputs), strict=True))
    return _Expected(loss.item(), float(np.sqrt(squares)), arrays, gradients)


def _compare(
    shape: tuple[int, int],
    feeds: Feeds,
    expected: _Expected,
    engine: Engine,
    inference: InferenceModel,
) -> ShapeCheck:
    try:
        step, gradients = engine.gradients(feeds)
        inferred = inference.run(feeds)
    except Exception as error:  # onnxruntime's own exceptions share no base but this
        rows, tokens = shape
        raise InternalError(
            f"The exported graph fails at {rows} × {tokens} tokens: {str(error).splitlines()[0]}",
            _REPORT,
        ) from error
    sizes = {name: float(np.abs(array).max()) for name, array in expected.gradients.items()}
    largest = max(sizes.values())
    floor = floor_of(largest)
    # What float32 cannot hold beside the largest gradient is no difference, as a key's bias has. A
    # bias that all logits of a softmax share, as an answer's ends have, sums that up over tokens.
    rounding = 4 * float(np.finfo(np.float32).eps) * largest
    errors = {
        name: max(0.0, _distance(gradient, expected.gradients[name]) - rounding)
        / (sizes[name] + floor)
        for name, gradient in gradients.items()
    }
    assert not errors or errors.keys() == sizes.keys(), "an engine gives all gradients or none"
    worst = max(errors, key=lambda name: nan_last(errors[name]), default="")
    return ShapeCheck(
        shape=shape,
        loss=expected.loss,
        loss_difference=abs(step.loss - expected.loss),
        gradient_norm_error=abs(step.gradient_norm - expected.norm)
        / (expected.norm + floor_of(0.0)),
        worst_gradient=worst,
        worst_gradient_error=errors.get(worst, 0.0),
        largest_output=max(float(np.abs(output).max()) for output in expected.outputs.values()),
        output_difference=max(
            (
                float(np.abs(inferred[name] - output).max())
                for name, output in expected.outputs.items()
            ),
            key=nan_last,
        ),
    )


def _distance(one: np.ndarray, other: np.ndarray) -> float:
    """The largest difference of two entries; infinity where one is NaN."""
    return nan_last(float(np.abs(one - other).max()))


def _refuse_difference(check: ShapeCheck, engine: str) -> None:
    rows, tokens = check.shape
    problem = beyond_rounding(
        loss=check.loss_difference,
        loss_size=check.loss,
        outputs=check.output_difference,
        output_size=check.largest_output,
        worst_gradient=check.worst_gradient,
        gradient=check.worst_gradient_error,
        norm=check.gradient_norm_error,
    )
    if problem and not check.worst_gradient:  # the engine builds its gradients itself
        raise ModelError(
            f"{engine} trains the model wrongly: its {problem} at {rows} × {tokens} tokens",
            "Export it with --engine onnxruntime",
        )
    if problem:
        raise InternalError(
            f"The exported graph's {problem} at {rows} × {tokens} tokens",
            _REPORT,
        )


def _padded(batch: Mapping[str, torch.Tensor], padding_id: int) -> Feeds:
    """A batch whose masked token ids are those of padding, as `collate` makes them."""
    feeds = {name: tensor.numpy() for name, tensor in batch.items()}
    for name, mask in feeds.items():
        ids = name.replace("attention_mask", "input_ids")
        if ids != name and ids in feeds and mask.shape == feeds[ids].shape:
            feeds[ids] = np.where(mask == 0, padding_id, feeds[ids])
    return feeds


@contextmanager
def _holding(model: nn.Module, values: Values) -> Iterator[None]:
    """Give parameters that are all zero other values for a while."""
    with torch.no_grad():
        for name, value in values.items():
            model.get_parameter(name).copy_(torch.from_numpy(value))
    try:
        yield
    finally:
        with torch.no_grad():
            for name in values:
                model.get_parameter(name).zero_()


def _numpy(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()
