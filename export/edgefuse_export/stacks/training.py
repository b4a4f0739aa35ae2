"""The graphs of a model in parts, as an engine takes them."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgefuse_devices.errors import ModelError
from edgefuse_export.memory import Shapes, footprint, output_terms, tensor_term
from edgefuse_export.passes.inference import inference_graph, leave_out_multiplicities
from edgefuse_export.passes.quantized_base import dequantize_first
from edgefuse_export.source import Source
from edgefuse_export.stacks.calls import Stack, lowest_layer
from edgefuse_export.stacks.decoding import decoding_graph
from edgefuse_export.stacks.few_bits import read_blocks
from edgefuse_export.stacks.find import entered, find_stack
from edgefuse_export.stacks.graphs import StackGraphs, stack_graphs
from edgefuse_export.stacks.joined import join
from edgefuse_export.stacks.rows import rows_are_apart
from edgefuse_export.tasks.task import ExportWriter
from edgefuse_export.trace import TRACED_SHAPE, batch_shapes, example
from edgefuse_runtime.engines.onnxruntime_layers import CHUNK, NO_DROPOUT
from edgefuse_runtime.graph.footprint import Footprint, Term, added
from edgefuse_runtime.graph.stack import (
    COUNT,
    HIDDEN,
    OUTPUT,
    OUTPUT_GRADIENT,
    TARGETS,
    context_name,
    gradient_of,
)

_WHOLE = "Export with --engine onnxruntime, which makes one graph of the whole model"

_PASSING = 3
"""Hidden states that live beside those that are kept: a layer's output, its gradient, the next."""


@dataclass(frozen=True, eq=False)
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
        """The forward parts in one graph, of another model where merges make one.

        With a base in few bits it is the model that trains, with its P and nothing merged.
        """
        source, parts = self.source, self.parts
        if source.inference is not None and not source.base:
            stack = _stack(source, source.inference)
            parts = stack_graphs(
                source.task, source.inference, stack, vocabulary=source.vocabulary, train=False
            )
        whole = join(parts, batch=[*source.task.inputs, *source.task.targets])
        dequantize_first(whole.graph)
        return inference_graph(whole, source.task, fused=() if source.base else source.fused)

    @cached_property
    def decoding(self) -> ir.Model | None:
        """The model as it infers, with its keys and values, where the task writes by them."""
        source = self.source
        if not isinstance(source.task, ExportWriter):
            return None
        model = source.model if source.base else source.inference or source.model
        decoder = source.task.decoder(model)
        if decoder is None:
            return None
        base = source.base.blocks if source.base else {}
        stack = self.parts.stack if model is source.model else _stack(source, model)
        graph = decoding_graph(decoder, stack, base)
        if graph is None:
            return None
        if source.base:
            dequantize_first(graph.graph)
        else:
            leave_out_multiplicities(graph, source.fused)
        return graph

    def free_rows(self, name: str, *, padding_id: int) -> bool:  # noqa: ARG002
        """No embedding: where one trains, all of its rows do."""
        return False

    def footprint(self) -> Footprint:
        """What a step holds besides tensors and gradients.

        What enters the layers, what they share, and the most that one graph takes.
        """
        parts, layers = self.parts, len(self.parts.of_kind)
        peaks = [self._footprint(parts.entrance, self._batch)]
        if parts.entrance_backward is not None:
            peaks.append(self._footprint(parts.entrance_backward, self._batch))
        for number, kind in enumerate(parts.kinds):
            peaks.append(self._footprint(kind.backward or kind.forward, self._of_kind(number)))
        if self.by_token:  # a chunk of tokens at a time, whatever the batch
            leaving = self._footprint(parts.exit, self._tokens)
            peaks.append(Footprint([[_in_chunks(t) for t in one] for one in leaving.moments]))
        else:
            peaks.append(self._footprint(parts.exit, self._batch))
        hidden, *contexts = self._reached_terms
        passing = layers - parts.lowest + _PASSING
        held = [Term(passing * hidden.bytes, hidden.rows, hidden.tokens), *contexts]
        return peaks[0].or_of(peaks[1:]).beside(held)

    @cached_property
    def kept(self) -> list[list[Term]]:
        """For each kind, bytes of a layer's inside that the backward pass needs."""
        return [
            added(term for name, term in terms.items() if name != OUTPUT)
            for terms in (
                self._output_terms(kind.keeping[0], number) if kind.keeping else {}
                for number, kind in enumerate(self.parts.kinds)
            )
        ]

    @cached_property
    def keeps_rows(self) -> bool:
        """Whether layers come first that do not train, and give for each row what it alone says."""
        source, parts = self.source, self.parts
        return parts.lowest > 0 and rows_are_apart(
            source.task,
            source.model,
            parts.stack,
            lowest=parts.lowest,
            vocabulary=source.vocabulary,
        )

    def _footprint(self, graph: ir.Model, shapes: Shapes) -> Footprint:
        return footprint(graph, _taken(graph, shapes), vocabulary=self.source.vocabulary)

    def _output_terms(self, graph: ir.Model, kind: int) -> dict[str, Term]:
        shapes = _taken(graph, self._of_kind(kind))
        return output_terms(graph, shapes, vocabulary=self.source.vocabulary)

    @cached_property
    def _reached_terms(self) -> list[Term]:
        """Bytes of what enters the first layer, and of what layers share."""

        def term(index: int) -> Term:
            itemsize = self._reached(1, 1)[index].itemsize
            return tensor_term(lambda *size: self._reached(*size)[index].shape, itemsize)

        return [term(index) for index in range(len(self._reached(1, 1)))]

    @cache  # noqa: B019 - it lives as long as an export
    def _reached(self, rows: int, tokens: int) -> list[Tensor]:
        source = self.source
        batch = example(source.task, (rows, tokens), vocabulary=source.vocabulary)
        with torch.no_grad():
            entrance = entered(source.task, source.model, self.parts.stack, tuple(batch.values()))
        return [entrance.hidden, *entrance.contexts]

    def _batch(self, rows: int, tokens: int) -> dict[str, Sequence[int]]:
        """Shapes of what the parts around the stack may take."""
        source = self.source
        shapes: dict[str, Sequence[int]] = {
            **batch_shapes(source.task, rows, tokens, vocabulary=source.vocabulary)
        }
        hidden, *contexts = (tensor.shape for tensor in self._reached(rows, tokens))
        shapes |= {HIDDEN: hidden, gradient_of(HIDDEN): hidden}
        return shapes | {gradient_of(context_name(i)): shape for i, shape in enumerate(contexts)}

    def _of_kind(self, kind: int) -> Shapes:
        """Shapes of what the graphs of a kind may take."""
        places = self.parts.contexts[self.parts.of_kind.index(kind)]

        def shapes(rows: int, tokens: int) -> dict[str, Sequence[int]]:
            hidden, *contexts = (tensor.shape for tensor in self._reached(rows, tokens))
            own = {context_name(index): contexts[place] for index, place in enumerate(places)}
            return {HIDDEN: hidden, OUTPUT_GRADIENT: hidden, **own}

        return shapes

    def _tokens(self, rows: int, tokens: int) -> dict[str, Sequence[int]]:
        """Shapes of what the exit takes, where tokens know nothing of each other."""
        width = self._reached(1, 1)[0].shape[-1]
        return {HIDDEN: (rows * tokens, width), TARGETS: (rows * tokens,), COUNT: ()}


