"""A model that changes tensors in place has torch's gradients."""

import itertools
from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgefuse_export import gradient
from edgefuse_export.gradient import gradient_graph
from edgefuse_export.trace import trace_module


def sum_that_is_added_to(x: Tensor) -> Tensor:
    y = x.sin()
    y += x
    y.mul_(2).div_(3)
    return y.pow(2).sum()


def values_that_are_read_before(x: Tensor) -> Tensor:
    """As experts' weights are made to sum to one."""
    y = x.sin()
    y += 2.0
    y /= y.sum(-1, keepdim=True)
    return (y * x).sum()


def view_that_is_divided(x: Tensor) -> Tensor:
    y = x.cos().permute(0, 2, 1)
    y.div_(2.0)
    return (y * y).sum()


def part_that_is_set(x: Tensor) -> Tensor:
    y = x.sin()
    y[:, 0] = 0.0
    return (y * x).sum()


def view_of_what_is_read(x: Tensor) -> Tensor:
    y = x * 1.0
    y.view(-1).add_(1.0)
    return (y * x).sum()


def value_whose_view_is_read(x: Tensor) -> Tensor:
    y = x * 1.0
    view = y.view(-1)
    y.add_(1.0)
    return (view * x.view(-1)).sum()


class Loss(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function, self.model = function, nn.Identity()

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.function(x), x.detach()


@pytest.mark.parametrize(
    ("function", "traced"),
    [
        (sum_that_is_added_to, 1),
        (values_that_are_read_before, 1),
        (view_that_is_divided, 1),
        (part_that_is_set, 2),
        (view_of_what_is_read, 2),
        (value_whose_view_is_read, 2),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_gradients_are_torchs(
    function: Callable[[Tensor], Tensor], traced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    traces = itertools.count(1)
    tracer = gradient._traced
    monkeypatch.setattr(gradient, "_traced", lambda *given: (next(traces), tracer(*given))[1])
    torch.manual_seed(0)
    batches = [(torch.randn(*shape, requires_grad=True),) for shape in ((2, 5, 4), (3, 6, 4))]
    module = Loss(function)
    program = trace_module(module, *batches, model=module)
    graph = gradient_graph(program, ["output"], inputs=["x"])
    assert next(traces) == traced + 1  # once more where an operator has to stay in place
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(graph).SerializeToString())
    for (x,) in batches:
        (expected,) = torch.autograd.grad(module(x)[0], x)
        loss, found = session.run(["loss", "gradient.x"], {"x": x.detach().numpy()})
        np.testing.assert_allclose(loss, module(x)[0].item(), rtol=1e-5)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
