"""Find a model's MLPs by their structure, not by the model's name.

An MLP is a module that holds projections p → I (one, two with a gate, or gate and up in one),
then one projection I → p, and an activation; or such matrices stacked for all experts of a layer.
Attention holds no activation, and its projections do not fit together that way.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import permutations
from operator import attrgetter

from torch import Tensor, nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.stand_ins import plain_tensor
from edgefuse.mlps.layout import Layout, Slot, read_neurons
from edgefuse.mlps.neurons import Activation, Layer
from edgefuse.mlps.unknown import why_unknown
from edgefuse_devices.errors import ModelError

# What a structure does not give away: which of two matrices goes through the activation.
_GATES = ("gate_proj", "wi_0", "w1", "gate")
_GATES_FIRST = ("gate_up_proj", "Wi")  # gate and up in one matrix, the gate's rows in front
_ACTIVATIONS = (
    "act",
    "act_fn",
    "activation",
    "activation_fn",
    "activation_function",
    "gelu_impl",
    "intermediate.intermediate_act_fn",
)
_WITHOUT_ACTIVATION = ["w1", "w3", "w2"]  # LFM2's, which calls silu; `verify` has the last word
_OTHERS = ("per_layer_input_gate", "per_layer_projection")  # beside an MLP in Gemma 3n's layers
_SPLIT = ("intermediate.dense", "output.dense")  # BERT's halves are modules of their own
_ALIGNED = 8  # torch.nn.functional.grouped_mm's 16 bytes, in half precision
_EXPERTS = re.compile(r"(^|\.)experts$")
_EXPERT = re.compile(r"(^|\.)experts(?=[.\[])")


@dataclass(frozen=True)
class MLP:
    """An MLP of a model; in a mixture of experts, one expert.

    Attributes:
        layer: Index from 0, bottom first, of the layer that it belongs to. A layer that is
            used many times over (ALBERT) counts once; all experts of a layer have its index.
        expert: Index from 0; None for an MLP that every token passes.
        name: Name of the module that holds it, such as `model.layers.2.mlp.experts[5]`.
        width: I, the count of its neurons.
        hidden_size: p, the size of its input and output.
        activation: act, element by element.
        layout: Places of its tensors in the model's state dict.
        model: Model that it was found in.
    """

    layer: int
    expert: int | None
    name: str
    width: int
    hidden_size: int
    activation: Activation
    layout: Layout
    model: nn.Module = field(repr=False, compare=False)

    @property
    def gated(self) -> bool:
        """Whether its activated neurons are multiplied by others: h = act(gate x) ⊙ (up x)."""
        return self.layout.gate is not None

    @property
    def stack(self) -> str | None:
        """Name of the tensor that holds all experts of its layer, which so have one width."""
        return None if self.layout.down.expert is None else self.layout.down.name

    @property
    def width_step(self) -> int:
        """Divisor of every width: a stack's rows must be aligned to 16 bytes."""
        return 1 if self.stack is None else _ALIGNED

    def layer_view(self) -> Layer:
        """Read it for a method, without inputs: as the model computes it, P folded.

        Raises:
            ModelError: A weight is NaN or infinite.
        """
        return self.read(lambda name: plain_tensor(self.model, name))

    def read(self, get: Callable[[str], Tensor]) -> Layer:
        """Read it from elsewhere, such as a file: `get` gives the tensor of a name.

        Raises:
            ModelError: A weight is NaN or infinite.
        """
        neurons, bias = read_neurons(self.layout, get, self.name)
        return Layer(neurons, self.activation, bias, name=self.name)


def find_mlps(model: nn.Module) -> tuple[MLP, ...]:
    """Find every MLP of a model, bottom first, shared ones once.

    Args:
        model: Model that is plain or fused; its weights may be on the meta device.

    Raises:
        ModelError: It has none that EdgeFuse knows.
    """
    found = list(_find(model))
    if not found:
        raise ModelError(
            f"The architecture {type(model).__name__} has no MLP that EdgeFuse knows: "
            f"{why_unknown(model)}",
            "Use a transformer whose MLPs are two projections around an activation, or three "
            "with a gate, or mixtures of such experts",
        )
    layers: dict[str, int] = {}
    for mlp in found:
        layers.setdefault(_layer_name(mlp.name), len(layers))
    return tuple(replace(mlp, layer=layers[_layer_name(mlp.name)]) for mlp in found)


def mlps_in(part: nn.Module, mlps: Sequence[MLP]) -> list[MLP]:
    """Find the same MLPs in a part of their model, such as that without its head.

    Raises:
        ModelError: One is not in it.
    """
    found = {_place(mlp): mlp for mlp in find_mlps(part)}
    places = {_place(mlp): mlp.name for mlp in mlps}
    for place, name in places.items():
        if place not in found:
            raise ModelError(
                f"{name} is outside of {type(part).__name__}, which is what reads text",
                "Leave its layer out with --layers, or compress without text",
            )
    return [found[place] for place in places]


def _place(mlp: MLP) -> tuple[int, int | None]:
    """Identify an MLP by the module that holds its last matrix, and its place in a stack."""
    return id(mlp.model.get_submodule(mlp.layout.down.name.rpartition(".")[0])), mlp.expert


def by_stack(mlps: Sequence[MLP]) -> list[list[int]]:
    """Group indices into `mlps`: an MLP by itself, or the experts of a stack by their index."""
    groups: dict[str, list[int]] = {}
    for index, mlp in enumerate(mlps):
        groups.setdefault(mlp.stack or mlp.name, []).append(index)
    return [sorted(group, key=lambda index: mlps[index].expert or 0) for group in groups.values()]


