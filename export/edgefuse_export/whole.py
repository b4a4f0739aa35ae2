"""Forward and backward pass of a model in one graph."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from edgefuse_export.gradient import forward_graph, gradient_graph
from edgefuse_export.memory import footprint
from edgefuse_export.passes.external_data import as_inputs
from edgefuse_export.passes.free_vocabulary import free_rows
from edgefuse_export.passes.gradient_norm import finish_training_graph
from edgefuse_export.passes.inference import inference_graph
from edgefuse_export.passes.neuron_gradients import divide_by_neurons
from edgefuse_export.passes.scatter_into_sum import scatter_into_sums
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.source import Source
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import batch_shapes, trace
from edgefuse_runtime.graph.footprint import Footprint


@dataclass(frozen=True)
class WholeGraphs:
    """The graphs of a model.

    Attributes:
        training: Batch and every tensor → loss, gradient norm, every gradient.
        inference: Batch and every tensor but P → outputs.
        trainable: Trained parameters, in the model's order.
        task: What the model is trained for.
        vocabulary: Count of token ids.
    """

    training: ir.Model
    inference: ir.Model
    trainable: Sequence[str]
    task: ExportTask
    vocabulary: int

    @property
    def decoding(self) -> None:
        """None: layers are not apart, and their keys and values are inside."""

    def free_rows(self, name: str, *, padding_id: int) -> bool:
        """Let a trained embedding have any number of rows, where that is the same."""
        return free_rows(self.training.graph, name, padding_id=padding_id)

    def footprint(self) -> Footprint:
        """What a step holds besides tensors and gradients."""
        shapes = partial(batch_shapes, self.task, vocabulary=self.vocabulary)
        return footprint(self.training, shapes, vocabulary=self.vocabulary)


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
    return WholeGraphs(training, inference, trainable, task, source.vocabulary)


def _inference(source: Source, training: ir.Model) -> ir.Model:
    """The training graph's own forward part, or another: where merges or dropout make one."""
    if source.inference is None and source.dropout is None:
        return inference_graph(training, source.task, fused=source.fused)
    model = source.inference or source.model
    program = trace(source.task, model, vocabulary=source.vocabulary)
    forward = forward_graph(program, source.task.outputs)
    as_inputs(forward, model.state_dict().keys())
    simplify(forward)
    return inference_graph(forward, source.task, fused=source.fused)
