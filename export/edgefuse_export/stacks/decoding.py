"""The graph that writes: it goes on behind tokens whose keys and values it is given.

    input_ids, attention_mask, position_ids, past_key_values.N, every tensor
      → logits of the last token, present.N

It is traced in parts as the training graphs are, each kind of layer once.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass
from torch import nn

from edgefuse_export.gradient import forward_graph
from edgefuse_export.passes.external_data import as_inputs
from edgefuse_export.passes.grouped_heads import share_heads
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.silence import silence
from edgefuse_export.stacks.cached import CachedEntrance, CachedLayer, LastToken, Text
from edgefuse_export.stacks.caches import cache_of, kept_in
from edgefuse_export.stacks.calls import Stack
from edgefuse_export.stacks.few_bits import read_part
from edgefuse_export.stacks.joined import Whole
from edgefuse_export.stacks.kept import only
from edgefuse_export.stacks.kinds import forms_of, kinds_of
from edgefuse_export.trace import trace_module
from edgefuse_runtime.graph.base import Blocks
from edgefuse_runtime.graph.cache import POSITIONS, Part, past_name, present_name
from edgefuse_runtime.graph.stack import HIDDEN, OUTPUT, context_name

_TOKENS = ("input_ids", "attention_mask", POSITIONS)
_PARTS: tuple[Part, ...] = ("key", "value")

_TRACED = (3, 6, 5)
"""(batch, past, new) of the example that is traced."""

_OTHER = (5, 10, 7)


def decoding_graph(decoder: nn.Module, stack: Stack, base: Mapping[str, Blocks]) -> ir.Model | None:
    """Trace a language model that keeps keys and values.

    Args:
        decoder: A `Decoder` around the model, in evaluation mode, with eager attention.
        stack: The model's stack.
        base: Matrices that are kept in few bits, by their names in the model.

    Returns:
        The graph, every tensor an input; None for a model whose layers do not all keep keys and
        values alone, of their own tokens.
    """
    with silence("transformers"), torch.no_grad():
        try:
            return _Maker(decoder, stack).make(base)
        except Exception:  # noqa: BLE001 - whatever attention makes of a cache that is not its own
            return None


class _Maker:
    """What the parts of one model have in common."""

    def __init__(self, decoder: nn.Module, stack: Stack) -> None:
        self._decoder, self._stack = decoder, stack
        self._texts = [Text.any(*shape) for shape in (_TRACED, _OTHER)]
        self._kept = self._shapes()
        self._entrances = [text.enter(decoder, stack, self._kept) for text in self._texts]

    def make(self, base: Mapping[str, Blocks]) -> ir.Model:
        layers, entrance = self._stack.layers, self._entrances[0]
        of_kind = kinds_of(
            layers,
            entrance,
            differentiated=[False] * len(layers),
            forms=forms_of(self._stack, base),
        )
        kinds = [self._layer(of_kind.index(kind)) for kind in range(max(of_kind) + 1)]
        first, last = self._entrance(), self._exit()
        for part in (first, last):
            read_part(part, base)
        for kind, part in enumerate(kinds):
            read_part(part, base, self._stack.prefix(of_kind.index(kind)))
        return self._joined(first, [kinds[kind] for kind in of_kind], last)

    def _joined(self, first: ir.Model, layers: Sequence[ir.Model], last: ir.Model) -> ir.Model:
        """Put the parts together."""
        own, places = self._inputs(), self._entrances[0].places
        imports = dict(first.graph.opset_imports)
        graph = ir.Graph([], [], nodes=[], opset_imports=imports, name="decoding")
        whole = Whole(graph, {**own})
        reached = whole.append(first, "entrance/", {})
        presents: dict[str, ir.Value] = {}
        hidden = reached[HIDDEN]
        for index, layer in enumerate(layers):
            given = {context_name(i): reached[context_name(j)] for i, j in enumerate(places[index])}
            given |= {part: own[past_name(index, part)] for part in _PARTS}
            prefix = self._stack.prefix(index)
            made = whole.append(layer, prefix, {**given, HIDDEN: hidden}, prefix=prefix)
            hidden = made[OUTPUT]
            presents |= {present_name(index, part): made[_present(part)] for part in _PARTS}
        for name, value in (
            *whole.append(last, "exit/", {HIDDEN: hidden}).items(),
            *presents.items(),
        ):
            value.name = name
            graph.outputs.append(value)
        tensors = sorted(whole.inputs.keys() - own.keys())
        graph.inputs.extend(whole.inputs[name] for name in (*own, *tensors))
        model = ir.Model(graph, ir_version=first.ir_version, producer_name="edgefuse")
        RemoveUnusedNodesPass()(model)
        if not own[POSITIONS].uses():  # the model reads places off the mask
            graph.inputs.remove(own[POSITIONS])
        return model

    def _inputs(self) -> dict[str, ir.Value]:
        """Inputs of the whole graph, with optimum's names of their sizes."""
        lengths = ("sequence_length", "total_sequence_length", "sequence_length")
        shapes: dict[str, list[int | str]] = {
            name: ["batch_size", length] for name, length in zip(_TOKENS, lengths, strict=True)
        }
        for index, kept in enumerate(self._kept):
            for part, (heads, size) in zip(_PARTS, kept, strict=True):
                name = past_name(index, part)
                shapes[name] = ["batch_size", heads, "past_sequence_length", size]
        return {
            name: ir.Value(
                name=name,
                type=ir.TensorType(ir.DataType.INT64 if name in _TOKENS else ir.DataType.FLOAT),
                shape=ir.Shape(shape),
            )
            for name, shape in shapes.items()
        }

    def _shapes(self) -> list[list[tuple[int, int]]]:
        """Heads and sizes of each layer's keys and values."""
        cache = cache_of([])
        self._decoder(*Text.any(1, 0, 2), cache)
        kept = [kept_in(cache, index) for index in range(len(self._stack.layers))]
        return [
            [(tensor.shape[1], tensor.shape[3]) for tensor in (one.keys, one.values)]
            for one in kept
        ]

    def _entrance(self) -> ir.Model:
        part = CachedEntrance(self._decoder, self._stack, self._kept)
        contexts = map(context_name, range(len(self._entrances[0].contexts)))
        return self._graph(part, self._texts, _TOKENS, [HIDDEN, *contexts])

    def _layer(self, index: int) -> ir.Model:
        entrance = self._entrances[0]
        part = CachedLayer(self._stack.layers[index], entrance.calls[index], index)
        examples = []
        for (rows, past, _), reached in zip((_TRACED, _OTHER), self._entrances, strict=True):
            contexts = [reached.contexts[place] for place in reached.places[index]]
            kept = [torch.ones(rows, heads, past, size) for heads, size in self._kept[index]]
            examples.append([reached.hidden, *kept, *contexts])
        names = [HIDDEN, *_PARTS, *map(context_name, range(len(entrance.places[index])))]
        return self._graph(part, examples, names, [OUTPUT, *map(_present, _PARTS)])

    def _exit(self) -> ir.Model:
        part = LastToken(self._decoder, self._stack)
        return self._graph(part, [[e.hidden] for e in self._entrances], [HIDDEN], ["logits"])

    def _graph(
        self,
        part: nn.Module,
        examples: Sequence[Sequence[Any]],
        names: Sequence[str],
        outputs: Sequence[str],
    ) -> ir.Model:
        """Trace a part, and make a graph of it whose tensors are inputs."""
        program = trace_module(part, *examples, model=self._decoder)
        graph = only(forward_graph(program, outputs, inputs=names), "loss".__ne__)
        as_inputs(graph, {name.removeprefix("model.") for name in part.state_dict()})
        simplify(graph)
        share_heads(graph)
        return graph


def _present(part: str) -> str:
    return f"present.{part}"
