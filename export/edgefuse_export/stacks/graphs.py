"""Gradient graphs of a model in parts: their count depends on its kinds of layers, not on depth."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir as ir
import torch
from torch import Tensor, nn

from edgefuse_export.gradient import forward_graph, gradient_graph
from edgefuse_export.passes.external_data import as_inputs
from edgefuse_export.passes.scatter_into_sum import scatter_into_sums
from edgefuse_export.passes.simplify import simplify
from edgefuse_export.stacks.calls import Entrance, Stack, lowest_layer
from edgefuse_export.stacks.find import entered
from edgefuse_export.stacks.kept import only, split
from edgefuse_export.stacks.kinds import forms_of, kinds_of
from edgefuse_export.stacks.modules import EntrancePart, ExitPart, LayerPart, TokensPart
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.trace import OTHER_SHAPE, TRACED_SHAPE, example, trace_module
from edgefuse_runtime.graph.base import Blocks
from edgefuse_runtime.graph.stack import (
    COUNT,
    HIDDEN,
    OUTPUT,
    OUTPUT_GRADIENT,
    TARGETS,
    context_name,
    gradient_of,
    is_context,
)


@dataclass(frozen=True)
class Kind:
    """The graphs of a kind of layer.

    Attributes:
        forward: Input and contexts → output.
        backward: Input, contexts and gradient of the output → gradients of the input, of contexts
            and of what trains; None where nothing is differentiated.
        keeping: The forward graph that gives out what a backward graph needs of it besides, and
            that backward graph, which takes it; None where there is no other.
    """

    forward: ir.Model
    backward: ir.Model | None = None
    keeping: tuple[ir.Model, ir.Model] | None = None


@dataclass(frozen=True)
class StackGraphs:
    """The graphs of a model in parts, every tensor an input.

    Attributes:
        entrance: Batch → the first layer's input, contexts.
        entrance_backward: Batch and gradients of those → gradients of what trains before the stack;
            None where nothing does.
        kinds: The graphs of each kind.
        exit: The last layer's output and the batch, or, where tokens know nothing of each other,
            tokens' last hidden states, targets and their count → loss, gradients.
        exit_forward: The last layer's output and the batch → loss and outputs.
        stack: The layers.
        of_kind: Number of each layer's kind.
        contexts: For each layer, indices of its contexts among all.
        lowest: Index of the lowest layer whose input or tensors need a gradient; the count of the
            layers where none does.
    """

    entrance: ir.Model
    entrance_backward: ir.Model | None
    kinds: list[Kind]
    exit: ir.Model
    exit_forward: ir.Model
    stack: Stack
    of_kind: list[int]
    contexts: list[tuple[int, ...]]
    lowest: int

    @property
    def differentiated(self) -> set[str]:
        """Names, in the model, of parameters of which some graph gives the gradient."""
        names = set(_gradients(self.exit))
        if self.entrance_backward:
            names.update(_gradients(self.entrance_backward))
        for index in range(self.lowest, len(self.of_kind)):
            backward = self.kinds[self.of_kind[index]].backward
            assert backward is not None
            names.update(f"{self.stack.prefix(index)}{name}" for name in _gradients(backward))
        return names


def stack_graphs(
    task: ExportTask,
    model: nn.Module,
    stack: Stack,
    *,
    vocabulary: int,
    train: bool = True,
    base: Mapping[str, Blocks] | None = None,
) -> StackGraphs:
    """Trace and differentiate each part of a model.

    Args:
        task: What the model is trained for.
        model: The model, in evaluation mode, with eager attention.
        stack: The layers of the model.
        vocabulary: Token ids are below it.
        train: Whether to differentiate anything.
        base: Matrices that will be kept in few bits, by their names in the model.

    Raises:
        ModelError: A part cannot be traced or differentiated.
    """
    return _Maker(task, model, stack, vocabulary=vocabulary, train=train).make(base or {})


class _Maker:
    """What the parts of one model have in common."""

    def __init__(
        self, task: ExportTask, model: nn.Module, stack: Stack, *, vocabulary: int, train: bool
    ) -> None:
        self._task, self._model, self._stack, self._train = task, model, stack, train
        self._batches = [
            tuple(example(task, shape, vocabulary=vocabulary).values())
            for shape in (TRACED_SHAPE, OTHER_SHAPE)
        ]
        self._entrances = [entered(task, model, stack, batch) for batch in self._batches]
        self._names = [*task.inputs, *task.targets]

    def make(self, base: Mapping[str, Blocks]) -> StackGraphs:
        layers, entrance = self._stack.layers, self._entrances[0]
        lowest = lowest_layer(self._stack, entrance) if self._train else len(layers)
        of_kind = kinds_of(
            layers,
            entrance,
            differentiated=[index >= lowest for index in range(len(layers))],
            forms=forms_of(self._stack, base),
        )
        kinds = [
            self._kind(of_kind.index(kind), differentiate=of_kind.index(kind) >= lowest)
            for kind in range(max(of_kind) + 1)
        ]
        entering, entering_backward = self._entrance(entrance)
        leaving, leaving_forward = self._exit(needs_input=lowest < len(layers))
        return StackGraphs(
            entrance=entering,
            entrance_backward=entering_backward,
            kinds=kinds,
            exit=leaving,
            exit_forward=leaving_forward,
            stack=self._stack,
            of_kind=of_kind,
            contexts=list(entrance.places),
            lowest=lowest,
        )

    def _differentiable(self, entrance: Entrance) -> list[int]:
        """Indices of what the entrance gives that depends on something that trains."""
        if not self._train:
            return []
        outputs = (entrance.hidden, *entrance.contexts)
        return [index for index, output in enumerate(outputs) if output.requires_grad]

    def _entrance(self, entrance: Entrance) -> tuple[ir.Model, ir.Model | None]:
        """What is before the stack, and its backward pass where something trains there."""
        gradients = self._differentiable(entrance)
        part = EntrancePart(
            self._task.loss(self._model),
            self._stack,
            batch=len(self._names),
            gradients=gradients,
        )
        outputs = [HIDDEN, *map(context_name, range(len(entrance.contexts)))]
        batches = []
        for batch, one in zip(self._batches, self._entrances, strict=True):
            reached = (one.hidden, *one.contexts)
            batches.append([*batch, *(torch.ones_like(reached[index]) for index in gradients)])
        names = [*self._names, *(gradient_of(outputs[index]) for index in gradients)]
        with only_used(self._model, [(entrance.hidden, *entrance.contexts)[i] for i in gradients]):
            graph = self._graph(part, batches, names, outputs, differentiate=bool(gradients))
        forward = only(graph, {*outputs}.__contains__)
        return forward, only(graph, _is_gradient) if gradients else None

    def _kind(self, index: int, *, differentiate: bool) -> Kind:
        layer, own = self._stack.layers[index], self._entrances[0].places[index]
        part = LayerPart(layer, self._entrances[0].calls[index])
        batches = []
        for entrance in self._entrances:
            given = [entrance.hidden.detach().requires_grad_(differentiate)]
            for context in (entrance.contexts[place] for place in own):
                learns = differentiate and context.requires_grad
                given.append(context.detach().requires_grad_(learns))
            batches.append([*given, torch.ones_like(entrance.hidden)])
        names = [HIDDEN, *map(context_name, range(len(own))), OUTPUT_GRADIENT]
        graph = self._graph(part, batches, names, [OUTPUT], differentiate=differentiate)
        forward = only(graph, OUTPUT.__eq__)
        if not differentiate:
            return Kind(forward)
        backward = only(graph, _is_gradient)
        return Kind(forward, backward, split(graph))

    def _exit(self, *, needs_input: bool) -> tuple[ir.Model, ir.Model]:
        """What is behind the stack with its gradients, and with its outputs."""
        part = ExitPart(self._task.loss(self._model), self._stack)
        names, outputs = [HIDDEN, *self._names], self._task.outputs
        batches = [
            [entrance.hidden.detach().requires_grad_(needs_input), *batch]
            for entrance, batch in zip(self._entrances, self._batches, strict=True)
        ]
        tokens = self._task.token_loss(self._model) if self._train else None
        with only_used(self._model, [part(*batches[0])[0]] if self._train else []):
            trains = any(p.requires_grad for p in self._model.parameters())
            learns = self._train and (needs_input or trains)
            graph = self._graph(
                part, batches, names, outputs, differentiate=learns and tokens is None
            )
            by_token = tokens and self._tokens(
                tokens, needs_input=needs_input, differentiate=learns
            )
        backward = by_token or only(graph, lambda name: name == "loss" or _is_gradient(name))
        return backward, only(graph, lambda name: not _is_gradient(name), keep=names)

    def _tokens(self, loss: nn.Module, *, needs_input: bool, differentiate: bool) -> ir.Model:
        batches = [
            [
                entrance.hidden.detach()[0].requires_grad_(needs_input),
                torch.zeros(entrance.hidden.shape[1], dtype=torch.int64),
                torch.tensor(float(entrance.hidden.shape[1])),
            ]
            for entrance in self._entrances
        ]
        part, names = TokensPart(loss, self._stack), [HIDDEN, TARGETS, COUNT]
        return self._graph(part, batches, names, [], differentiate=differentiate)

    def _graph(
        self,
        part: nn.Module,
        batches: Sequence[Sequence[Tensor]],
        names: Sequence[str],
        outputs: Sequence[str],
        *,
        differentiate: bool,
    ) -> ir.Model:
        """Trace a part, and make a graph of it whose tensors are inputs."""
        program = trace_module(part, *batches, model=self._model)
        make = gradient_graph if differentiate else forward_graph
        graph = make(program, outputs, inputs=names)
        tensors = {name.removeprefix("model.") for name in part.state_dict()}
        as_inputs(graph, tensors)
        simplify(graph)
        scatter_into_sums(graph.graph)
        return graph


@contextmanager
def only_used(model: nn.Module, outputs: Sequence[Tensor]) -> Iterator[None]:
    """Freeze for a while what outputs do not depend on: it has no gradient in their part."""
    trained = [p for p in model.parameters() if p.requires_grad]
    total = sum((output.sum() for output in outputs if output.requires_grad), torch.zeros(()))
    found = (
        torch.autograd.grad(total, trained, allow_unused=True, retain_graph=True)
        if total.requires_grad
        else [None] * len(trained)
    )
    unused = [p for p, gradient in zip(trained, found, strict=True) if gradient is None]
    for parameter in unused:
        parameter.requires_grad = False
    try:
        yield
    finally:
        for parameter in unused:
            parameter.requires_grad = True


def _is_gradient(name: str) -> bool:
    return name.startswith(gradient_of(""))


def _gradients(model: ir.Model) -> list[str]:
    names = [str(value.name) for value in model.graph.outputs if _is_gradient(str(value.name))]
    own = [name.removeprefix(gradient_of("")) for name in names]
    return [name for name in own if name != HIDDEN and not is_context(name)]
