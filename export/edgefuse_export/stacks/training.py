"""The graphs of a model in parts, as an engine takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import onnx_ir as ir
import torch
from torch import Tensor

from edgefuse_devices.errors import ModelError
from edgefuse_export.memory import activation_bytes
from edgefuse_export.passes.inference import inference_graph
from edgefuse_export.source import Source
from edgefuse_export.stacks.find import Stack, entered, find_stack
from edgefuse_export.stacks.graphs import StackGraphs, stack_graphs
from edgefuse_export.stacks.joined import join
from edgefuse_runtime.engines.onnxruntime_layers import CHUNK
from edgefuse_runtime.graph.stack import (
    COUNT,
    HIDDEN,
    OUTPUT_GRADIENT,
    TARGETS,
    context_name,
    gradient_of,
)

_WHOLE = "Export with --engine onnxruntime, which makes one graph of the whole model"


@dataclass(frozen=True)
class StackTraining:
    """What layer-by-layer training takes.

    Attributes:
        source: The model, and how it trains.
        parts: The graphs.
    """

    source: Source
    parts: StackGraphs

    @property
    def trainable(self) -> list[str]:
        """Trained parameters, in the model's order."""
        found = self.parts.differentiated
        return [name for name, _ in self.source.model.named_parameters() if name in found]

    @property
    def by_token(self) -> bool:
        """Whether the loss is computed token by token."""
        return any(value.name == TARGETS for value in self.parts.exit.graph.inputs)

    @cached_property
    def inference(self) -> ir.Model:
        """The forward parts in one graph, of another model where merges make one."""
        source, parts = self.source, self.parts
        if source.inference is not None:
            stack = _stack(source, source.inference)
            parts = stack_graphs(
                source.task, source.inference, stack, vocabulary=source.vocabulary, train=False
            )
        whole = join(parts, batch=[*source.task.inputs, *source.task.targets])
        return inference_graph(whole, source.task, fused=source.fused)

    def free_rows(self, name: str, *, padding_id: int) -> bool:  # noqa: ARG002
        """No embedding: where one trains, all of its rows do."""
        return False

    def activation_bytes(self, batch: Mapping[str, Tensor]) -> int:
        """Peak of what a step on a batch holds besides tensors and gradients.

        What enters the layers, what they share, and the most that one graph takes.
        """
        source, parts = self.source, self.parts
        layers = parts.stack.layers
        with torch.no_grad():
            entrance = entered(source.task, source.model, layers, tuple(batch.values()))
        shapes: dict[str, Sequence[int]] = {n: tensor.shape for n, tensor in batch.items()}
        outputs = {HIDDEN: entrance.hidden}
        outputs |= {context_name(i): context for i, context in enumerate(entrance.contexts)}
        shapes |= {name: tensor.shape for name, tensor in outputs.items()}
        shapes |= {gradient_of(name): tensor.shape for name, tensor in outputs.items()}
        kept = (len(layers) - parts.lowest + 3) * entrance.hidden.nbytes
        kept += sum(context.nbytes for context in entrance.contexts)
        peaks = [self._peak(parts.entrance, shapes)]
        if parts.entrance_backward is not None:
            peaks.append(self._peak(parts.entrance_backward, shapes))
        for kind, graphs in enumerate(parts.kinds):
            places = parts.contexts[parts.of_kind.index(kind)]
            own = {
                context_name(index): entrance.contexts[place].shape
                for index, place in enumerate(places)
            }
            own |= {HIDDEN: entrance.hidden.shape, OUTPUT_GRADIENT: entrance.hidden.shape}
            peaks.append(self._peak(graphs.backward or graphs.forward, own))
        tokens = min(entrance.hidden.shape[:-1].numel(), CHUNK)
        one = {HIDDEN: (tokens, entrance.hidden.shape[-1]), TARGETS: (tokens,), COUNT: ()}
        peaks.append(self._peak(parts.exit, one if self.by_token else shapes))
        return kept + max(peaks)

    def _peak(self, graph: ir.Model, shapes: Mapping[str, Sequence[int]]) -> int:
        own = {str(value.name) for value in graph.graph.inputs}
        given = {name: shape for name, shape in shapes.items() if name in own}
        return activation_bytes(graph, given, vocabulary=self.source.vocabulary)


def stack_training(source: Source) -> StackTraining:
    """Trace and differentiate the parts of a model.

    Raises:
        ModelError: The model is no stack of layers, or a part cannot be traced or differentiated.
    """
    if source.optimizer.follows_gradient and source.fused:
        raise ModelError(
            f"Layer by layer, {source.optimizer.name} cannot train fused MLPs: what their rows' "
            "gradients are divided by differs from layer to layer",
            _WHOLE,
        )
    stack = _stack(source, source.model)
    parts = stack_graphs(source.task, source.model, stack, vocabulary=source.vocabulary)
    return StackTraining(source, parts)


def _stack(source: Source, model: torch.nn.Module) -> Stack:
    stack = find_stack(source.task, model, vocabulary=source.vocabulary)
    if isinstance(stack, str):
        raise ModelError(
            f"{type(model).__name__} cannot be trained layer by layer: {stack}", _WHOLE
        )
    return stack
