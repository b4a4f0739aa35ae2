"""Every kind of MLP is found once, fuses exactly, learns alike, and survives saving."""

import copy
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor, nn

import edgefuse
from edgefuse.artifact.record import (
    RECORD,
    SCHEMA_VERSION,
    CompressionRecord,
    LayerRecord,
    read_record,
)
from edgefuse.artifact.save import save_compressed
from edgefuse.artifact.widths import even_widths
from edgefuse.bundling.fused import fused_mlps
from edgefuse.compression.catalog import find_method
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.plan import plan_layers
from edgefuse.compression.recipe import Recipe
from edgefuse.hub.silence import silence_transformers
from edgefuse.mlps.file_layouts import stored_layouts
from edgefuse.mlps.inputs import watch_inputs
from edgefuse.mlps.install import install
from edgefuse.mlps.layout import write_neurons
from edgefuse.mlps.mlp import MLP, find_mlps
from edgefuse.mlps.neurons import FusedNeurons, Neurons
from edgefuse.mlps.verify import verify
from edgefuse_devices.errors import InputError, ModelError
from tests.pico_models import (
    ALL_KINDS,
    ENCODER_DECODERS,
    EXPERTS,
    GATED,
    HIDDEN_SIZE,
    LAYERS,
    MIXTURES,
    TEXTS,
    WIDTH,
    duplicate_neurons,
    parameters,
    pico_tokenizer,
)
from tests.pico_models import (
    pico_model as make_pico_model,
)

EVERY_KIND = pytest.mark.parametrize("kind", ALL_KINDS)
SIZES = [9, 7, 5, 4, 3, 2, 1, 1]

MLPS = dict.fromkeys(ALL_KINDS, LAYERS) | {
    "albert": 1,
    "t5": 2 * LAYERS,
    "t5-gated": 2 * LAYERS,
    "bart": 2 * LAYERS,
    # An encoder and a decoder; of each one layer is a mixture
    "switch_transformers": 2 * (LAYERS - 1 + EXPERTS),
    "mixtral": LAYERS * EXPERTS,
    "qwen2_moe": (LAYERS - 1) * (EXPERTS + 1) + 1,  # a shared expert beside; one dense layer
    "qwen3_moe": LAYERS * EXPERTS,
    "olmoe": LAYERS * EXPERTS,
}


def batch(kind: str) -> dict[str, Tensor]:
    inputs = dict(pico_tokenizer("distilbert")(list(TEXTS), padding=True, return_tensors="pt"))
    if kind in ENCODER_DECODERS:
        inputs["decoder_input_ids"] = inputs["input_ids"][:, :4]
    return inputs


def hidden_states(model: nn.Module, kind: str) -> Tensor:
    inputs = batch(kind)
    hidden = model(**inputs).last_hidden_state
    return hidden if kind in ENCODER_DECODERS else hidden[inputs["attention_mask"].bool()]


def distance(a: nn.Module, b: nn.Module, kind: str) -> float:
    with torch.no_grad():
        return float((hidden_states(a, kind) - hidden_states(b, kind)).abs().max())


def fuse(model: nn.Module, **request: object) -> CompressionRecord:
    """Fuse in place, by whatever means, and tell as `compress` would."""
    plans = plan_layers(find_mlps(model), **request)
    mlps = {(mlp.layer, mlp.expert): mlp for mlp in find_mlps(model)}
    chosen = [mlps[plan.layer, plan.expert] for plan in plans]
    before = sum(parameter.numel() for parameter in model.parameters())
    widths = {(plan.layer, plan.expert): plan.width_after for plan in plans}
    even = even_widths(model, [widths.get(key, mlp.width) for key, mlp in mlps.items()])
    fused = [
        merge(m.layer_view().neurons, p.width_after) for m, p in zip(chosen, plans, strict=True)
    ]
    install(chosen, fused)
    return CompressionRecord(
        method="merge",
        paper="none",
        source="pico",
        architecture=type(model).__name__,
        seed=0,
        even=even is not None,
        parameters_before=before,
        parameters_after=sum(parameter.numel() for parameter in model.parameters()),
        layers=[
            LayerRecord(**vars(plan), multiplicities=one.multiplicity.tolist())
            for plan, one in zip(plans, fused, strict=True)
        ],
    )


