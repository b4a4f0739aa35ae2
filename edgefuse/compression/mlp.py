"""Where a model's MLP blocks are: found by their structure, not by the model's name."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from torch import Tensor, nn

from edgefuse_devices.errors import ModelError

SUPPORTED = "BERT, RoBERTa, DistilBERT, ELECTRA, ALBERT and models built like them"


@dataclass(frozen=True)
class DenseMLP:
    """A block `y = W2 · act(W1 x + b1) + b2`, with p = hidden size and I = its width.

    Attributes:
        layer: Index from 0, bottom first; a block that layers share (ALBERT) counts once.
        up_name: Name in the model of the projection p → I.
        down_name: Name in the model of the projection I → p.
        up: W1 (I, p) and b1 (I,).
        down: W2 (p, I) and b2 (p,).
        activation: act, element by element.
        width_key: The attribute of the model's configuration that holds I.
    """

    layer: int
    up_name: str
    down_name: str
    up: nn.Linear
    down: nn.Linear
    activation: Callable[[Tensor], Tensor]
    width_key: str

    @property
    def width(self) -> int:
        """I, the count of its neurons."""
        return self.up.out_features

    @property
    def hidden_size(self) -> int:
        """p, the size of its input and output."""
        return self.up.in_features


@dataclass(frozen=True)
class _Form:
    """How a layer holds its block: paths below the layer, and the configuration's name for I."""

    up: str
    down: str
    activation: str
    width_key: str


_FORMS = (
    # BERT, RoBERTa, ELECTRA
    _Form(
        "intermediate.dense",
        "output.dense",
        "intermediate.intermediate_act_fn",
        "intermediate_size",
    ),
    # DistilBERT
    _Form("lin1", "lin2", "activation", "hidden_dim"),
    # ALBERT
    _Form("ffn", "ffn_output", "activation", "intermediate_size"),
)


def find_mlps(model: nn.Module) -> tuple[DenseMLP, ...]:
    """Every MLP block of a model, bottom first, shared ones once.

    Raises:
        ModelError: It has none that EdgeFuse knows.
    """
    blocks = tuple(_blocks(model))
    if not blocks:
        raise ModelError(
            f"The architecture {type(model).__name__} has no MLP that EdgeFuse knows",
            f"Use one of {SUPPORTED}",
        )
    return blocks


def _blocks(model: nn.Module) -> Iterator[DenseMLP]:
    layer = 0
    for name, module in model.named_modules():
        for form in _FORMS:
            try:
                up, down, activation = attrgetter(form.up, form.down, form.activation)(module)
            except AttributeError:
                continue
            if _is_dense_mlp(up, down):
                yield DenseMLP(
                    layer=layer,
                    up_name=f"{name}.{form.up}",
                    down_name=f"{name}.{form.down}",
                    up=up,
                    down=down,
                    activation=activation,
                    width_key=form.width_key,
                )
                layer += 1


def _is_dense_mlp(up: object, down: object) -> bool:
    return (
        isinstance(up, nn.Linear)
        and isinstance(down, nn.Linear)
        and (up.in_features, up.out_features) == (down.out_features, down.in_features)
        and up.bias is not None
    )
