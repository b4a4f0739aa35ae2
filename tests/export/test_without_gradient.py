"""What gets no gradient is frozen; what cannot be differentiated or traced is named with places."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedModel

from edgefuse.bundling.plan import plan_ways
from edgefuse.tuning.way import Prepared
from edgefuse.tuning.ways.full import Full
from edgefuse_devices.errors import ModelError
from edgefuse_export.gradient import _joint, gradient_graph
from edgefuse_export.passes.spelled_out import spell_out
from edgefuse_export.trace import trace
from edgefuse_export.without_gradient import freeze_without_gradient
from edgefuse_runtime.graph.masks import FixedMask
from tests.pico_models import HIDDEN_SIZE, WIDTH, pico_model, pico_tokenizer
from tests.tuned_pico import TASK, VOCABULARY

SIZES = {
    "vocab_size": len(pico_tokenizer("bert")),
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}


def classifier(config: transformers.PretrainedConfig) -> PreTrainedModel:
    config.num_labels = 3
    torch.manual_seed(0)
    kind = transformers.AutoModelForSequenceClassification
    return kind.from_config(config, attn_implementation="eager").eval()


def xlnet() -> PreTrainedModel:
    return classifier(
        transformers.XLNetConfig(
            vocab_size=SIZES["vocab_size"],
            d_model=HIDDEN_SIZE,
            n_layer=1,
            n_head=2,
            d_inner=WIDTH,
            pad_token_id=0,
        )
    )


@pytest.mark.parametrize(
    ("model", "unused"),
    [
        (xlnet, ["transformer.mask_emb"]),
        (
            lambda: classifier(transformers.RoFormerConfig(**SIZES, embedding_size=HIDDEN_SIZE)),
            ["roformer.encoder.embed_positions.weight"],
        ),
        (
            lambda: classifier(transformers.BigBirdConfig(**SIZES)),
            ["bert.pooler.weight", "bert.pooler.bias"],
        ),
        (lambda: pico_model("bert", num_labels=3, layers=1), []),
    ],
)
def test_parameters_that_the_loss_does_not_depend_on_are_frozen(
    model: Callable[[], PreTrainedModel], unused: list[str]
) -> None:
    own = model().requires_grad_()
    trained = {name for name, _ in own.named_parameters()}
    found = freeze_without_gradient(TASK, own, vocabulary=VOCABULARY)
    assert set(unused) <= set(found)
    assert {n for n, p in own.named_parameters() if p.requires_grad} == trained - {*found}
    assert all(parameter.grad is None for parameter in own.parameters())
    assert len(found) <= 4


def test_a_plan_counts_what_gets_a_gradient() -> None:
    model = xlnet().requires_grad_()
    (way,) = plan_ways(model, TASK, batch_size=2, sequence_length=8, ways=[Full()])
    unused = freeze_without_gradient(TASK, model, vocabulary=VOCABULARY)
    assert unused
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert way.trained_parameters == trained


class Classifier(nn.Module):
    """A bag of words under a layer to be tried."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, 8)
        self.layers = nn.ModuleList(layers)
        self.head = nn.Linear(8, 3)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> object:
        hidden = self.embedding(input_ids) * attention_mask.unsqueeze(-1)
        for layer in self.layers:
            hidden = layer(hidden)
        return type("Output", (), {"logits": self.head(hidden.mean(1))})


class Layer(nn.Module):
    def __init__(self, compute: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(8))
        self.compute = compute

    def forward(self, hidden: Tensor) -> Tensor:
        return self.compute(hidden * self.scale)


def test_operators_without_a_gradient_are_all_named_with_their_modules() -> None:
    def gamma(hidden: Tensor) -> Tensor:
        return torch.special.gammainc(hidden.abs() + 1, torch.ones_like(hidden))

    def zeta(hidden: Tensor) -> Tensor:
        return torch.special.zeta(hidden.abs() + 2, torch.ones_like(hidden))

    model = Classifier(Layer(gamma), nn.Identity(), Layer(gamma), Layer(zeta))
    with pytest.raises(ModelError, match="has operators without a gradient") as caught:
        freeze_without_gradient(TASK, model, vocabulary=VOCABULARY)
    sentence = str(caught.value)
    assert "gammainc in layers.0, layers.2" in sentence
    assert "zeta in layers.3" in sentence


