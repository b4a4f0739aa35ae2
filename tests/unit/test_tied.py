"""Shared weights that one module holds compute, train and copy as they did."""

import copy

import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.hub.copies import share, with_tensors
from edgefuse.layers.tied import hold_once
from tests.pico_models import pico_model

INPUTS = {
    "input_ids": torch.tensor([[5, 9, 7], [8, 6, 3]]),
    "decoder_input_ids": torch.tensor([[0, 11, 5], [0, 9, 9]]),
}


def logits(model: PreTrainedModel) -> Tensor:
    result: Tensor = model(**INPUTS).logits
    return result


def language_model(kind: str) -> PreTrainedModel:
    return pico_model(kind, auto_class="AutoModelForSeq2SeqLM", layers=1)


@pytest.mark.parametrize("kind", ["t5", "bart", "switch_transformers"])
def test_each_weight_has_one_name_and_one_gradient(kind: str) -> None:
    whole = language_model(kind)
    model = copy.deepcopy(whole)
    assert len(hold_once(model)) == 3  # both stacks' tables, and the head
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    assert names == [name for name, _ in whole.named_parameters()]
    assert set(model.state_dict()) == set(names) | {name for name, _ in whole.named_buffers()}
    torch.testing.assert_close(logits(model), logits(whole), rtol=0, atol=0)
    for one in (model, whole):
        logits(one).square().mean().backward()
    for name, parameter in whole.named_parameters():
        grad = model.get_parameter(name).grad
        assert (grad is None) == (parameter.grad is None), name
        if grad is not None:
            torch.testing.assert_close(grad, parameter.grad, rtol=0, atol=0)


def test_weights_that_are_not_shared_stay_where_they_are() -> None:
    model = language_model("t5")
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 1)
    before = logits(model)
    assert hold_once(model) == ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]
    assert hold_once(model) == []
    torch.testing.assert_close(logits(model), before, rtol=0, atol=0)


def test_copies_share_among_themselves_and_not_with_the_model() -> None:
    model = language_model("t5")
    hold_once(model)
    assert share(model).lm_head.weight is model.shared.weight
    other = with_tensors(model, torch.zeros_like)
    assert other.lm_head.weight is other.shared.weight
    assert not logits(other).any()
    assert logits(model).any()