def merge(neurons: Neurons, width: int) -> FusedNeurons:
    """Merge the neurons that are equal, and then any, until `width` are left."""
    points = torch.cat([neurons.rows(), neurons.down.T], dim=1).double()
    _, labels = points.unique(dim=0, return_inverse=True)
    members = torch.nn.functional.one_hot(labels % width, width).double()
    sizes = members.sum(dim=0)
    means = (members.T @ points / sizes.clamp(min=1)[:, None]).float()
    rows = neurons.rows().shape[1]
    return FusedNeurons(neurons.with_rows(means[:, :rows], means[:, rows:].T), sizes.float())


def train(model: nn.Module, kind: str) -> None:
    model.requires_grad_(requires_grad=True)
    # Adam's eps is all that P changes, and tells where gradients are small.
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3, eps=1e-14)
    target = torch.randn(hidden_states(model, kind).shape, generator=torch.manual_seed(5))
    for _ in range(10):
        optimizer.zero_grad()
        (hidden_states(model, kind) - target).square().sum(-1).mean().backward()
        optimizer.step()


@EVERY_KIND
def test_every_mlp_is_found_once_and_no_attention(kind: str) -> None:
    model = make_pico_model(kind)
    mlps = find_mlps(model)
    assert len(mlps) == MLPS[kind]
    assert len({(mlp.layer, mlp.expert) for mlp in mlps}) == len({mlp.name for mlp in mlps})
    assert sorted({mlp.layer for mlp in mlps}) == list(range(max(m.layer for m in mlps) + 1))
    assert {mlp.gated for mlp in mlps} == {kind in (*GATED, *MIXTURES[1:])}
    assert {mlp.hidden_size for mlp in mlps} == {HIDDEN_SIZE}
    assert not any("attention" in mlp.layout.up.name for mlp in mlps)
    for mlp in mlps:
        layer = mlp.layer_view()
        assert layer.neurons.up.shape == (mlp.width, HIDDEN_SIZE)
        assert layer.neurons.down.shape == (HIDDEN_SIZE, mlp.width)
    verify(model, mlps)


@EVERY_KIND
def test_the_description_of_an_empty_model_reads_the_weights_of_a_full_one(kind: str) -> None:
    model = make_pico_model(kind)
    with torch.device("meta"):
        empty = type(model)(model.config)
    tensors = model.state_dict()
    for mlp, described in zip(find_mlps(model), find_mlps(empty), strict=True):
        assert described.layout == mlp.layout
        ours, theirs = described.read(tensors.__getitem__), mlp.layer_view()
        assert torch.equal(ours.neurons.rows(), theirs.neurons.rows())
        assert torch.equal(ours.neurons.down, theirs.neurons.down)


@EVERY_KIND
def test_files_are_read_and_written_without_the_model(
    kind: str, pico_model: Callable[..., Path]
) -> None:
    model = make_pico_model(kind)
    with torch.device("meta"):
        mlps = find_mlps(type(model)(model.config))
    tensors = load_file(pico_model(kind) / "model.safetensors")
    layouts = stored_layouts(mlps, tensors.keys())
    stored = [replace(mlp, layout=one) for mlp, one in zip(mlps, layouts, strict=True)]
    views = [mlp.read(tensors.__getitem__) for mlp in stored]
    for ours, theirs in zip(views, find_mlps(model), strict=True):
        assert torch.equal(ours.neurons.rows(), theirs.layer_view().neurons.rows())
        assert torch.equal(ours.neurons.down, theirs.layer_view().neurons.down)
    same = [FusedNeurons(view.neurons, torch.ones(view.neurons.width)) for view in views]
    written = write_neurons(layouts, same, folded=True)
    assert len(written) >= 2
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in written.items())


def test_files_may_name_the_model_under_its_head_without_a_prefix() -> None:
    config = make_pico_model("gpt2").config
    with torch.device("meta"):
        mlps = find_mlps(transformers.GPT2LMHeadModel(config))
    names = make_pico_model("gpt2").state_dict().keys()
    assert stored_layouts(mlps, names) == [mlp.layout for mlp in find_mlps(make_pico_model("gpt2"))]
    with pytest.raises(ModelError, match=r"files lack the tensor transformer.h.0.mlp.c_fc.bias"):
        stored_layouts(mlps, [])


@EVERY_KIND
def test_what_is_read_is_written_back_as_it_was(kind: str) -> None:
    model = make_pico_model(kind)
    mlps = find_mlps(model)
    same = [FusedNeurons(mlp.layer_view().neurons, torch.ones(mlp.width)) for mlp in mlps]
    tensors = model.state_dict()
    written = write_neurons([mlp.layout for mlp in mlps], same, folded=True)
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in written.items())
    assert len(written) >= 2


