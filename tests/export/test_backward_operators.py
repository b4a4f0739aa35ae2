"""Our translations of ATen's gradients give what torch's autograd gives."""

from typing import Any

import onnx_ir as ir
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.t5.modeling_t5 import T5LayerNorm

from edgefuse_devices.errors import ModelError
from edgefuse_export.gradient import gradient_graph
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.tasks.text_classification import TextClassificationExport
from edgefuse_export.tasks.text_generation import TextGenerationExport
from edgefuse_export.trace import example, trace
from edgefuse_runtime.tasks.text_classification import TextClassification
from edgefuse_runtime.tasks.text_generation import TextGeneration

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


class RmsNorm(nn.Module):
    """A classifier of normalized hidden states, as transformers writes the norm."""

    def __init__(self, kind: type[nn.Module]) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)
        self.norm = kind(WIDTH)
        self.linear = nn.Linear(WIDTH, LABELS)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
        hidden = self.norm(self.embedding(input_ids)) * attention_mask.unsqueeze(-1)
        return type("Output", (), {"logits": self.linear(F.silu(hidden).sum(1))})


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Gemma3RMSNorm, T5LayerNorm])
def test_a_root_mean_square_norm_is_one_operator_with_its_own_gradient(
    kind: type[nn.Module],
) -> None:
    nodes = check(RmsNorm(kind))
    assert nodes.count("Pow") == 1  # the square; torch's gradient has two powers more
    assert nodes.count("Sigmoid") == 1  # of the unit, whose gradient takes it again


def test_the_loss_of_tokens_makes_one_more_tensor_of_the_logits_size() -> None:
    model = TokensOf()
    nodes = check_tokens(model)
    assert nodes.count("LogSoftmax") == nodes.count("Exp") == 1
    assert "ReduceLogSumExp" not in nodes


class TokensOf(nn.Module):
    """A language model without layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, WIDTH)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
        hidden = self.embedding(input_ids)
        return type("Output", (), {"logits": hidden.tanh() @ self.embedding.weight.T})


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


def check_tokens(model: nn.Module) -> list[str]:
    return compare(TextGenerationExport(TextGeneration(end_id=0, stop_ids=[0])), model)


def check(model: nn.Module) -> list[str]:
    labels = [str(n) for n in range(LABELS)]
    return compare(TextClassificationExport(TextClassification(labels=labels)), model)


def compare(task: ExportTask, model: nn.Module) -> list[str]:
    """Compare gradients with torch's; the operators that give them."""
    module = task.loss(model)
    graph = gradient_graph(trace(task, module.model, vocabulary=VOCABULARY), task.outputs)
    simplify(graph)
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
    return [node.op_type for node in graph.graph.all_nodes()]
