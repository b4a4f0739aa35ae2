"""Gradients of parts of tensors: halves of a head, every second entry, tokens behind the first."""

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from torch import nn

from edgefuse_export.gradient import gradient_graph
from edgefuse_export.trace import trace_module


class Parts(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = nn.Identity()

    def forward(self, x, weights):
        first, second = x[..., :3], x[..., 3:]
        loss = (first.sin() * weights[..., :3]).sum() + second.cos().sum()
        loss = loss + (x[..., ::2] ** 2).sum() + (x[..., 1::3] ** 3).sum()
        loss = (
            loss
            + (x[:, 1:].sin() * 2).sum()
            + x[:, :-2].exp().sum()
            + x[:, -3:].cos().sum()
            + (x[..., -4:-1] ** 3).sum()
        )
        return loss, x.detach()


def test_gradients_of_parts_are_torchs_and_write_nothing_index_by_index(tmp_path):
    rng = torch.Generator().manual_seed(0)
    batches = [
        (
            torch.randn(rows, tokens, 7, generator=rng, requires_grad=True),
            torch.ones(rows, tokens, 7),
        )
        for rows, tokens in ((2, 5), (3, 6))
    ]
    module = Parts()
    program = trace_module(module, *batches, model=module)
    graph = gradient_graph(program, ["output"], inputs=["x", "weights"])
    assert not {"ScatterND", "ScatterElements"} & {node.op_type for node in graph.graph}
    ir.save(graph, tmp_path / "parts.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "parts.onnx")
    for x, weights in batches:
        (expected,) = torch.autograd.grad(module(x, weights)[0], x)
        feeds = {"x": x.detach().numpy(), "weights": weights.numpy()}
        (found,) = session.run(["gradient.x"], feeds)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-5)