@EVERY_KIND
def test_duplicated_neurons_fuse_exactly_and_learn_alike_under_adam(kind: str) -> None:
    original = make_pico_model(kind)
    duplicate_neurons(original, SIZES)
    original.double()
    original.config._experts_implementation = "eager"  # the other takes no float64
    fused = copy.deepcopy(original)
    fuse(fused, width=len(SIZES))
    for multiplicity in edgefuse.multiplicities(fused).values():
        assert multiplicity.shape[-1] == len(SIZES)
        assert (multiplicity > 0).all()
        assert (multiplicity.sum(-1) >= WIDTH).all()
    assert distance(original, fused, kind) < 1e-6
    start = copy.deepcopy(original)
    train(original, kind)
    train(fused, kind)
    assert distance(original, start, kind) > 1e-3  # they did move
    assert distance(original, fused, kind) < 1e-6


@EVERY_KIND
def test_the_published_method_finds_the_duplicates(kind: str) -> None:
    original = make_pico_model(kind)
    duplicate_neurons(original, SIZES)
    fused = copy.deepcopy(original)
    recipe = Recipe(find_method("published"), refits=False, teaches=False, seed=0)
    records = fuse_model(fused, plan_layers(find_mlps(fused), width=len(SIZES)), recipe)
    for record in records:
        assert len(record.multiplicities) == len(SIZES)
        assert sum(record.multiplicities) == record.width_before
    assert distance(original, fused, kind) < 1e-5


@EVERY_KIND
def test_every_stage_runs_on_every_kind_and_plain_transformers_loads_what_it_made(
    kind: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join(f"{text} {more}" for text in TEXTS for more in ("now", "less")))
    record = compress(str(pico_model(kind)), tmp_path / "fused", ratio=0.25, tune_text=texts)
    assert (record.refitted, record.tuned, record.even) == (True, True, True)
    errors = [layer.output_error for layer in record.layers]
    assert len([error for error in errors if error is not None]) >= len(errors) / EXPERTS
    ours = edgefuse.from_pretrained(tmp_path / "fused")
    with silence_transformers():
        theirs = transformers.AutoModel.from_pretrained(tmp_path / "fused")
    assert distance(ours, theirs, kind) < 1e-5
    assert distance(ours, make_pico_model(kind), kind) > 1e-3


@EVERY_KIND
def test_the_folded_form_computes_what_the_trainable_one_does(kind: str) -> None:
    model = make_pico_model(kind)
    unfused = copy.deepcopy(model)
    fuse(model)
    assert distance(unfused, model, kind) > 1e-3
    folded = copy.deepcopy(model)
    edgefuse.fold(folded)
    assert edgefuse.multiplicities(folded) == {}
    assert distance(model, folded, kind) < 1e-5
    assert folded.state_dict().keys() == unfused.state_dict().keys()
    for ours, theirs in zip(find_mlps(model), find_mlps(folded), strict=True):
        assert ours.width == theirs.width
        torch.testing.assert_close(ours.layer_view().neurons.down, theirs.layer_view().neurons.down)


@EVERY_KIND
def test_what_trains_is_every_matrix_and_bias_and_no_multiplicity(kind: str) -> None:
    model = make_pico_model(kind)
    before = sum(parameter.numel() for parameter in model.parameters())
    plans = plan_layers(find_mlps(model))
    fuse(model)
    training = parameters(find_mlps(model))
    assert sum(parameter.numel() for parameter in training) == sum(
        plan.parameters_after for plan in plans
    )
    assert {id(p) for p in training} <= {id(p) for p in model.parameters()}
    assert sum(p.numel() for p in model.parameters()) == before - sum(
        plan.parameters_before - plan.parameters_after for plan in plans
    )


@EVERY_KIND
def test_plain_transformers_and_edgefuse_load_even_widths_with_the_same_outputs(
    kind: str, tmp_path: Path
) -> None:
    model = make_pico_model(kind)
    before = {mlp.width for mlp in find_mlps(model)}
    record = fuse(model)
    assert record.even
    save_compressed(tmp_path, model, None, record)
    ours = edgefuse.from_pretrained(tmp_path)
    with silence_transformers():
        theirs = transformers.AutoModel.from_pretrained(tmp_path)
    assert {mlp.width * 4 for mlp in find_mlps(theirs)} == before
    assert edgefuse.multiplicities(ours).keys() == edgefuse.multiplicities(model).keys()
    for name, multiplicity in edgefuse.multiplicities(ours).items():
        assert torch.equal(multiplicity, edgefuse.multiplicities(model)[name])
    assert distance(ours, theirs, kind) < 1e-5
    assert distance(ours, model, kind) < 1e-5


