"""Forward and backward pass of a model in one graph."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir
from torch import Tensor, nn

from edgefuse_export.gradient import forward_graph, gradient_graph
from edgefuse_export.memory import activation_bytes
from edgefuse_export.passes.external_data import as_inputs
from edgefuse_export.passes.free_vocabulary import free_rows
from edgefuse_export.passes.gradient_norm import finish_training_graph
from edgefuse_export.passes.inference import inference_graph
from edgefuse_export.passes.neuron_gradients import divide_by_neurons
from edgefuse_export.passes.scatter_into_sum import scatter_into_sums
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.source import Source
from edgefuse_export.trace import trace


@dataclass(frozen=True)
class WholeGraphs:
    """The graphs of a model.

    Attributes:
        training: Batch and every tensor → loss, gradient norm, every gradient.
        inference: Batch and every tensor but P → outputs.
        trainable: Trained parameters, in the model's order.
        vocabulary: Count of token ids.
    """

    training: ir.Model
    inference: ir.Model
    trainable: Sequence[str]
    vocabulary: int

    def free_rows(self, name: str, *, padding_id: int) -> bool:
        """Let a trained embedding have any number of rows, where that is the same."""
        return free_rows(self.training.graph, name, padding_id=padding_id)

    def activation_bytes(self, batch: Mapping[str, Tensor]) -> int:
        """Peak of what a step on a batch holds besides tensors and gradients."""
        shapes = {name: tensor.shape for name, tensor in batch.items()}
        return activation_bytes(self.training, shapes, vocabulary=self.vocabulary)


def whole_graphs(source: Source) -> WholeGraphs:
    """Trace a model, differentiate its loss and cut out inference.

    Raises:
        ModelError: The model cannot be traced, differentiated or written as ONNX.
    """
    task, model = source.task, source.model
    forward = trace(task, model, vocabulary=source.vocabulary, dropout=source.dropout)
    training = gradient_graph(forward, task.outputs)
    differentiated = {value.name for value in training.graph.outputs}
    trainable = [n for n, _ in model.named_parameters() if f"gradient.{n}" in differentiated]
    as_inputs(training, source.tensors.keys())
    simplify(training)
    scatter_into_sums(training.graph)
    inference = _inference(source, training)
    if source.optimizer.follows_gradient:
        divide_by_neurons(training.graph, source.neurons)
    weights = source.norm_weights
    finish_training_graph(training, outputs=task.outputs, trainable=trainable, weights=weights)
    return WholeGraphs(training, inference, trainable, source.vocabulary)


def _inference(source: Source, training: ir.Model) -> ir.Model:
    """The training graph's own forward part, or another: where merges or dropout make one."""
    if source.inference is None and source.dropout is None:
        return inference_graph(training, source.task, fused=source.fused)
    model: nn.Module = source.inference or source.model
    program = trace(source.task, model, vocabulary=source.vocabulary)
    forward = forward_graph(program, source.task.outputs)
    as_inputs(forward, model.state_dict().keys())
    simplify(forward)
    return inference_graph(forward, source.task, fused=source.fused)
