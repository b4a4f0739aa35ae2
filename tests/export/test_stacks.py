"""A model in parts: its layers called alone give what they give in the model; like ones are one."""

from collections.abc import Sequence
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.tuning.ways import find_way
from edgefuse_export.stacks.calls import Stack, leave
from edgefuse_export.stacks.find import entered, find_stack
from edgefuse_export.stacks.kinds import kinds_of
from edgefuse_export.tasks.task import ExportTask
from edgefuse_export.tasks.text_generation import TextGenerationExport
from edgefuse_export.trace import example
from edgefuse_runtime.tasks.text_generation import TextGeneration
from tests.pico_models import pico_config, pico_model
from tests.tuned_pico import CONTEXT, TASK, VOCABULARY

GENERATION = TextGenerationExport(TextGeneration(end_id=3, stop_ids=[3]))

ENCODERS = ("bert", "electra", "distilbert", "modernbert", "deberta", "deberta-v2", "mpnet")
DECODERS = ("llama", "gpt2", "opt", "gpt_neox", "gemma3_text", "smollm3", "qwen2_moe", "mixtral")


@cache
def model_of(kind: str, layers: int = 3, way: str = "") -> PreTrainedModel:
    auto = "AutoModelForCausalLM" if kind in DECODERS else "AutoModel"
    labels = None if kind in DECODERS and not way else 3
    model = pico_model(kind, num_labels=labels, auto_class=auto, layers=layers)
    model.set_attn_implementation("eager")
    if way:
        find_way(way).prepare(model, CONTEXT)
    return model


def task_of(kind: str, way: str = "") -> ExportTask:
    return GENERATION if kind in DECODERS and not way else TASK


def stack_of(task: ExportTask, model: nn.Module) -> Stack:
    stack = find_stack(task, model, vocabulary=VOCABULARY)
    assert isinstance(stack, Stack), stack
    return stack


def batch_of(task: ExportTask) -> list[Tensor]:
    return [*example(task, (3, 9), vocabulary=VOCABULARY).values()]


def kinds(task: ExportTask, model: nn.Module, learning: Sequence[bool] | None = None) -> list[int]:
    stack = stack_of(task, model)
    entrance = entered(task, model, stack, batch_of(task))
    differentiated = learning or [True] * len(stack.layers)
    forms = [()] * len(stack.layers)
    return kinds_of(stack.layers, entrance, differentiated=differentiated, forms=forms)


@pytest.mark.parametrize(
    ("kind", "way"),
    [
        *((kind, "") for kind in (*ENCODERS, *DECODERS)),
        ("bert", "prefix"),
        ("gpt2", "prefix"),
        ("llama", "prefix"),
        ("llama", "lora"),
        ("mpt", "prefix"),
        ("falcon", "prefix"),
    ],
)
def test_layers_called_one_by_one_compute_the_model(kind: str, way: str) -> None:
    task, model = task_of(kind, way), model_of(kind, way=way)
    stack, batch, loss = stack_of(task, model), batch_of(task), task.loss(model)
    entrance = entered(task, model, stack, batch)
    hidden = entrance.hidden
    for index, layer in enumerate(stack.layers):
        hidden = entrance.calls[index].of(layer, hidden, entrance.of_layer(index))
    torch.testing.assert_close(leave(loss, stack, hidden, batch), loss(*batch))


def test_gradients_reach_what_layers_share() -> None:
    model = model_of("deberta-v2")
    entrance = entered(TASK, model, stack_of(TASK, model), batch_of(TASK))
    shared = [context for context in entrance.contexts if context.requires_grad]
    assert [context.shape[-1] for context in shared] == [model.config.hidden_size]


def test_of_prefixes_every_layer_takes_its_own() -> None:
    model = model_of("llama", way="prefix")
    entrance = entered(TASK, model, stack_of(TASK, model), batch_of(TASK))
    own = [
        {place for place in places if entrance.contexts[place].requires_grad}
        for places in entrance.places
    ]
    assert [len(places) for places in own] == [2, 2, 2]
    assert len(set.union(*own)) == 6
    assert kinds(TASK, model) == [0, 0, 0]


def test_local_and_global_attention_are_a_kind_each() -> None:
    config = pico_config("gemma3_text")
    config.num_hidden_layers, config.layer_types = 6, [*["sliding_attention"] * 5, "full_attention"]
    model = type(model_of("gemma3_text"))._from_config(config).eval()
    assert kinds(GENERATION, model) == [0, 0, 0, 0, 0, 1]


