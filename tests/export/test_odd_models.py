"""Models built, saved or headed otherwise than most: compressed as they are, or refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import PretrainedConfig, PreTrainedModel

import edgefuse
from edgefuse.artifact.record import read_record
from edgefuse.compression.calibration import batches_of, collect_inputs
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.hub.model import load_config
from edgefuse.hub.silence import silence_transformers
from edgefuse.mlps.inputs import watch_inputs
from edgefuse.mlps.mlp import find_mlps, unknown_experts
from edgefuse_devices.errors import ModelError
from tests.pico_models import (
    HIDDEN_SIZE,
    TEXTS,
    WIDTH,
    model_tokenizer,
    pico_config,
    pico_model,
    pico_tokenizer,
)

SWITCH = transformers.SwitchTransformersForConditionalGeneration


SIZES = {
    "vocab_size": len(pico_tokenizer("bert")),
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
}


def saved(model: PreTrainedModel, directory: Path) -> Path:
    with silence_transformers():
        model.save_pretrained(directory)
        pico_tokenizer("bert").save_pretrained(directory)
    return directory


def of(kind: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    torch.manual_seed(0)
    return kind(config).eval()


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    rows = [f"{text} {word}" for text in TEXTS for word in ("now", "please", "again", "less")]
    file.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return file


def bart() -> PretrainedConfig:
    return transformers.BartConfig(
        vocab_size=len(pico_tokenizer("bert")),
        d_model=HIDDEN_SIZE,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=WIDTH,
        decoder_ffn_dim=WIDTH,
        max_position_embeddings=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=2,
        num_labels=3,
    )


def without_padding(architecture: str) -> PretrainedConfig:
    config = pico_config(architecture)
    config.pad_token_id = None
    config.num_labels = 2
    return config


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (transformers.T5ForConditionalGeneration, lambda: pico_config("t5")),
        (SWITCH, lambda: pico_config("switch_transformers")),
        (transformers.BartForSequenceClassification, bart),
        (transformers.LlamaForSequenceClassification, lambda: without_padding("llama")),
        (transformers.GPT2ForSequenceClassification, lambda: without_padding("gpt2")),
        (transformers.LlamaForCausalLM, lambda: pico_config("llama")),
    ],
)
def test_all_stages_run_under_the_heads_that_models_are_saved_with(
    kind: type[PreTrainedModel],
    config: Callable[[], PretrainedConfig],
    texts: Path,
    tmp_path: Path,
) -> None:
    model = saved(of(kind, config()), tmp_path / "model")
    record = compress(
        str(model), tmp_path / "fused", ratio=0.25, tune_text=texts, allocation="sensitivity"
    )
    for layer in record.layers:
        assert layer.output_error is not None or layer.expert is not None
        assert (layer.output_error or 0.0) < 1.0
    fused = edgefuse.from_pretrained(tmp_path / "fused", kind)
    assert fused.num_parameters() == record.parameters_after


def test_an_encoder_alone_is_loaded_from_a_compressed_encoder_decoder(tmp_path: Path) -> None:
    config = pico_config("t5")
    model = saved(of(transformers.T5ForConditionalGeneration, config), tmp_path / "model")
    compress(str(model), tmp_path / "fused", width=8)
    encoder = edgefuse.from_pretrained(tmp_path / "fused", transformers.T5EncoderModel)
    whole = edgefuse.from_pretrained(tmp_path / "fused", transformers.T5ForConditionalGeneration)
    ids = torch.arange(5, 15)[None]
    with torch.no_grad():
        expected = whole.encoder(input_ids=ids).last_hidden_state
        torch.testing.assert_close(encoder(input_ids=ids).last_hidden_state, expected)
    assert len(find_mlps(encoder)) < len(find_mlps(whole))


def test_a_layer_that_looks_like_an_mlp_and_holds_one_is_none(texts: Path, tmp_path: Path) -> None:
    """Gemma 3n's layers have a gate for each layer's own embeddings beside their MLP."""
    config = transformers.Gemma3nTextConfig(
        **SIZES,
        vocab_size_per_layer_input=SIZES["vocab_size"],
        hidden_size_per_layer_input=8,
        num_key_value_heads=1,
        head_dim=8,
        num_kv_shared_layers=0,
        laurel_rank=4,
        activation_sparsity_pattern=[0.0] * 2,
        layer_types=["full_attention"] * 2,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model = of(transformers.Gemma3nForCausalLM, config)
    assert [mlp.name for mlp in find_mlps(model)] == [f"model.layers.{i}.mlp" for i in range(2)]
    compress(str(saved(model, tmp_path / "model")), tmp_path / "fused", ratio=0.5)
    edgefuse.from_pretrained(tmp_path / "fused", transformers.Gemma3nForCausalLM)
    compress(
        str(saved(model, tmp_path / "model")), tmp_path / "taught", ratio=0.5, calibration=texts
    )


def test_layers_that_are_mlps_and_hold_others_are_all_found(tmp_path: Path) -> None:
    config = transformers.MobileBertConfig(
        **SIZES | {"hidden_size": 32},
        embedding_size=16,
        intra_bottleneck_size=HIDDEN_SIZE,
        true_hidden_size=HIDDEN_SIZE,
        num_feedforward_networks=2,
    )
    model = of(transformers.MobileBertModel, config)
    assert len(find_mlps(model)) == 4
    compress(str(saved(model, tmp_path / "m")), tmp_path / "fused", ratio=0.5)
    edgefuse.from_pretrained(tmp_path / "fused", transformers.MobileBertModel)


def test_an_encoder_may_lie_deeper_than_its_class_says(texts: Path, tmp_path: Path) -> None:
    config = transformers.DPRConfig(**SIZES)
    model = saved(of(transformers.DPRQuestionEncoder, config), tmp_path / "model")
    compress(str(model), tmp_path / "fused", ratio=0.25, tune_text=texts)
    edgefuse.from_pretrained(tmp_path / "fused", transformers.DPRQuestionEncoder)


def test_tokens_that_lie_across_the_batch_are_told_from_padding(
    texts: Path, tmp_path: Path
) -> None:
    """XLNet's hidden states are (sequence, batch, p), and it takes texts of any length."""
    config = transformers.XLNetConfig(
        vocab_size=SIZES["vocab_size"],
        d_model=HIDDEN_SIZE,
        n_layer=2,
        n_head=2,
        d_inner=WIDTH,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
    )
    model, tokenizer = of(transformers.XLNetModel, config), model_tokenizer("distilbert")
    mlps = find_mlps(model)
    kept: list[torch.Tensor] = []
    with watch_inputs(mlps[:1], lambda _mlp, x: kept.append(x)), torch.no_grad():
        for text in TEXTS:
            model(input_ids=tokenizer.wrapper(text, return_tensors="pt")["input_ids"])
    one_by_one = torch.cat(kept).sort(dim=0).values
    (together, *_) = collect_inputs(model, tokenizer, mlps, TEXTS)
    torch.testing.assert_close(together.sort(dim=0).values, one_by_one, rtol=1e-4, atol=1e-4)
    for batch in batches_of(model, tokenizer, ["warm door"] * 4):
        assert len(set(batch["input_ids"].shape)) == 2
    record = compress(
        str(saved(model, tmp_path / "model")), tmp_path / "fused", ratio=0.25, tune_text=texts
    )
    assert record.even
    with silence_transformers():
        plain = transformers.AutoModel.from_pretrained(tmp_path / "fused")
    assert {mlp.width for mlp in find_mlps(plain)} == {WIDTH // 4}


def test_bloom_has_its_activation_under_another_name(texts: Path, tmp_path: Path) -> None:
    config = transformers.BloomConfig(
        vocab_size=len(pico_tokenizer("bert")), hidden_size=HIDDEN_SIZE, n_layer=2, n_head=2
    )
    model = saved(of(transformers.BloomModel, config), tmp_path / "model")
    record = compress(str(model), tmp_path / "f", ratio=0.25, calibration=texts)
    assert len(record.layers) == 2
    assert not record.even  # its configuration cannot say so: the width is always 4 p


def test_experts_of_another_build_stay_and_are_named() -> None:
    config = transformers.Llama4TextConfig(
        **SIZES,
        intermediate_size_mlp=WIDTH,
        num_key_value_heads=1,
        head_dim=8,
        num_local_experts=2,
        interleave_moe_layer_step=1,
        layer_types=["full_attention"] * 2,
    )
    model = of(transformers.Llama4ForCausalLM, config)
    left_out = unknown_experts(model, find_mlps(model))
    assert left_out == [f"model.layers.{layer}.feed_forward.experts" for layer in range(2)]
    for kind in ("mixtral", "qwen2_moe", "switch_transformers", "bert"):
        known = pico_model(kind)
        assert unknown_experts(known, find_mlps(known)) == []


def test_the_command_names_experts_that_stay(
    run: Callable[..., object], pico_model: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    names = ["layers.0.experts", "layers.1.experts"]
    monkeypatch.setattr(
        "edgefuse.compression.fusion_plan.unknown_experts", lambda _model, _mlps: names
    )
    result = run("compress", pico_model("bert"), "out", "--dry-run")
    assert "Left as they are: layers.0.experts and 1 more" in result.out  # type: ignore[attr-defined]


def test_a_quantised_model_is_refused(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    model = shutil.copytree(pico_model("llama"), tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "fp8", "activation_scheme": "dynamic"}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"is quantised.*Start from the model that it was made"):
        plan_compression(str(model))


def test_a_configuration_that_contradicts_itself_is_refused(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model("bert"), tmp_path / "model")
    config = json.loads((model / "config.json").read_text()) | {"num_attention_heads": 3}
    (model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"BertModel of this configuration cannot be loaded: \w"):
        plan_compression(str(model))


def test_weights_that_torch_cannot_read_are_called_broken(
    pico_model: Callable[..., Path], texts: Path, tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model("bert"), tmp_path / "model")
    (model / "model.safetensors").unlink()
    (model / "pytorch_model.bin").write_bytes(b"no weights at all")
    with pytest.raises(ModelError, match="no file that torch wrote, or broken"):
        compress(str(model), tmp_path / "fused", calibration=texts)


@pytest.mark.parametrize("with_text", [False, True])
@pytest.mark.parametrize(
    "name",
    ["encoder.layer.1.attention.self.query.weight", "encoder.layer.0.output.dense.weight"],
)
def test_a_weight_that_is_no_number_is_found_wherever_it_is(
    name: str, with_text: bool, texts: Path, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    model = shutil.copytree(pico_model("bert"), tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors[name][0, 0] = float("nan")
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"NaN or infinite, in {name}"):
        compress(
            str(model),
            tmp_path / "fused",
            ratio=0.5,
            layers="2",
            calibration=texts if with_text else None,
        )
    assert not (tmp_path / "fused").exists()


def test_a_model_that_reads_more_than_text_is_compressed_without_text_alone(
    texts: Path, tmp_path: Path
) -> None:
    vision = SIZES | {"image_size": 8, "patch_size": 4}
    del vision["vocab_size"], vision["max_position_embeddings"]
    config = transformers.CLIPConfig(text_config=SIZES, vision_config=vision, projection_dim=8)
    model = saved(of(transformers.CLIPModel, config), tmp_path / "model")
    plan = plan_compression(str(model), ratio=0.5)
    with pytest.raises(ModelError, match=r"CLIPModel cannot be run on text alone: .*without text"):
        compress(str(model), tmp_path / "fused", ratio=0.5, calibration=texts)
    compress(str(model), tmp_path / "fused", ratio=0.5)
    record = read_record(tmp_path / "fused")
    assert record is not None
    assert len({layer.name for layer in record.layers}) == 4
    assert load_config(plan.source).model_type == "clip"
