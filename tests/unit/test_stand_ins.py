"""Layers that stand in for plain ones: in by `from_plain`, out by `plain`, the same in between."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from transformers import MixtralConfig
from transformers.models.mixtral.modeling_mixtral import MixtralExperts
from transformers.pytorch_utils import Conv1D

from edgefuse.layers.chains.decomposition import decompose
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.layers.chains.modules import MPOEmbedding, MPOLinear
from edgefuse.layers.experts import FusedExperts, every_expert_by_name
from edgefuse.layers.fused import FusedConv1D, FusedLinear
from edgefuse.layers.low_rank import LowRankLinear
from edgefuse.layers.separate_experts import Experts
from edgefuse.layers.stand_ins import (
    StandIn,
    fold,
    merge_chains,
    multiplicities,
    multiplicity_name,
    plain_tensor,
)

OUT, IN, EXPERTS = 12, 16, 3


def drawn(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, generator=generator)
    return module


def linear() -> nn.Linear:
    return drawn(nn.Linear(IN, OUT))


def conv1d() -> Conv1D:
    return drawn(Conv1D(OUT, IN))


def table() -> nn.Embedding:
    return drawn(nn.Embedding(IN, OUT, padding_idx=3))


def stack(implementation: str = "eager") -> MixtralExperts:
    config = MixtralConfig(hidden_size=OUT, intermediate_size=IN, num_local_experts=EXPERTS)
    config._experts_implementation = implementation
    return drawn(MixtralExperts(config))


def p(*shape: int) -> Tensor:
    return 1.0 + torch.arange(torch.Size(shape).numel()).reshape(shape) % 4


def chain_of(layer: nn.Module) -> list[Tensor]:
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    return list(decompose(weight, choose_dimensions(*weight.shape)).tensors)


def thin(layer: nn.Module) -> LowRankLinear:
    weight = layer.weight.T if isinstance(layer, Conv1D) else layer.weight
    u, s, v = torch.linalg.svd(weight.detach(), full_matrices=False)
    return LowRankLinear.from_plain(layer, u * s, v)


def inputs(plain: nn.Module) -> tuple[Tensor, ...]:
    if isinstance(plain, nn.Embedding):
        return (torch.tensor([[0, 3, IN - 1]]),)
    generator = torch.Generator().manual_seed(1)
    if isinstance(plain, MixtralExperts):
        index = torch.tensor([[0, 1], [2, 0], [1, 2], [2, 1]])
        return torch.randn(4, OUT, generator=generator), index, torch.full((4, 2), 0.5)
    return (torch.randn(4, IN, generator=generator),)


STAND_INS: dict[str, Callable[[], tuple[nn.Module, nn.Module]]] = {
    "P before a linear layer": lambda: (m := linear(), FusedLinear.from_plain(m, p(IN))),
    "P before a Conv1D": lambda: (m := conv1d(), FusedConv1D.from_plain(m, p(IN))),
    "P beside a stack": lambda: (m := stack(), FusedExperts.from_plain(m, p(EXPERTS, IN))),
    "thin matrices": lambda: (m := linear(), thin(m)),
    "thin matrices of a Conv1D": lambda: (m := conv1d(), thin(m)),
    "a chain": lambda: (m := linear(), MPOLinear.from_plain(m, chain_of(m))),
    "a chain of a Conv1D": lambda: (m := conv1d(), MPOLinear.from_plain(m, chain_of(m))),
    "a chain of a table": lambda: (m := table(), MPOEmbedding.from_plain(m, chain_of(m))),
}
EVERY_STAND_IN = pytest.mark.parametrize("make", STAND_INS.values(), ids=STAND_INS)
near = {"rtol": 1e-4, "atol": 1e-4}


@EVERY_STAND_IN
def test_plain_computes_what_the_stand_in_does(
    make: Callable[[], tuple[nn.Module, nn.Module]],
) -> None:
    before, stands_in = make()
    assert isinstance(stands_in, StandIn)
    plain = stands_in.plain()
    assert type(plain) is type(before)
    assert plain.state_dict().keys() == before.state_dict().keys()
    torch.testing.assert_close(plain(*inputs(before)), stands_in(*inputs(before)), **near)
    if not multiplicities(stands_in):  # P changes what is computed, all else is exact
        torch.testing.assert_close(stands_in(*inputs(before)), before(*inputs(before)), **near)


@EVERY_STAND_IN
def test_folding_replaces_every_stand_in_wherever_it_is(
    make: Callable[[], tuple[nn.Module, nn.Module]],
) -> None:
    before, stands_in = make()
    model = nn.ModuleDict({"one": stands_in, "same": nn.ModuleList([stands_in])})
    expected = stands_in(*inputs(before))
    fold(model)
    assert model["one"] is model["same"][0]
    assert not any(isinstance(module, StandIn) for module in model.modules())
    torch.testing.assert_close(model["one"](*inputs(before)), expected, **near)


@pytest.mark.parametrize(
    ("plain", "fused"), [(linear, FusedLinear), (conv1d, FusedConv1D)], ids=["linear", "conv1d"]
)
def test_a_chain_takes_p_over_and_merging_leaves_it_standalone(
    plain: Callable[[], nn.Module], fused: type[FusedLinear | FusedConv1D]
) -> None:
    layer = fused.from_plain(plain(), p(IN))
    model = nn.ModuleDict({"down": MPOLinear.from_plain(layer, chain_of(layer))})
    assert torch.equal(multiplicities(model)["down"], p(IN))
    expected = layer(*inputs(layer))
    torch.testing.assert_close(model["down"](*inputs(layer)), expected, **near)
    merge_chains(model)
    assert type(model["down"]) is fused
    assert torch.equal(multiplicities(model)["down"], p(IN))
    torch.testing.assert_close(model["down"](*inputs(layer)), expected, **near)
    fold(model)
    assert type(model["down"]) is type(plain())
    torch.testing.assert_close(model["down"](*inputs(layer)), expected, **near)


def test_a_fused_stack_computes_and_learns_alike_in_every_form() -> None:
    forms = {
        "eager": FusedExperts.from_plain(stack(), p(EXPERTS, IN)),
        "every expert": FusedExperts.from_plain(stack(every_expert_by_name()), p(EXPERTS, IN)),
        "apart": Experts.from_plain(FusedExperts.from_plain(stack(), p(EXPERTS, IN))),
    }
    outputs, gradients = [], []
    for form in forms.values():
        output = form(*inputs(stack()))
        output.square().sum().backward()
        outputs.append(output)
        downs = [form] if isinstance(form, FusedExperts) else form
        gradients.append(
            torch.cat(
                [
                    (
                        one.down_proj if isinstance(one, FusedExperts) else one.down_proj.weight
                    ).grad.reshape(-1, OUT, IN)
                    for one in downs
                ]
            )
        )
    for output, gradient in zip(outputs[1:], gradients[1:], strict=True):
        torch.testing.assert_close(output, outputs[0], **near)
        torch.testing.assert_close(gradient, gradients[0], **near)


def test_a_plain_stack_is_left_as_it_was() -> None:
    plain = stack()
    before = plain(*inputs(plain))
    fused = FusedExperts.from_plain(plain, p(EXPERTS, IN))
    assert fused.down_proj is plain.down_proj
    assert type(plain) is MixtralExperts
    assert "down_proj_multiplicity" not in plain.state_dict()
    assert torch.equal(plain(*inputs(plain)), before)


def test_p_has_a_name_beside_its_weight_and_the_plain_tensor_has_it_folded_in() -> None:
    model = nn.ModuleDict(
        {
            "down": FusedLinear.from_plain(linear(), p(IN)),
            "experts": FusedExperts.from_plain(stack(), p(EXPERTS, IN)),
        }
    )
    state = model.state_dict()
    for weight in ("down.weight", "experts.down_proj"):
        multiplicity = state[multiplicity_name(weight)]
        assert torch.equal(plain_tensor(model, weight), state[weight] * multiplicity)
    assert plain_tensor(model, "experts.gate_up_proj") is model["experts"].gate_up_proj
    assert multiplicities(model).keys() == {"down", "experts.down_proj"}