def test_a_layer_without_positions_is_a_kind_of_its_own() -> None:
    assert kinds(GENERATION, model_of("smollm3")) == [0, 1, 0]


def test_experts_and_dense_layers_are_a_kind_each() -> None:
    assert kinds(GENERATION, model_of("qwen2_moe")) == [0, 1, 0]


def test_depth_makes_no_further_kinds() -> None:
    for depth in (6, 24):
        found = kinds(GENERATION, model_of("llama", depth), [n > 0 for n in range(depth)])
        assert found == [0, *[1] * (depth - 1)], "the lowest needs no gradient of its input"


def test_what_trains_makes_a_kind() -> None:
    model = pico_model("llama", auto_class="AutoModelForCausalLM")
    model.model.layers[1].mlp.requires_grad_(False)
    assert kinds(GENERATION, model) == [0, 1, 0]


def test_attention_that_is_scaled_by_its_place_is_a_kind_of_its_own() -> None:
    config = pico_config("gpt2")
    config.scale_attn_by_inverse_layer_idx = True
    model = type(model_of("gpt2"))._from_config(config).eval()
    assert kinds(GENERATION, model) == [0, 1, 2]


class Block(nn.Module):
    """A layer that may compute something of its place."""

    def __init__(self, place: int, reads: bool) -> None:
        super().__init__()
        self.layer_idx, self.reads = place, reads
        self.linear = nn.Linear(4, 4)

    def forward(self, hidden: Tensor) -> Tensor:
        made: Tensor = self.linear(hidden)
        return made / (self.layer_idx + 1) if self.reads else made


class Toy(nn.Module):
    """A language model whose layers are called as a test wants it."""

    def __init__(self, call: Any, *, reads: bool = False) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 4)
        self.layers = nn.ModuleList([Block(place, reads) for place in range(3)])
        self.call = call

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> SimpleNamespace:
        hidden = self.call(self.layers, self.embedding(input_ids))
        return SimpleNamespace(logits=hidden @ self.embedding.weight.T)


def in_turn(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    for layer in layers:
        hidden = layer(hidden)
    return hidden


@pytest.mark.parametrize(("reads", "expected"), [(False, [0, 0, 0]), (True, [0, 1, 2])])
def test_a_place_makes_a_kind_only_where_it_is_computed_with(
    reads: bool, expected: list[int]
) -> None:
    model = Toy(in_turn, reads=reads)
    assert kinds(GENERATION, model) == expected
    assert [layer.layer_idx for layer in model.layers] == [0, 1, 2]


def halved(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    for layer in layers:
        hidden = layer(hidden) / 2
    return hidden


def backwards(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    return in_turn([*layers][::-1], hidden)


def twice(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    return in_turn(layers, in_turn(layers, hidden))


def in_part(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    return in_turn([*layers][:2], hidden)


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (halved, "something is computed between its layers"),
        (backwards, "its layers are not called each once, one after the other"),
        (in_part, "its layers are not called each once, one after the other"),
        (lambda _, hidden: hidden, "its layers are not called"),
        (twice, "its layers are gone through more than once"),
    ],
)
def test_layers_that_do_not_follow_each_other_are_no_stack(call: Any, reason: str) -> None:
    assert find_stack(GENERATION, Toy(call), vocabulary=VOCABULARY) == reason


class Sized(Block):
    """A layer that is told a length, and would compute it wrongly of other batches."""

    def forward(self, hidden: Tensor, length: int) -> Tensor:
        made: Tensor = self.linear(hidden) / length
        return made


def sized(layers: Sequence[nn.Module], hidden: Tensor) -> Tensor:
    for layer in layers:
        hidden = layer(hidden, hidden.shape[1])
    return hidden


def test_layers_that_are_given_sizes_are_no_stack() -> None:
    model = Toy(sized)
    model.layers = nn.ModuleList([Sized(place, reads=False) for place in range(3)])
    found = find_stack(GENERATION, model, vocabulary=VOCABULARY)
    assert found == "its layers are given sizes of the batch as numbers"


def test_layers_that_share_a_matrix_are_no_stack() -> None:
    model = Toy(in_turn)
    model.layers[2].linear.weight = model.layers[0].linear.weight
    assert find_stack(GENERATION, model, vocabulary=VOCABULARY) == "its layers share tensors"


def test_one_group_of_layers_is_no_stack() -> None:
    assert find_stack(TASK, model_of("albert"), vocabulary=VOCABULARY) == "it has no list of layers"
