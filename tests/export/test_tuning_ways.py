"""Every way of tuning trains what it says, with torch's gradients, and leaves the rest alone."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
import torch
import transformers
from safetensors.numpy import load_file

from edgefuse.bundling.export import export
from edgefuse.tuning.bottleneck import Bottleneck
from edgefuse.tuning.parts import transformer_layers
from edgefuse.tuning.ways import WAYS, find_way
from edgefuse.tuning.ways.adapter import Adapter
from edgefuse.tuning.ways.lora import Lora
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import InputError, ModelError, RunError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.bundle.bundle import Bundle, open_bundle, open_engine
from edgefuse_runtime.converting.convert import convert
from edgefuse_runtime.graph.merges import Fold
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.training.run import read_record
from tests.pico_models import TEXTS
from tests.tuned_pico import (
    CONTEXT,
    LABELS,
    assert_frozen_stay,
    classifier,
    exported,
    labelled_rows,
    logits_on_the_board,
    pico,
    random_batch,
    trained,
)

pytestmark = pytest.mark.no_cover  # it takes as long again, and shows nothing new

OPTIONS: dict[str, dict[str, object]] = {
    "lora": {"lora_rank": 2},
    "adapter": {"adapter_size": 3},
    "prefix": {"prefix_length": 4, "prefix_projection": 0},
    "child-d": {"child_data": labelled_rows(), "child_keep": 0.2},
}
BOTH = (
    "full",
    "full-without-embeddings",
    "last-1",
    "head",
    "lora",
    "adapter",
    "prefix",
    "child-f",
    "child-d",
)
CASES = [
    *(("bert", tune) for tune in BOTH),
    *(("fused-bert", tune) for tune in ("full", "last-1", "lora", "child-d", "bitfit")),
    *(("llama", tune) for tune in BOTH if not tune.startswith("child-")),  # its graph is full's
]
_LAST_LAYER = {
    "bert": "bert.encoder.layer.2.",
    "fused-bert": "bert.encoder.layer.2.",
    "llama": "model.layers.2.",
}


def bundle_of(kind: str, tune: str) -> Bundle:
    return exported(kind, tune, **OPTIONS.get(tune, {}))


def in_head(name: str) -> bool:
    return name.startswith(("classifier.", "bert.pooler.", "score."))


def is_norm(name: str) -> bool:
    return "LayerNorm" in name or "layernorm" in name


TRAINS: dict[str, Callable[[str, str], bool]] = {
    "full": lambda _kind, _name: True,
    "child-f": lambda _kind, _name: True,
    "child-d": lambda _kind, _name: True,
    "full-without-embeddings": lambda _kind, name: (
        not name.endswith(("_embeddings.weight", "embed_tokens.weight"))
    ),
    "head": lambda _kind, name: in_head(name),
    "last-1": lambda kind, name: in_head(name) or name.startswith(_LAST_LAYER[kind]),
    "bitfit": lambda _kind, name: in_head(name) or name.endswith("bias"),
    "lora": lambda _kind, name: in_head(name) or ".lora_" in name,
    "adapter": lambda _kind, name: (
        in_head(name)
        or ".adapter." in name
        or (is_norm(name) and (".layer." in name or ".layers." in name))
    ),
    "prefix": lambda _kind, name: in_head(name) or ".prefix." in name,
}


@pytest.mark.parametrize(("kind", "tune"), CASES)
def test_gradients_of_what_trains_are_torchs_and_of_nothing_else(kind: str, tune: str) -> None:
    manifest = bundle_of(kind, tune).manifest
    frozen = bundle_of(kind, tune).frozen

    names = {parameter.name for parameter in manifest.parameters}
    constants = {name for name in frozen if name.endswith(".multiplicity")}  # P
    assert len(constants) == (3 if kind.startswith("fused-") else 0)
    known = (names | frozen.keys()) - constants
    assert {name for name in known if TRAINS[tune](kind, name)} == names
    assert manifest.tuning.method == tune
    certificate = manifest.certificate
    assert certificate is not None
    assert certificate.gradients == len(names)
    assert certificate.worst_gradient_error < 1e-3
    assert certificate.loss_difference < 1e-5
    assert certificate.output_difference < 1e-4


@pytest.mark.parametrize(("kind", "tune"), CASES)
def test_what_is_frozen_is_bit_identical_after_20_steps(kind: str, tune: str) -> None:
    bundle = bundle_of(kind, tune)
    values = trained(bundle)
    assert_frozen_stay(bundle, values)

    source = load_file(pico(kind) / "model.safetensors")
    prefix = "model." if kind == "llama" else "bert."
    folds = {m.weight: m for m in bundle.manifest.merges if isinstance(m, Fold)}
    frozen = {n: v for n, v in bundle.frozen.items() if n.endswith(("weight", "bias"))}
    assert not frozen if tune in ("full", "child-f", "child-d") else frozen
    for name, tensor in frozen.items():
        original = source[name.removeprefix(prefix)]
        if fold := folds.get(name):  # the bundle has P apart
            p = np.expand_dims(bundle.frozen[fold.multiplicity], 1 - fold.axis)
            np.testing.assert_allclose(tensor * p, original, rtol=1e-6)
        else:
            assert tensor.tobytes() == original.tobytes()
    # The gradient of a bias that moves all scores alike is zero.
    still = {n for n, v in values.items() if np.array_equal(v, bundle.trainable()[n])}
    if tune != "child-d":  # of whose norms perhaps nothing is in the share that moves
        assert all(name.endswith(("token_type_embeddings.weight", "key.bias")) for name in still)


@pytest.mark.parametrize("kind", ["bert", "llama"])
@pytest.mark.parametrize("tune", ["last-1", "head", "lora", "prefix", "adapter"])
def test_no_product_makes_a_gradient_that_nobody_needs(kind: str, tune: str) -> None:
    training, inference = (
        ir.load(bundle_of(kind, tune).path / f"{graph}.onnx").graph
        for graph in ("train", "inference")
    )
    names = [v.name for v in inference.inputs] + list(inference.initializers)
    trains = {parameter.name for parameter in bundle_of(kind, tune).manifest.parameters}
    layers = [n for n in names if n and ".0." in n and n.endswith("weight") and n not in trains]
    matrices = [n for n in layers if len(bundle_of(kind, tune).frozen[n].shape) == 2]
    assert matrices
    # Backward reads a weight once more than forward does, to go on below it.
    passes = {name: _products(training, name) for name in matrices}
    once = matrices if tune in ("last-1", "head") else _BELOW_ALL_THAT_TRAINS[kind, tune]
    assert passes == {name: 1 if name.endswith(tuple(once)) else 2 for name in matrices}


_OF_ATTENTION = {
    "bert": ("query.weight", "key.weight", "value.weight"),
    "llama": ("q_proj.weight", "k_proj.weight", "v_proj.weight"),
}
_BELOW_ALL_THAT_TRAINS: dict[tuple[str, str], tuple[str, ...]] = {
    **{(kind, tune): names for kind, names in _OF_ATTENTION.items() for tune in ("lora", "prefix")},
    # The first adapter comes behind attention's last projection; Llama's first norm before it all.
    ("bert", "adapter"): (*_OF_ATTENTION["bert"], "attention.output.dense.weight"),
    ("llama", "adapter"): (),
}


def _products(graph: ir.Graph, name: str) -> int:
    """How many products read a weight, by whatever view."""
    value = next(v for v in (*graph.inputs, *graph.initializers.values()) if v.name == name)
    views, products = [value], 0
    for view in views:
        for node, _ in view.uses():
            if node.op_type in {"Transpose", "Reshape", "Identity", "Unsqueeze"}:
                views.append(node.outputs[0])
            elif node.op_type in {"MatMul", "Gemm"}:
                products += 1
    return products


def test_an_adapter_changes_little_at_the_start() -> None:
    start = bundle_of("bert", "adapter")
    plain = bundle_of("bert", "full")
    before = logits_on_the_board(plain, plain.trainable())
    np.testing.assert_allclose(logits_on_the_board(start, start.trainable()), before, atol=0.01)
    assert np.abs(logits_on_the_board(start, trained(start)) - before).max() > 0.1


def test_adapters_are_converted_to_onnx_alone(tmp_path: Path) -> None:
    bundle = bundle_of("bert", "adapter")
    convert(bundle, trained(bundle), tmp_path / "onnx", to="onnx")
    for to, reason in (("transformers", "no adapters"), ("peft", "not what adapter does")):
        with pytest.raises(RunError, match=f"{reason}.*Convert it with --to onnx$"):
            convert(bundle, trained(bundle), tmp_path / "plain", to=to)


def test_a_drawn_mask_is_the_same_for_the_same_seed_and_step_and_resumes_bit_for_bit() -> None:
    bundle = bundle_of("bert", "child-f")

    def run(seed: int, *, broken: bool = False) -> dict[str, np.ndarray]:
        engine = open_engine(bundle, threads=1, seed=seed)
        for step in range(6):
            if broken and step == 3:
                state = {name: value.copy() for name, value in engine.state().items()}
                engine = open_engine(bundle, threads=1, seed=seed)
                engine.load_state(state)
            engine.step(random_batch(step), 1e-2)
        return engine.parameters()

    straight = run(seed=1)
    for again in (run(seed=1), run(seed=1, broken=True)):
        assert all(again[name].tobytes() == value.tobytes() for name, value in straight.items())
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not np.array_equal(run(seed=2)[name], straight[name])


def test_a_drawn_mask_keeps_a_share_and_keeps_the_mean() -> None:
    bundle = bundle_of("bert", "child-f")
    plain, masked = (open_engine(bundle_of("bert", t), threads=1) for t in ("full", "child-f"))
    for engine in (plain, masked):
        engine.step(random_batch(0), 0.0)
    # The last element is nobody's: the engine finds by it what decay does to rows left out.
    gradients = [engine.state()["first_moment"][:-1] for engine in (plain, masked)]
    assert bundle.manifest.gradient_mask is not None
    names = set(bundle.manifest.gradient_mask.parameters)
    assert not any(in_head(name) or ".embeddings." in name for name in names)
    inside = np.concatenate(
        [
            np.full(math.prod(p.shape), p.name in names)
            for p in sorted(bundle.manifest.parameters, key=lambda p: not p.decay)
        ]
    )
    np.testing.assert_array_equal(gradients[1][~inside], gradients[0][~inside])
    nonzero = inside & (gradients[0] != 0)
    kept = nonzero & (gradients[1] != 0)
    assert kept.sum() / nonzero.sum() == pytest.approx(0.3, abs=0.03)
    np.testing.assert_allclose(gradients[1][kept], gradients[0][kept] / 0.3, rtol=1e-4)


def test_a_chosen_mask_moves_the_share_of_the_largest_fisher_information() -> None:
    bundle = bundle_of("bert", "child-d")
    values, start = trained(bundle), bundle.trainable()

    assert bundle.manifest.gradient_mask is not None
    names = bundle.manifest.gradient_mask.parameters
    moved = {name: values[name] != start[name] for name in names}
    share = sum(m.sum() for m in moved.values()) / sum(m.size for m in moved.values())
    assert share == pytest.approx(0.2, abs=0.02)
    assert all((values[n] != start[n]).mean() > 0.9 for n in ("classifier.weight",))
    fisher = _fisher_by_hand(labelled_rows())
    inside = np.concatenate([fisher[n][moved[n]].ravel() for n in names])
    outside = np.concatenate([fisher[n][~moved[n]].ravel() for n in names])
    assert inside.mean() > 10 * outside.mean()
    assert np.median(inside) > np.quantile(outside, 0.95)


def _fisher_by_hand(rows: Path) -> dict[str, np.ndarray]:
    """Of the head that export made: its seed is 0."""
    import json  # noqa: PLC0415

    from transformers import AutoTokenizer  # noqa: PLC0415

    torch.manual_seed(0)
    model = classifier(pico("bert"))
    tokenizer = AutoTokenizer.from_pretrained(pico("bert"))
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for line in rows.read_text().splitlines():
        row = json.loads(line)
        model.zero_grad()
        inputs = tokenizer(row["text"], return_tensors="pt")
        label = torch.tensor([LABELS.index(row["label"])])
        model(**inputs, labels=label).loss.backward()
        for name, parameter in model.named_parameters():
            squares[name] += parameter.grad**2
    return {name: value.numpy() for name, value in squares.items()}


@pytest.mark.parametrize(
    ("tune", "kind", "error", "match"),
    [
        ("bitfit", "llama", ModelError, "no biases under its head.*Choose another way"),
        ("last-4", "bert", InputError, "last-4 wants 4 layers, and the model has 3"),
        ("last-0", "bert", InputError, "last-0 wants 0 layers.*one of last-1 to last-3"),
        ("last-2", "albert", InputError, "wants 2 layers, and the model has 1 with"),
        ("adapter", "mixtral", ModelError, "is not known.*Choose another way"),
    ],
)
def test_a_model_that_cannot_train_so_is_refused(
    tune: str, kind: str, error: type[InputError], match: str
) -> None:
    with pytest.raises(error, match=match):
        find_way(tune).prepare(classifier(pico(kind)), CONTEXT)


@pytest.mark.parametrize(
    ("name", "options", "match"),
    [
        ("lorra", {}, "no way of tuning 'lorra'.*Did you mean lora?"),
        ("everything", {}, "There are full, full-without-embeddings, last-N, head, lora"),
        ("head", {"lora_rank": 4}, "--lora-rank is no option of --tune head"),
    ],
)
def test_a_way_that_there_is_not_names_those_that_there_are(
    name: str, options: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        find_way(name, options)


def test_a_model_whose_attentions_lie_in_a_list_of_their_own_has_no_layers_to_choose() -> None:
    config = transformers.XLMConfig(vocab_size=50, emb_dim=16, n_layers=2, n_heads=2)
    model = transformers.XLMForSequenceClassification(config)
    for tune in ("last-1", "child-f"):
        with pytest.raises(ModelError, match=r"attentions in one list.*--tune lora"):
            find_way(tune).prepare(model, CONTEXT)


def test_layers_are_told_from_lists_of_embeddings_and_from_blocks_of_layers() -> None:
    small = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32}
    markup = transformers.MarkupLMForSequenceClassification(
        transformers.MarkupLMConfig(**small, num_hidden_layers=3, max_depth=4)
    )
    assert transformer_layers(markup) == list(markup.markuplm.encoder.layer)
    funnel = transformers.FunnelForSequenceClassification(
        transformers.FunnelConfig(vocab_size=50, d_model=16, n_head=2, block_sizes=[2, 1])
    )
    blocks = funnel.funnel.encoder.blocks
    assert transformer_layers(funnel) == [blocks[0][0], blocks[0][1], blocks[1][0]]


_WIDE = {"vocab_size": 50, "hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 2}
_LONG = {"vocab_size": 50, "n_embd": 16, "n_head": 2, "n_layer": 2, "rotary_dim": 4}


@pytest.mark.parametrize(
    "config",
    [
        transformers.MPNetConfig(**_WIDE, intermediate_size=32),
        transformers.PhiConfig(**_WIDE, intermediate_size=32),
        transformers.PersimmonConfig(**_WIDE, intermediate_size=32),
        transformers.GPTJConfig(**_LONG),
        transformers.GPTNeoConfig(
            vocab_size=50,
            hidden_size=16,
            num_heads=2,
            num_layers=2,
            attention_types=[[["global"], 2]],
        ),
        transformers.MptConfig(vocab_size=50, d_model=16, n_heads=2, n_layers=2),
    ],
    ids=lambda config: config.model_type,
)
def test_adapters_stand_behind_every_attention_and_mlp(
    config: transformers.PretrainedConfig,
) -> None:
    config.pad_token_id = 0
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    Adapter(size=3).prepare(model, CONTEXT)
    adapters = [module for module in model.modules() if isinstance(module, Bottleneck)]
    assert len(adapters) == 4
    token_ids = torch.arange(5, 13).reshape(2, 4)
    with torch.no_grad():
        for adapter in adapters:
            before = model(input_ids=token_ids).logits
            adapter.up.bias.normal_()
            assert not torch.allclose(model(input_ids=token_ids).logits, before, atol=1e-3)


def test_options_that_leave_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--adapter-size 0 leaves nothing"):
        Adapter(size=0).prepare(classifier(pico("bert")), CONTEXT)
    for tune in ("child-f", "child-d"):
        with pytest.raises(InputError, match="--child-keep 0 is no share"):
            find_way(tune, {"child_keep": 0}).prepare(classifier(pico("bert")), CONTEXT)
    with pytest.raises(InputError, match=r"has no rows of it.*--child-data"):
        export(
            str(pico("bert")),
            tmp_path / "bundle",
            device=load_device("rpi5"),
            task=WantedTextClassification(labels=LABELS),
            tune="child-d",
        )


def test_every_way_is_described() -> None:
    assert len({way.title for way in WAYS}) == len(WAYS)
    assert all(way.summary and not way.summary.endswith(".") for way in WAYS)


@pytest.mark.parametrize(("given", "used"), [((), Lora.learning_rate), ((2e-3,), 2e-3)])
def test_training_begins_with_the_learning_rate_that_suits_what_trains(
    given: tuple[float, ...], used: float, run: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    train = tmp_path / "train.jsonl"
    rows = ({"text": text, "label": LABELS[index % 2]} for index, text in enumerate(TEXTS))
    train.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    bundle, output = bundle_of("bert", "lora").path, tmp_path / "run"
    rate = [option for value in given for option in ("--learning-rate", value)]
    done = run("finetune", bundle, output, "--train", train, "--epochs", 1, *rate)
    assert done.code == 0, done.err
    assert read_record(output).settings.learning_rate == used


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="asks Linux for its mappings")
def test_training_and_inference_read_frozen_weights_from_one_mapping(tmp_path: Path) -> None:
    bundle = open_bundle(shutil.copytree(bundle_of("bert", "head").path, tmp_path / "bundle"))
    engine = open_engine(bundle, threads=1)
    model = InferenceModel(bundle, engine.parameters(), threads=1)
    engine.step(random_batch(0), 1e-3)
    model.run(random_batch(0))
    file = str(bundle.path / "frozen.safetensors")
    mapped = [line for line in Path("/proc/self/maps").read_text().splitlines() if file in line]
    assert len(mapped) == 1