def _in_chunks(term: Term) -> Term:
    return Term(term.bytes, 0, term.tokens, CHUNK)


def _taken(graph: ir.Model, shapes: Shapes) -> Shapes:
    """Those of some shapes that a graph takes."""
    names = {str(value.name) for value in graph.graph.inputs}
    return lambda rows, tokens: {n: s for n, s in shapes(rows, tokens).items() if n in names}


def suits_layers(source: Source) -> bool:
    """Whether a model can be trained layer by layer, and gains by it.

    It gains where the loss is computed token by token, as that of language models, so that the
    logits of all are never there at once; and where no layer trains, since what they give for a row
    can be kept. Where the uppermost ones train, keeping what the others give makes up for what one
    graph saves in the last layer, of which a classifier reads one token, and no more.

    Args:
        source: The model, and how it trains.
    """
    if _why_not_so(source):
        return False
    stack = find_stack(source.task, source.model, vocabulary=source.vocabulary)
    if isinstance(stack, str):
        return False
    if source.task.token_loss(source.model) is not None:
        return True
    batch = example(source.task, TRACED_SHAPE, vocabulary=source.vocabulary)
    entrance = entered(source.task, source.model, stack, tuple(batch.values()))
    return lowest_layer(stack, entrance) == len(stack.layers)


def _why_not_so(source: Source) -> str:
    """What layers cannot be trained with, whatever the model is."""
    if source.dropout is not None:
        return NO_DROPOUT
    if source.optimizer.follows_gradient and source.fused:
        return (
            f"Layer by layer, {source.optimizer.name} cannot train fused MLPs: what their rows' "
            "gradients are divided by differs from layer to layer"
        )
    return ""


def stack_training(source: Source) -> StackTraining:
    """Trace and differentiate the parts of a model.

    Raises:
        ModelError: The model is no stack of layers, or a part cannot be traced or differentiated.
    """
    if why := _why_not_so(source):
        raise ModelError(why, _WHOLE)
    stack = _stack(source, source.model)
    base = source.base.blocks if source.base else {}
    parts = stack_graphs(source.task, source.model, stack, vocabulary=source.vocabulary, base=base)
    if base:
        read_blocks(parts, base)
    return StackTraining(source, parts)


def _stack(source: Source, model: nn.Module) -> Stack:
    stack = find_stack(source.task, model, vocabulary=source.vocabulary)
    if isinstance(stack, str):
        name = type(model).__name__
        raise ModelError(f"{name} cannot be trained layer by layer: {stack}", _WHOLE)
    return stack