def unknown_experts(model: nn.Module, mlps: Sequence[MLP]) -> list[str]:
    """Find modules that hold experts of which none are among `mlps`, all those of a model."""
    known = {mlp.name[: match.end()] for mlp in mlps if (match := _EXPERT.search(mlp.name))}
    return [
        name for name, _ in model.named_modules() if _EXPERTS.search(name) and name not in known
    ]


def _layer_name(name: str) -> str:
    """Cut a name after its last index, so that a shared expert is in the layer of the others."""
    outside = re.sub(r"(^|\.)experts\b.*", "", name)
    match = re.match(r"(.*\.\d+)(\.|$)", outside)
    return match[1] if match else outside


def _find(model: nn.Module) -> Iterator[MLP]:
    for name, module in model.named_modules():
        activation = _activation(module)
        if activation is None or "attention" in type(module).__name__.lower():
            continue
        for layout, hidden_size, width in _stacked(name, module) or _projected(name, module):
            expert = layout.down.expert
            yield MLP(
                layer=0,  # known when all are
                expert=_place_among_experts(model, name) if expert is None else expert,
                name=name if expert is None else f"{name}[{expert}]",
                width=width,
                hidden_size=hidden_size,
                activation=activation,
                layout=layout,
                model=model,
            )


def _activation(module: nn.Module) -> Activation | None:
    for path in _ACTIVATIONS:
        try:
            found: object = attrgetter(path)(module)
        except AttributeError:
            continue
        if callable(found):
            return found
    return functional.silu if [*dict(module.named_children())] == _WITHOUT_ACTIVATION else None


def _place_among_experts(model: nn.Module, name: str) -> int | None:
    container, _, key = name.rpartition(".")
    if not _EXPERTS.search(container):
        return None
    return [child for child, _ in model.get_submodule(container).named_children()].index(key)


def _stacked(name: str, module: nn.Module) -> list[tuple[Layout, int, int]]:
    """Find layout, p and I of each expert in a stack: up (E, I, p) or gate_up (E, 2I, p), down."""
    parts = dict(module.named_parameters(recurse=False))
    key = "gate_up_proj" if "gate_up_proj" in parts else "up_proj"
    up, down = parts.get(key), parts.get("down_proj")
    if up is None or down is None or up.ndim != 3 or len(parts) > 2:
        return []
    halves = (0, 1) if key == "gate_up_proj" else (None,)
    experts, rows, hidden_size = up.shape
    width = rows // len(halves)
    if down.shape != (experts, hidden_size, width):
        return []
    path = f"{name}." if name else ""
    return [
        (
            Layout(
                up=Slot(path + key, expert=expert, half=halves[-1]),
                gate=Slot(path + key, expert=expert, half=0) if len(halves) == 2 else None,
                down=Slot(path + "down_proj", expert=expert),
            ),
            hidden_size,
            width,
        )
        for expert in range(experts)
    ]


def _projected(name: str, module: nn.Module) -> list[tuple[Layout, int, int]]:
    """Find layout, p and I of an MLP in projections of its own, in a list that may be empty."""
    inside = {
        key: child
        for key, child in module.named_children()
        if isinstance(child, nn.Linear | Conv1D) and key not in _OTHERS
    }
    if not inside:
        try:
            inside = {path: attrgetter(path)(module) for path in _SPLIT}
        except AttributeError:
            return []
        if not all(isinstance(child, nn.Linear | Conv1D) for child in inside.values()):
            return []
    gate, up, down = _roles({key: _shape(child) for key, child in inside.items()})
    if up is None or down is None:
        return []
    path = f"{name}." if name else ""

    def slots(key: str, half: int | None = None) -> tuple[Slot, Slot | None]:
        child = inside[key]
        bias = Slot(f"{path}{key}.bias", half=half) if child.bias is not None else None
        return Slot(f"{path}{key}.weight", isinstance(child, Conv1D), half=half), bias

    in_one = gate == up
    up_slot, up_bias = slots(up, 1 if in_one else None)
    gate_slot, gate_bias = slots(gate, 0 if in_one else None) if gate else (None, None)
    down_slot, bias = slots(down)
    hidden_size, width = _shape(inside[down])
    layout = Layout(up_slot, down_slot, up_bias, gate_slot, gate_bias, bias)
    return [(layout, hidden_size, width)]


def _roles(shapes: dict[str, tuple[int, int]]) -> tuple[str | None, str | None, str | None]:
    """Tell gate, up and down among projections of these shapes (out, in); Nones for no MLP.

    Gate and up are the same where one matrix holds both.
    """
    gates = [key for key in shapes if key in _GATES]
    if len(shapes) == 2:
        up, down = shapes
        p, width = shapes[down]
        if shapes[up] == (width, p) and not gates:
            return None, up, down
        if shapes[up] == (2 * width, p) and up in _GATES_FIRST:
            return up, up, down
    if len(shapes) == 3 and len(gates) == 1:
        width, p = shapes[gates[0]]
        for up, down in permutations([key for key in shapes if key not in gates]):
            if shapes[up] == (width, p) and shapes[down] == (p, width):
                return gates[0], up, down
    return None, None, None


def _shape(projection: nn.Linear | Conv1D) -> tuple[int, int]:
    if isinstance(projection, Conv1D):
        return projection.nf, projection.nx
    return projection.out_features, projection.in_features
