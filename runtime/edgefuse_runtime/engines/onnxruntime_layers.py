"""Layer by layer: the stock onnxruntime runs one graph a kind of layer, for each layer in turn.

    batch ─▶ entrance.onnx ─▶ hidden, contexts
    hidden, contexts ─▶ forward_K.onnx ─▶ hidden                 every layer, the first one first
    hidden, targets ─▶ exit.onnx ─▶ loss, gradient of hidden     in chunks of tokens
    hidden, contexts, gradient ─▶ backward_K.onnx ─▶ gradients   every layer, the last one first
    batch, gradients ─▶ entrance_backward.onnx ─▶ gradients

Only what enters each layer is kept; a backward graph computes the layer's inside anew (Chen et al.,
"Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174). Of the uppermost layers, as many
as memory allows, keeping_forward_K.onnx gives out the inside, and keeping_backward_K.onnx takes it.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cache
from typing import Any, ClassVar, NamedTuple

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from edgefuse_devices.errors import InternalError
from edgefuse_runtime.data.batching import Feeds, lengths_of
from edgefuse_runtime.engines.engine import Tensors, Training
from edgefuse_runtime.engines.flat import FlatEngine
from edgefuse_runtime.graph.base import tensor_or_rows
from edgefuse_runtime.graph.footprint import Term, bytes_of
from edgefuse_runtime.graph.masks import GradientMask
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
from edgefuse_runtime.optimizers.optimizer import Optimizer
from edgefuse_runtime.session import (
    array_of,
    bind_given,
    onnxruntime,
    open_session,
    run_bound,
    taken_outputs,
)
from edgefuse_runtime.tagged import Tagged

FOLDER = "layers"
"""Where the graphs are in a bundle."""

CHUNK = 128
"""Tokens whose logits are held at a time."""

NO_DROPOUT = "Layer by layer there is no dropout"
"""Why it cannot train so, as a sentence."""


class Layer(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A layer of a stack.

    Attributes:
        kind: Number of its graphs.
        prefix: What the names of its tensors begin with in the model.
        contexts: Which of the tensors that layers share it takes.
    """

    kind: int
    prefix: str
    contexts: list[int]


class OnnxRuntimeLayers(Tagged, frozen=True, kw_only=True, tag="onnxruntime-layers"):
    """The stock onnxruntime, which keeps little more than one layer in memory.

    Attributes:
        version: Version of onnxruntime which the bundle's checks ran on.
        layers: The layers, the first one first.
        lowest: Index of the lowest layer that is differentiated; the count of layers for none.
        by_token: Whether the loss is computed token by token, of those that are learned.
        kept: For each kind, the bytes of a layer's inside that the backward pass needs; nothing for
            one that is not differentiated.
        keeps_rows: Whether layers come first that are not differentiated, and give for a row what
            depends on that row alone.
    """

    frees_rows: ClassVar[bool] = False
    no_accumulation: ClassVar[str] = ""

    version: str
    layers: list[Layer]
    lowest: int
    by_token: bool
    kept: list[list[Term]]
    keeps_rows: bool = False

    def __post_init__(self) -> None:
        """Check that the numbers are of something that is there."""
        if not 0 <= self.lowest <= len(self.layers):
            raise ValueError(f"the lowest of {len(self.layers)} layers is {self.lowest}")
        for layer in self.layers:
            if not 0 <= layer.kind < len(self.kept) or min(layer.contexts, default=0) < 0:
                raise ValueError(f"there is no layer such as {layer}")

    @property
    def files(self) -> tuple[str, ...]:
        """The graphs: those around the layers, of each kind, and what comes after gradients."""
        learning = {layer.kind for layer in self.layers[self.lowest :]}
        kinds = [f"forward_{layer.kind}" for layer in self.layers]
        kinds += [f"{keeping}backward_{kind}" for kind in learning for keeping in ("", "keeping_")]
        kinds += [f"keeping_forward_{kind}" for kind in learning]
        names = dict.fromkeys(["entrance", "exit", *kinds])
        graphs = (f"{FOLDER}/{name}.onnx" for name in names)
        return (*graphs, "gradient_norm.onnx", "optimizer.onnx")

    def layers_kept(self, budget: float, *, rows: int, tokens: int) -> tuple[int, float]:
        """Count of layers, from the last one down, whose insides a budget holds; and their bytes.

        Args:
            budget: Bytes.
            rows: Rows that are computed at once.
            tokens: Tokens in each.
        """
        count, spent = 0, 0.0
        for layer in reversed(self.layers[self.lowest :]):
            more = bytes_of(self.kept[layer.kind], rows, tokens)
            if spent + more > budget:
                break
            count, spent = count + 1, spent + more
        return count, spent

    def refusal(
        self,
        *,
        rates: Collection[float],  # noqa: ARG002 - it trains whatever there is
        mask: GradientMask | None,  # noqa: ARG002
        optimizer: Optimizer,  # noqa: ARG002
        dropout: bool,
    ) -> str:
        """Why it cannot train so: it has no dropout."""
        return NO_DROPOUT if dropout else ""

    def installed(self) -> str:
        """Version of onnxruntime here."""
        return str(onnxruntime().__version__)

    def open(self, training: Training) -> "LayersEngine":
        """Open the graphs, parameters at their start."""
        return LayersEngine(training, self)


