"""P, the multiplicities of fused neurons, standalone in a model, and folded away.

A fused MLP computes `y = W2 · (P ⊙ act(W1 x + b1)) + b2` (Wei et al., "NTK-approximating MLP
Fusion", ICML 2023, arXiv 2307.08941). P is a constant: it never trains. Where it stands decides
how the block learns, so that duplicated neurons, once fused, move as they did before:

- **Adam and its family**, whose step does not follow the gradient's size: keep P standalone, as
  `FusedLinear` does. Fold it into W2 (`fold`) for inference only. What remains is Adam's eps,
  which is added to a root that is n_i times larger: a relative difference of eps / |gradient|.
- **SGD**: with P standalone the fused rows step n times too far. Scale the learning rate of W1's
  row i, b1[i] and W2's column i by 1/n_i.
- **Global-norm clipping**: the gradients of W1's row i, b1[i] and W2's column i stand for n_i
  neurons' and are n_i times theirs. In the norm, weigh them by 1/√n_i (their squares by 1/n_i).
- **Decoupled weight decay**: as it is.

An empty cluster has n = 0: its neuron adds nothing and gets no gradient, so any finite weight
(1, say) does in place of 1/n.

Where W2 is a stack of experts, it becomes the parametrization `W2 · diag(P)` of a W2 that trains:
the same function with the same gradients, whatever forward the experts have. `put_beside` gives it
back its name, for a forward that multiplies by P itself.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.plain import conv1d_of, linear_of
from edgefuse_devices.errors import ModelError

_BESIDE = "_multiplicity"


def p_of_stack(down: str) -> str:
    """What `put_beside` calls P of a stack of experts that is called so."""
    return down + _BESIDE


class FusedLinear(nn.Linear):
    """A down-projection whose inputs are first multiplied by the multiplicities P.

    Its `weight` (p, k) and `bias` (p,) keep the names and shapes of the `nn.Linear` it replaces.

    Attributes:
        multiplicity: Buffer of shape (k,), float: how many neurons each fused one stands for.
    """

    multiplicity: Tensor

    def __init__(self, weight: Tensor, bias: Tensor | None, multiplicity: Tensor) -> None:
        """Make it from its tensors: weight (p, k), bias (p,) or None, multiplicity (k,)."""
        out_features, in_features = weight.shape
        super().__init__(in_features, out_features, bias=bias is not None, device="meta")
        self.weight = nn.Parameter(weight)
        if bias is not None:
            self.bias = nn.Parameter(bias)
        self.register_buffer("multiplicity", multiplicity.to(weight))

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Linear's name
        """Map activations (…, k) to outputs (…, p)."""
        return F.linear(input * self.multiplicity, self.weight, self.bias)

    def fold(self) -> nn.Linear:
        """The plain layer that computes the same: weight W2·diag(P). For inference only."""
        return linear_of(self.weight.detach() * self.multiplicity, self.bias)


class FusedConv1D(Conv1D):
    """The same for GPT-2's layers, whose `weight` is stored as (k, p).

    Attributes:
        multiplicity: Buffer of shape (k,), float.
    """

    multiplicity: Tensor

    def __init__(self, weight: Tensor, bias: Tensor, multiplicity: Tensor) -> None:
        """Make it from its tensors: weight (k, p), bias (p,), multiplicity (k,)."""
        in_features, out_features = weight.shape
        with torch.device("meta"):
            super().__init__(out_features, in_features)  # type: ignore[no-untyped-call]
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(bias)
        self.register_buffer("multiplicity", multiplicity.to(weight))

    def forward(self, x: Tensor) -> Tensor:
        """Map activations (…, k) to outputs (…, p)."""
        output: Tensor = super().forward(x * self.multiplicity)  # type: ignore[no-untyped-call]
        return output

    def fold(self) -> Conv1D:
        """The plain layer that computes the same. For inference only."""
        return conv1d_of((self.weight.detach() * self.multiplicity[:, None]).T, self.bias)


class Multiplied(nn.Module):
    """The parametrization W2 → W2 · diag(P) of a stack of experts.

    Attributes:
        multiplicity: Buffer, float: P (E, k).
        transposed: W2 is stored as (E, k, p), not as (E, p, k).
    """

    multiplicity: Tensor

    def __init__(self, multiplicity: Tensor, *, transposed: bool) -> None:
        super().__init__()
        self.transposed = transposed
        self.register_buffer("multiplicity", multiplicity)

    def forward(self, weight: Tensor) -> Tensor:
        """Multiply the axis of neurons."""
        return weight * self.multiplicity.unsqueeze(-1 if self.transposed else -2)


def multiply(model: nn.Module, name: str, multiplicity: Tensor, *, transposed: bool) -> None:
    """Put P before a down-projection, in place: W2 trains, P stands alone.

    Args:
        model: Has the plain W2.
        name: W2's in the state dict.
        multiplicity: P (k,), or (E, k) for a stack of E experts.
        transposed: W2 is stored as (k, p).
    """
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    weight = getattr(module, attribute)
    if isinstance(module, nn.Linear):
        model.set_submodule(path, FusedLinear(weight.detach(), module.bias, multiplicity))
    elif isinstance(module, Conv1D):
        model.set_submodule(path, FusedConv1D(weight.detach(), module.bias, multiplicity))
    else:
        p = Multiplied(multiplicity.to(weight), transposed=transposed)
        parametrize.register_parametrization(module, attribute, p)


def effective_tensor(model: nn.Module, name: str) -> Tensor:
    """A tensor of the plain model's state dict as the model computes with it, P folded in."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    tensor: Tensor = getattr(module, attribute)  # a parametrization's product already
    if isinstance(module, FusedLinear) and attribute == "weight":
        return tensor * module.multiplicity
    if isinstance(module, FusedConv1D) and attribute == "weight":
        return tensor * module.multiplicity[:, None]
    return tensor