@EVERY_KIND
@pytest.mark.parametrize("width", [5, 1])
def test_uneven_widths_round_trip(kind: str, width: int, tmp_path: Path) -> None:
    model = make_pico_model(kind)
    layer = 0 if kind == "albert" else 1
    if any(mlp.stack and mlp.layer == layer for mlp in find_mlps(model)):
        width = {5: 24, 1: 8}[width]
    record = fuse(model, layers=str(layer), width=width)
    assert record.even == (kind in ("albert", "qwen2_moe"))  # the latter's layer 1 is dense
    save_compressed(tmp_path, model, None, record)
    found = edgefuse.from_pretrained(tmp_path)
    assert type(found) is type(model)
    assert [mlp.width for mlp in find_mlps(found)] == [mlp.width for mlp in find_mlps(model)]
    assert {mlp.width for mlp in find_mlps(found) if mlp.layer == layer} == {width}
    assert distance(found, model, kind) < 1e-5


@EVERY_KIND
def test_every_kind_is_compressed_from_one_directory_into_another(
    kind: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    plan = plan_compression(str(pico_model(kind)), ratio=0.5)
    record = compress(str(pico_model(kind)), tmp_path / "fused", ratio=0.5)
    assert len(record.layers) == MLPS[kind]
    model = edgefuse.from_pretrained(tmp_path / "fused")
    assert sum(parameter.numel() for parameter in model.parameters()) == record.parameters_after
    assert record.parameters_after == plan.parameters_after
    assert distance(model, make_pico_model(kind), kind) > 1e-3


@EVERY_KIND
def test_an_mlps_inputs_are_the_tokens_that_reach_it_and_are_no_padding(kind: str) -> None:
    model, inputs = make_pico_model(kind), batch(kind)
    seen: Counter[tuple[int, int | None]] = Counter()
    names: dict[tuple[int, int | None], str] = {}

    def see(mlp: MLP, x: Tensor) -> None:
        assert x.shape[1] == HIDDEN_SIZE
        assert len(x) > 0
        seen[mlp.layer, mlp.expert is None] += len(x)
        names[mlp.layer, mlp.expert is None] = mlp.name

    with watch_inputs(find_mlps(model), see), torch.no_grad():
        model(**inputs)
    tokens = int(inputs["attention_mask"].sum())
    decoded = inputs["decoder_input_ids"].numel() if kind in ENCODER_DECODERS else 0
    for (layer, for_all), count in seen.items():
        passes = LAYERS if kind == "albert" else 1
        sent = 1 if for_all or kind == "switch_transformers" else 2  # experts of each token
        in_decoder = kind in ENCODER_DECODERS and names[layer, for_all].startswith("decoder.")
        assert count == (decoded if in_decoder else tokens) * passes * sent
    assert {layer for layer, _ in seen} == {mlp.layer for mlp in find_mlps(model)}


def test_experts_that_are_called_one_by_one_show_what_they_are_called_with() -> None:
    class Layer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            expert = make_pico_model("llama").layers[0].mlp
            self.experts = nn.ModuleList([expert, copy.deepcopy(expert)])

        def forward(self, x: Tensor) -> Tensor:
            return self.experts[1](x[:3])

    model, seen = Layer(), []
    mlps = find_mlps(model)
    with watch_inputs(mlps, lambda mlp, x: seen.append((mlp.expert, x.shape))):
        model(torch.ones(5, HIDDEN_SIZE))
    assert [(mlp.layer, mlp.expert) for mlp in mlps] == [(0, 0), (0, 1)]
    assert seen == [(1, (3, HIDDEN_SIZE))]


@EVERY_KIND
def test_a_weight_that_is_no_number_is_refused_with_the_layers_name(kind: str) -> None:
    model = make_pico_model(kind)
    mlp = find_mlps(model)[-1]
    with torch.no_grad():
        model.get_parameter(mlp.layout.down.name).view(-1)[-1] = torch.inf
    with pytest.raises(ModelError) as caught:
        fuse(model)
    assert mlp.name in str(caught.value)
    assert mlp.layout.down.name in str(caught.value)


def test_names_say_which_layer_and_which_expert() -> None:
    mlps = find_mlps(make_pico_model("qwen2_moe"))
    assert [(mlp.layer, mlp.expert, mlp.name) for mlp in mlps if mlp.layer < 2] == [
        *((0, expert, f"layers.0.mlp.experts[{expert}]") for expert in range(EXPERTS)),
        (0, None, "layers.0.mlp.shared_expert"),
        (1, None, "layers.1.mlp"),
    ]
    mlps = find_mlps(make_pico_model("switch_transformers"))
    assert [mlp.expert for mlp in mlps if "experts" in mlp.name] == 2 * list(range(EXPERTS))


def test_an_output_bias_takes_the_place_of_the_old_and_is_saved(tmp_path: Path) -> None:
    kind = "gpt2"
    record = fuse(make_pico_model(kind), ratio=1)
    model = make_pico_model(kind)
    unfused = copy.deepcopy(model)
    mlps = find_mlps(model)
    biases = [torch.full((HIDDEN_SIZE,), 0.5 + mlp.layer) for mlp in mlps]
    install(
        mlps,
        [
            FusedNeurons(mlp.layer_view().neurons, torch.ones(mlp.width), bias)
            for mlp, bias in zip(mlps, biases, strict=True)
        ],
    )
    assert distance(model, unfused, kind) > 1e-3
    save_compressed(tmp_path, model, None, record)
    found = edgefuse.from_pretrained(tmp_path)
    for mlp, bias in zip(find_mlps(found), biases, strict=True):
        assert torch.equal(mlp.layer_view().bias, bias)


@pytest.mark.parametrize(
    ("kind", "auto"),
    [
        ("t5", transformers.AutoModelForSeq2SeqLM),
        ("gpt2", transformers.AutoModelForCausalLM),
        ("mixtral", transformers.AutoModelForCausalLM),
        ("albert", transformers.AutoModelForMaskedLM),
    ],
)
def test_tied_embeddings_stay_tied_in_uneven_models(
    kind: str,
    auto: type,
    tmp_path: Path,
) -> None:
    config = make_pico_model(kind).config
    config.tie_word_embeddings = True
    fused = auto.from_config(config)
    save_compressed(tmp_path, fused, None, fuse(fused, layers="0", width=8))
    model = edgefuse.from_pretrained(tmp_path, auto)
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_widths_that_follow_one_entry_of_the_configuration_are_even_only_if_equal() -> None:
    model = make_pico_model("qwen2_moe")
    mlps = find_mlps(model)
    by_width = {64: 16, 40: 3, 32: 8}
    assert even_widths(model, [by_width[mlp.width] for mlp in mlps]) == {
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 3,
        "intermediate_size": 8,
    }
    assert even_widths(model, [mlp.width for mlp in mlps]) == {}
    assert even_widths(model, [8 + (mlp.layer == 0) for mlp in mlps]) is None
    gpt2 = make_pico_model("gpt2")
    assert even_widths(gpt2, [9] * LAYERS) == {"n_inner": 9}


def test_a_norm_between_the_projections_is_found_out() -> None:
    model = make_pico_model("llama")
    down = model.layers[1].mlp.down_proj
    down.register_forward_hook(lambda _module, _args, output: output.tanh())
    with pytest.raises(ModelError, match=r"layers.1.mlp is built like an MLP and computes some"):
        verify(model, find_mlps(model))
    model = make_pico_model("mixtral")
    experts = model.layers[2].mlp.experts
    experts.register_forward_hook(lambda _module, _args, output: output.tanh())
    with pytest.raises(ModelError, match=r"layers.2.mlp.experts\[0\] is built like"):
        verify(model, find_mlps(model))
    model = make_pico_model("llama")
    down = model.layers[1].mlp.down_proj
    down.register_forward_hook(lambda _module, _args, output: output * float("nan"))
    with pytest.raises(ModelError, match=r"layers.1.mlp is built like an MLP"):
        verify(model, find_mlps(model))


def test_a_model_without_mlps_that_we_know_is_refused() -> None:
    config = transformers.MambaConfig(hidden_size=8, num_hidden_layers=1, vocab_size=10)
    with pytest.raises(ModelError, match="MambaModel has no MLP that EdgeFuse knows"):
        find_mlps(transformers.AutoModel.from_config(config))


def test_widths_of_stacked_experts_are_aligned() -> None:
    mlps = find_mlps(make_pico_model("mixtral"))
    assert {plan.width_after for plan in plan_layers(mlps, ratio=0.4)} == {16}  # 12.8
    assert {plan.width_after for plan in plan_layers(mlps, ratio=0.04)} == {8}  # 1.28
    with pytest.raises(InputError, match=r"ratio of 0.01 leaves nothing"):
        plan_layers(mlps, ratio=0.01)
    with pytest.raises(ModelError, match=r"width of 5 does not suit layers.0.mlp.experts\[0\]"):
        plan_layers(mlps, width=5)


def test_folding_a_copy_leaves_the_original_as_it_was() -> None:
    for kind in ("gpt2", "mixtral"):
        model = make_pico_model(kind)
        fuse(model)
        copies = [copy.deepcopy(model), copy.deepcopy(model)]
        for one in copies:
            edgefuse.fold(one)
            assert distance(one, model, kind) < 1e-5
        assert len(edgefuse.multiplicities(model)) == LAYERS


@EVERY_KIND
def test_export_knows_where_neurons_lie(kind: str) -> None:
    model = make_pico_model(kind)
    assert fused_mlps(model) == []
    fuse(model)
    multiplicities = edgefuse.multiplicities(model)
    tensors = model.state_dict()
    names = fused_mlps(model)
    assert len(names) == len({mlp.layout.down.name for mlp in find_mlps(model)})
    for one in names:
        own = multiplicities[one.down_weight.removesuffix(".weight")]
        assert torch.equal(tensors[one.multiplicity].squeeze(), own)
        *experts, k = tensors[one.multiplicity].squeeze().shape
        assert one.down_weight in one.neuron_axes
        for name, axis in one.neuron_axes.items():
            shape = list(tensors[name].shape)
            assert shape.pop(axis) in {k, 2 * k}
            assert shape in (experts, [*experts, HIDDEN_SIZE])


def test_a_record_of_the_first_schema_is_read(tmp_path: Path) -> None:
    model = make_pico_model("bert")
    record = fuse(model, layers="1")
    save_compressed(tmp_path, model, None, record)
    raw = json.loads((tmp_path / RECORD).read_text()) | {"schema_version": 1}
    for layer in raw["layers"]:
        name = layer.pop("name")
        layer |= {"up": f"{name}.intermediate.dense", "down": f"{name}.output.dense"}
        layer["cluster_sizes"] = [int(size) for size in layer.pop("multiplicities")]
        del layer["expert"], layer["kind"]
    (tmp_path / RECORD).write_text(json.dumps(raw))
    assert read_record(tmp_path) == record
    assert record.schema_version == SCHEMA_VERSION
    assert len(edgefuse.multiplicities(edgefuse.from_pretrained(tmp_path))) == 1

    for layers in ([3], [{"up": 3}], "x"):
        (tmp_path / RECORD).write_text(json.dumps(raw | {"layers": layers}))
        with pytest.raises(ModelError, match="cannot be read"):
            read_record(tmp_path)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda raw: raw.replace(b'"schema_version": 4', b'"schema_version": 1'), "cannot be read"),
        (lambda raw: raw.replace(b'"schema_version": 4', b'"schema_version": 9'), "newer EdgeFuse"),
        (
            lambda raw: raw.replace(b'"schema_version": 4', b'"schema_version": 3').replace(
                b'"fused"', b'"low-rank"'
            ),
            "older EdgeFuse, which stored its matrices otherwise",
        ),
        (lambda raw: raw.replace(b'"layers": [', b'"layers": [3, '), "cannot be read"),
        (lambda raw: raw.replace(b"merge", b"m\xff"), "cannot be read"),
        (lambda raw: raw[:50], "cannot be read"),
    ],
)
def test_a_record_that_this_edgefuse_cannot_read_is_refused(
    change: Callable[[bytes], bytes], match: str, tmp_path: Path
) -> None:
    model = make_pico_model("bert")
    record = fuse(model, layers="1")
    save_compressed(tmp_path, model, None, record)
    assert read_record(tmp_path) == record
    raw = (tmp_path / RECORD).read_bytes()
    assert change(raw) != raw
    (tmp_path / RECORD).write_bytes(change(raw))
    with pytest.raises(ModelError, match=match):
        read_record(tmp_path)
