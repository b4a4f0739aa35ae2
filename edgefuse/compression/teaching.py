"""The third stage: each narrow MLP taught by the wide one, by itself, without labels."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from edgefuse.mlps.low_rank import Replacement
from edgefuse.mlps.neurons import Layer, in_parts

_BATCH = 512  # tokens
_RATE = 0.03
_WARMUP = 20  # steps


@torch.no_grad()
def teach(layer: Layer, replacement: Replacement, seed: int, *, epochs: int) -> Replacement:
    """Train what takes an MLP's place to give the MLP's outputs on its inputs.

    The inputs are those of the unfused model, so that it takes seconds a layer; what the layers
    make of one another is for `edgefuse.compression.distillation`. The loss is ‖y_fused − y‖² over
    tokens that are not padding; P is constant.

    Args:
        layer: The MLP, with the inputs to teach on. Without any nothing changes.
        replacement: What is to take its place.
        seed: Seed of the order of tokens.
        epochs: How often all tokens are gone through.

    Returns:
        The taught one; the one given where teaching did not bring it nearer.
    """
    assert layer.inputs is not None
    if len(layer.inputs) == 0:
        return replacement
    before = replacement.parameters(layer.bias)
    parameters = {name: tensor.clone().requires_grad_() for name, tensor in before.items()}
    steps = epochs * -(-len(layer.inputs) // _BATCH)
    optimizer, schedule = adam([before], [parameters], _RATE, steps)
    generator = torch.Generator().manual_seed(seed)
    candidate = replacement.with_parameters(parameters)
    targets = torch.cat([layer.output(inputs) for inputs in in_parts(layer.inputs)])
    scale = targets.square().mean().clamp(min=1e-12)
    with torch.enable_grad():
        for _ in range(epochs):
            order = torch.randperm(len(layer.inputs), generator=generator)
            for index in torch.split(order.to(targets.device), _BATCH):
                output = candidate.output(layer.inputs[index], layer.activation, layer.bias)
                loss = (output - targets[index]).square().mean() / scale
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                optimizer.step()
                schedule.step()
    taught = replacement.with_parameters({name: t.detach() for name, t in parameters.items()})
    return min((replacement, taught), key=lambda one: _error(layer, one, targets))


def adam(
    before: Sequence[Mapping[str, Tensor]],
    trained: Sequence[Mapping[str, Tensor]],
    rate: float,
    steps: int,
) -> tuple[torch.optim.Adam, torch.optim.lr_scheduler.LambdaLR]:
    """Adam for MLPs' tensors, its rate warmed up and then falling to nothing.

    Args:
        before: Tensors as they are, a mapping an MLP.
        trained: Tensors of the same names that train.
        rate: Learning rate in root mean squares of a tensor: the same for every scale of weights.
        steps: Count of steps that there will be.
    """
    groups: list[dict[str, object]] = []
    for old, new in zip(before, trained, strict=True):
        root = {name: float(tensor.square().mean().sqrt()) for name, tensor in old.items()}
        # A bias that starts at zero has to move; large biases must not hurry small matrices.
        least = 0.1 * min(root[name] for name, tensor in old.items() if tensor.ndim == 2)
        groups += [{"params": [new[name]], "lr": rate * max(root[name], least)} for name in new]
    optimizer = torch.optim.Adam(groups, betas=(0.9, 0.99))
    warmup = min(_WARMUP, steps)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / warmup) * (1 - step / steps)
    )
    return optimizer, schedule


def _error(layer: Layer, replacement: Replacement, targets: Tensor) -> float:
    """‖y_fused − y‖² on the layer's inputs, summed over tokens."""
    assert layer.inputs is not None
    error = 0.0
    for inputs, y in zip(in_parts(layer.inputs), in_parts(targets), strict=True):
        output = replacement.output(inputs, layer.activation, layer.bias)
        error += float((output - y).double().square().sum())
    return error