class LayersEngine(FlatEngine):
    """Trains a stack of layers, one after the other."""

    def __init__(self, training: Training, spec: OnnxRuntimeLayers) -> None:
        """Open the graphs, parameters at their start."""
        self._spec = spec
        super().__init__(training)

    def _open(self, training: Training) -> None:
        self._learned, self._row_cache = training.learned_tokens, training.row_cache
        folder = training.folder / FOLDER
        tensors = _Tensors(training.frozen, self._views, self._written)

        @cache
        def session(name: str) -> Any:
            return open_session(folder / f"{name}.onnx", threads=training.threads)

        layers = self._spec.layers
        self._lowest_kept = max(self._spec.lowest, len(layers) - training.kept_layers)
        self._entrance = _Graph(session("entrance"), tensors)
        self._forward = [
            _Graph(session(f"{self._keeping(index)}forward_{x.kind}"), tensors, x.prefix)
            for index, x in enumerate(layers)
        ]
        self._exit = _Graph(session("exit"), tensors, adds=True)
        self._backward = [
            _Graph(session(f"{self._keeping(index)}backward_{x.kind}"), tensors, x.prefix)
            for index, x in enumerate(layers)
            if index >= self._spec.lowest
        ]
        self._entrance_backward = None
        if (folder / "entrance_backward.onnx").exists():
            self._entrance_backward = _Graph(session("entrance_backward"), tensors, adds=True)

    def _keeping(self, index: int) -> str:
        """What the names of a layer's graphs begin with, if its inside is kept."""
        return "keeping_" if index >= self._lowest_kept else ""

    def _differentiate(self, feeds: Feeds, part: int) -> tuple[float, float]:  # noqa: ARG002
        hidden, contexts = self._enter(feeds)
        learning, entered = self._spec.layers[self._spec.lowest :], []
        for layer, graph in zip(learning, self._forward[self._spec.lowest :], strict=True):
            given = {HIDDEN: hidden, **_own(contexts, layer)}
            found = graph.run(given)
            hidden = found.pop(OUTPUT)
            entered.append({**given, **found})
            del given, found
        self._exit.clear()
        if self._entrance_backward:
            self._entrance_backward.clear()
        loss, gradient = self._leave(hidden, feeds)
        del hidden
        shared: dict[int, NDArray[np.float32]] = {}
        for layer, graph in reversed([*zip(learning, self._backward, strict=True)]):
            found = graph.run({**entered.pop(), OUTPUT_GRADIENT: gradient})
            gradient = found[gradient_of(HIDDEN)]
            for own, place in enumerate(layer.contexts):
                value = found.get(gradient_of(context_name(own)))
                if value is not None:
                    shared[place] = shared.get(place, np.float32(0)) + value.numpy()
        if self._entrance_backward:
            sums = {gradient_of(context_name(place)): value for place, value in shared.items()}
            self._entrance_backward.run({**feeds, gradient_of(HIDDEN): gradient, **sums})
        return loss, 0.0

    def _enter(self, feeds: Feeds) -> tuple[Any, list[Any]]:
        """What the lowest layer that is differentiated takes: hidden, and the contexts."""
        if not self._spec.keeps_rows:
            return self._through_frozen(feeds)
        if self._row_cache is None:
            hidden = self._of_rows(feeds)
        else:
            hidden = self._row_cache.through(feeds, self._entrance.batch, self._of_rows)
        learns = self._spec.lowest < len(self._spec.layers)
        return hidden, _contexts(self._entrance.run(feeds)) if learns else []

    def _of_rows(self, feeds: Feeds) -> NDArray[np.float32]:
        """What leaves the frozen layers, (rows, tokens, hidden), and zeros for padding.

        Rows of one length are computed at a time, without padding: so that no bit of a row depends
        on what rows it came with.
        """
        lengths = lengths_of(feeds)
        parts = {}
        for length in {*lengths}:
            rows = np.flatnonzero(lengths == length)
            own = {name: feeds[name][rows, :length] for name in self._entrance.batch}
            parts[length] = rows, self._through_frozen(own)[0].numpy()
        width = next(part.shape[-1] for _, part in parts.values())
        hidden = np.zeros((len(lengths), feeds["input_ids"].shape[1], width), np.float32)
        for length, (rows, part) in parts.items():
            hidden[rows, :length] = part
        return hidden

    def _through_frozen(self, feeds: Feeds) -> tuple[Any, list[Any]]:
        """What leaves the layers below, and what all layers share."""
        reached = self._entrance.run(feeds)
        hidden, contexts = reached[HIDDEN], _contexts(reached)
        lowest = self._spec.lowest
        for layer, graph in zip(self._spec.layers[:lowest], self._forward[:lowest], strict=True):
            hidden = graph.run({HIDDEN: hidden, **_own(contexts, layer)})[OUTPUT]
        return hidden, contexts

    def _leave(self, hidden: Any, feeds: Feeds) -> tuple[float, Any]:
        """Loss, and its gradient by the last layer's output."""
        if not self._spec.by_token:
            found = self._exit.run({**feeds, HIDDEN: hidden})
            return float(found["loss"].numpy()), found.get(gradient_of(HIDDEN))
        learned = self._learned(feeds)
        assert learned is not None, "a task whose loss is by token says which are learned"
        places, targets = learned
        states = array_of(hidden)
        tokens = states.reshape(-1, states.shape[-1])
        gradient = np.zeros_like(tokens)
        loss, count = (0.0, np.float32(len(places))) if len(places) else (math.nan, np.float32(0))
        for begin in range(0, len(places), CHUNK):
            chunk = slice(begin, begin + CHUNK)
            found = self._exit.run(
                {HIDDEN: tokens[places[chunk]], TARGETS: targets[chunk], COUNT: count}
            )
            loss += float(found["loss"].numpy())
            if (value := found.get(gradient_of(HIDDEN))) is not None:
                gradient[places[chunk]] = value.numpy()
        return loss, gradient.reshape(states.shape)