def unfold(folded_weight: Tensor, multiplicity: Tensor) -> Tensor:
    """The W2 (p, k) whose folded form is `folded_weight`; zero where a cluster is empty."""
    return folded_weight / torch.where(multiplicity == 0, 1, multiplicity)


def multiplicities(model: nn.Module) -> dict[str, Tensor]:
    """P of every fused MLP, by the name of its down-projection.

    Args:
        model: Any module.

    Returns:
        Such as `{"encoder.layer.0.output.dense": tensor([...])}`, of shape (k,), or (E, k) for a
        stack of E experts (`model.layers.0.mlp.experts.down_proj`); empty for an unfused model.
    """
    found = {}
    for name, module in model.named_modules():
        p = getattr(module, "multiplicity", None)  # a FusedLinear's, or a chain's in its place
        if isinstance(p, Tensor) and not isinstance(module, Multiplied):
            found[name] = p
        for attribute, multiplied in _parametrizations(module):
            path = name if attribute == "weight" else ".".join(filter(None, (name, attribute)))
            found[path] = multiplied.multiplicity
        for attribute, buffer in module.named_buffers(recurse=False):
            if attribute.endswith(_BESIDE):
                found[f"{name}.{attribute.removesuffix(_BESIDE)}"] = buffer.squeeze(1)
    return found


@torch.no_grad()
def put_beside(model: nn.Module) -> None:
    """Make P of every stack of experts a buffer beside W2, in place; W2 is as it trains.

    The experts' own forward then computes without P: theirs has to be
    `edgefuse.layers.experts.every_expert`. P of W2 `down_proj` is `down_proj_multiplicity`
    (E, 1, k), which multiplies hidden values (E, n, k).
    """
    for module in model.modules():
        for attribute, multiplied in list(_parametrizations(module)):
            weight = module.parametrizations[attribute].original  # type: ignore[index, union-attr]
            _replace(module, attribute, weight)
            module.register_buffer(p_of_stack(attribute), multiplied.multiplicity.unsqueeze(1))


@torch.no_grad()
def fold(model: nn.Module) -> None:
    """Multiply every P of a model into its W2, in place: the plain model that computes the same.

    For inference only: folded, duplicated neurons no longer learn as they did under Adam.
    """
    for name, module in list(model.named_modules()):
        if isinstance(module, FusedLinear | FusedConv1D):
            model.set_submodule(name, module.fold())
        for attribute, _ in list(_parametrizations(module)):
            _replace(module, attribute, getattr(module, attribute))


def _replace(module: nn.Module, attribute: str, weight: Tensor) -> None:
    """Take a module's parametrization away, without a word to the module it was copied from.

    `parametrize.remove_parametrizations` takes it from their class, which copies share.

    Raises:
        ModelError: The module has others than P, which would go with it.
    """
    assert isinstance(module.parametrizations, nn.ModuleDict)
    parts = [part for parts in module.parametrizations.values() for part in parts]  # type: ignore[attr-defined]
    if len(parts) > 1:
        raise ModelError(
            f"{type(module).__name__} has parametrizations besides P",
            "Remove them first, with torch.nn.utils.parametrize.remove_parametrizations",
        )
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    module.register_parameter(attribute, nn.Parameter(weight))


def _parametrizations(module: nn.Module) -> Iterator[tuple[str, Multiplied]]:
    if parametrize.is_parametrized(module):
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for attribute, parts in module.parametrizations.items():
            assert isinstance(parts, nn.ModuleList)
            yield from ((attribute, part) for part in parts if isinstance(part, Multiplied))
