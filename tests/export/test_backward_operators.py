"""Our translations of ATen's gradients give what torch's autograd gives."""

from typing import Any

import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgefuse_devices.errors import ModelError
from edgefuse_export.gradient import gradient_graph
from edgefuse_export.tasks.text_classification import TextClassificationExport
from edgefuse_export.trace import example, trace
from edgefuse_runtime.tasks.text_classification import TextClassification

VOCABULARY, LABELS, WIDTH = 20, 3, 8


class SoftmaxOf(nn.Module):
    """A classifier of what a softmax along an axis of (batch, sequence, hidden) makes."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis = axis
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.linear = nn.Linear(WIDTH, LABELS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
        hidden = self.embedding(input_ids).softmax(self.axis) * attention_mask.unsqueeze(-1)
        return type("Output", (), {"logits": self.linear(hidden.sum(1))})


class ConvolutionOf(nn.Module):
    """A classifier of what a convolution over tokens makes of (batch, hidden, sequence)."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.convolution = nn.Conv1d(WIDTH, **options)
        self.linear = nn.Linear(options["out_channels"], LABELS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
        hidden = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        convolved = self.convolution(hidden.mT).tanh()
        return type("Output", (), {"logits": self.linear(convolved.sum(2))})


@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_a_softmax_has_a_gradient_along_every_axis(axis: int) -> None:
    check(SoftmaxOf(axis))


@pytest.mark.parametrize(
    "options",
    [
        {"out_channels": WIDTH, "kernel_size": 3, "padding": 2, "groups": WIDTH, "bias": False},
        {"out_channels": 5, "kernel_size": 1},
        {"out_channels": 4, "kernel_size": 4, "padding": 1, "groups": 2},
    ],
)
def test_a_convolution_has_a_gradient_in_groups_or_not(options: dict[str, Any]) -> None:
    check(ConvolutionOf(**options))


def test_a_convolution_in_steps_is_refused() -> None:
    model = ConvolutionOf(out_channels=4, kernel_size=2, stride=2)
    with pytest.raises(ModelError, match="convolutions are not over single tokens"):
        check(model)


def check(model: nn.Module) -> None:
    task = TextClassificationExport(TextClassification(labels=[str(n) for n in range(LABELS)]))
    module = task.loss(model)
    graph = gradient_graph(trace(task, module.model, vocabulary=VOCABULARY), task.outputs)
    session = onnxruntime.InferenceSession(ir.serde.serialize_model(graph).SerializeToString())
    batch = example(task, (4, 7), vocabulary=VOCABULARY, seed=1)
    feeds = {name: tensor.numpy() for name, tensor in batch.items()}
    names = [value.name for value in session.get_outputs()]
    found = dict(zip(names, session.run(names, feeds), strict=True))
    module(*batch.values())[0].backward()
    for name, parameter in module.model.named_parameters():
        assert parameter.grad is not None
        assert parameter.grad.any()
        torch.testing.assert_close(torch.from_numpy(found[f"gradient.{name}"]), parameter.grad)