class _Tensors(NamedTuple):
    """What graphs are bound to, by the names that tensors have in the model."""

    frozen: Mapping[str, NDArray[Any]]
    values: Tensors
    gradients: Tensors


class _Graph:
    """A session whose tensors are bound once: those of a layer, or of what is around the stack.

    Attributes:
        batch: Names of what every run takes.
    """

    def __init__(
        self, session: Any, tensors: _Tensors, prefix: str = "", *, adds: bool = False
    ) -> None:
        """Bind tensors.

        Args:
            session: The session, which others may share.
            tensors: What to bind.
            prefix: What the tensors' names in the model begin with, before those in the graph.
            adds: Whether gradients are added to what is there: another graph, or another run, gives
                a part of them.
        """
        self._session, self._tensors = session, tensors
        self._binding = session.io_binding()
        self.batch: set[str] = set()
        for value in session.get_inputs():
            name = value.name
            if (whole := prefix + name) in tensors.values:
                array = tensors.values[whole]
                self._place(self._binding.bind_input, name, array)
            elif (frozen := tensor_or_rows(tensors.frozen, whole)) is not None:
                self._binding.bind_cpu_input(name, np.asarray(frozen, order="C"))
            else:
                self.batch.add(name)
        self._free, self._sums = [], []
        for name in (value.name for value in session.get_outputs()):
            gradient = tensors.gradients.get(prefix + name.removeprefix(gradient_of("")))
            if gradient is None or not name.startswith(gradient_of("")):
                self._free.append(name)
                continue
            array = np.empty_like(gradient) if adds else gradient
            if adds:
                self._sums.append((gradient, array))
            self._place(self._binding.bind_output, name, array)
        for name in self._free:
            self._binding.bind_output(name, "cpu")

    @staticmethod
    def _place(bind: Any, name: str, array: NDArray[Any]) -> None:
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)

    def clear(self) -> None:
        """Set the gradients that are added to zero."""
        for gradient, _ in self._sums:
            gradient[...] = 0

    def run(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Run the graph.

        Args:
            given: Arrays, or values of ONNX Runtime, by name; others than it takes do no harm.

        Returns:
            Values of ONNX Runtime by name: those that are bound to no memory.
        """
        if missing := self.batch - given.keys():  # or the last batch's would stand in
            raise InternalError(f"The batch lacks {', '.join(sorted(missing))}")
        for name in self.batch:
            bind_given(self._binding, name, given[name])
        run_bound(self._session, self._binding)
        for name in self.batch:  # or the binding would hold what it was given until the next run
            self._binding.bind_ortvalue_input(name, _nothing())
        for gradient, part in self._sums:
            np.add(gradient, part, out=gradient)
        return taken_outputs(self._binding, self._free)


@cache
def _nothing() -> Any:
    """A value of ONNX Runtime that takes no memory."""
    return onnxruntime().OrtValue.ortvalue_from_numpy(np.zeros(0, np.float32))


def _contexts(reached: Mapping[str, Any]) -> list[Any]:
    """What the entrance gives for layers to share."""
    return [value for name, value in reached.items() if is_context(name)]


def _own(contexts: Sequence[Any], layer: Layer) -> dict[str, Any]:
    """A layer's contexts by the names that they have in its graphs."""
    return {context_name(own): contexts[place] for own, place in enumerate(layer.contexts)}