def test_a_loss_that_depends_on_nothing_that_trains_is_refused() -> None:
    model = xlnet().requires_grad_(requires_grad=False)
    model.transformer.mask_emb.requires_grad_()
    with pytest.raises(ModelError, match=r"depends on nothing that would train: transformer\.mask"):
        freeze_without_gradient(TASK, model, vocabulary=VOCABULARY)


def test_operators_that_no_graph_has_are_all_named_with_their_modules() -> None:
    def pool(hidden: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(hidden, 3, 1, 1)

    def order(hidden: Tensor) -> Tensor:
        return hidden + torch.mode(hidden, dim=-1, keepdim=True).values

    model = Classifier(Layer(pool), Layer(order), Layer(pool))
    program = trace(TASK, model, vocabulary=VOCABULARY)
    with pytest.raises(ModelError, match="something that cannot be exported") as caught:
        gradient_graph(program, TASK.outputs)
    sentence = str(caught.value)
    assert "avg_pool2d_backward.default in layers.0, layers.2" in sentence
    assert "mode.default in layers.1" in sentence


def test_where_tracing_stops_is_named_with_all_modules_like_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    def choose(hidden: Tensor) -> Tensor:
        return hidden if hidden.sum() > 0 else -hidden

    model = Classifier(Layer(torch.tanh), Layer(choose))
    with pytest.raises(ModelError, match=r"cannot be traced: .*\(in layers.0, layers.1\)"):
        trace(TASK, model, vocabulary=VOCABULARY)
    assert capfd.readouterr() == ("", "")


def test_a_model_that_does_not_take_the_inputs_is_refused() -> None:
    class Other(nn.Module):
        def forward(self, pixels: Tensor) -> Tensor:
            return pixels

    with pytest.raises(ModelError, match=r"Other does not compute text-classification: .*argument"):
        freeze_without_gradient(TASK, Other(), vocabulary=VOCABULARY)


def scored(hidden: Tensor) -> Tensor:
    return torch.baddbmm(hidden[:, :, :1], hidden, hidden.mT, beta=0.5, alpha=2) @ hidden


def biased(hidden: Tensor) -> Tensor:
    bias = hidden.sum((0, 1)).expand(8, 8)[None]
    return torch.baddbmm(bias, hidden.mT, hidden).mean(1, keepdim=True) + hidden


def shifted(hidden: Tensor) -> Tensor:
    up = nn.functional.pad(hidden[:, 1:], (0, 0, 0, 1))
    return up + nn.functional.pad(hidden, (1, 2))[..., 1:-2]


def windows(hidden: Tensor) -> Tensor:
    unfolded = nn.functional.unfold(hidden.mT[..., None], kernel_size=[3, 1], padding=[1, 0])
    return unfolded.reshape(hidden.shape[0], 8, 3, -1).square().sum(2).mT


@pytest.mark.parametrize(
    ("compute", "gone"),
    [
        (scored, "baddbmm"),
        (biased, "baddbmm"),
        (lambda hidden: (1 - hidden) * (2.5 - hidden.long()), "rsub"),
        (shifted, "pad"),
        (windows, "im2col"),
    ],
)
def test_what_is_spelled_out_gives_the_same_and_keeps_its_sizes_free(
    compute: Callable[[Tensor], Tensor], gone: str
) -> None:
    model = Classifier(Layer(compute))
    batch = (
        torch.arange(10).reshape(2, 5),
        torch.ones(2, 5, dtype=torch.int64),
        torch.tensor([0, 2]),
    )
    expected = TASK.loss(model)(*batch)
    program = trace(TASK, model, vocabulary=VOCABULARY)
    assert not [node for node in program.graph.nodes if f".{gone}." in str(node.target)]
    torch.testing.assert_close(program.module()(*batch), expected)
    assert spell_out(program.graph_module) == 0
    joint, _ = _joint(program)
    rows = [n.meta["val"].shape[0] for n in joint.graph.nodes if n.name == "embedding"]
    assert not any(isinstance(size, int) for size in rows)


def test_what_gets_no_gradient_is_masked_by_nothing() -> None:
    names = ["transformer.mask_emb", "classifier.weight"]
    kept = {name: np.ones(2, bool) for name in names}
    rates = dict.fromkeys(names, 2.0)
    left = Prepared(mask=FixedMask(parameters=names), kept=kept, rates=rates).without(names[:1])
    assert left.mask == FixedMask(parameters=names[1:])
    assert [*left.kept] == [*left.rates] == names[1:]
    assert left.without(names).mask is None
