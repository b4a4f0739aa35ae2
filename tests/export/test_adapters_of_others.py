"""Adapters that others trained with peft, of other tasks and forms: taken whole, or refused."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import (
    LoraConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptTuningConfig,
    TaskType,
    get_peft_model,
)
from transformers import AutoModel, AutoModelForCausalLM, PreTrainedModel

from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import find_source
from edgefuse.layers.tied import hold_once
from edgefuse.tuning.low_rank import load_updates
from edgefuse.tuning.peft_model import load_peft_adapter
from edgefuse.tuning.ways import find_way
from edgefuse_devices.errors import InputError, ModelError, RunError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from edgefuse_runtime.converting.convert import convert
from tests.pico_models import pico_config
from tests.tuned_pico import (
    CONTEXT,
    OPTIONS,
    classifier,
    exported,
    logits_in_torch,
    logits_on_the_board,
    pico,
    trained,
)

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")


def save_adapter(model: PreTrainedModel, config: object, directory: Path, base: str) -> Path:
    """Wrap, stir and save; the base is beside the adapter, as its configuration says."""
    torch.manual_seed(1)
    wrapped = get_peft_model(model, config)  # type: ignore[arg-type]
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "prompt" in name:
                parameter.normal_(std=0.3)
    wrapped.save_pretrained(str(directory))
    file = directory / "adapter_config.json"
    file.write_text(
        json.dumps(json.loads(file.read_text()) | {"base_model_name_or_path": str(pico(base))})
    )
    return directory


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_an_adapter_of_a_language_model_is_taken_up_and_given_back_with_a_head(
    kind: str, tmp_path: Path
) -> None:
    configs = {
        "lora": LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"], r=4),
        "prefix": PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4),
    }
    model = AutoModelForCausalLM.from_pretrained(pico("shallow-llama"))
    adapter = save_adapter(model, configs[kind], tmp_path / "adapter", "shallow-llama")

    bundle = export(str(adapter), tmp_path / "bundle", tune=kind, **OPTIONS)

    start = bundle.trainable()
    own = [name for name in start if "lora_B" in name or "prefix" in name]
    assert own
    assert all(np.abs(start[name]).max() > 0.1 for name in own)
    assert any(name.startswith("score.") for name in start)
    values = trained(bundle, 5)
    with silence_transformers():
        convert(bundle, values, tmp_path / "back", to="peft")
        loaded = PeftModel.from_pretrained(
            classifier(pico("shallow-llama")), str(tmp_path / "back")
        )
    expected = logits_on_the_board(bundle, values)
    np.testing.assert_allclose(logits_in_torch(loaded), expected, atol=1e-5)


def test_no_expression_of_a_stranger_is_matched(tmp_path: Path) -> None:
    endless = r"([a-z_.0-9]|[a-z_.0-9][a-z_.0-9])+!"
    model = classifier(pico("shallow-llama"))
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "v_proj"], r=2)
    adapter = save_adapter(model, config, tmp_path / "adapter", "shallow-llama")
    file = adapter / "adapter_config.json"
    saved = json.loads(file.read_text())

    def load(**changed: object) -> set[str]:
        file.write_text(json.dumps(saved | changed))
        base = classifier(pico("shallow-llama"))
        return {*load_peft_adapter(base, adapter, TaskType.SEQ_CLS).state_dict()}

    plain = load()
    assert load(target_modules=endless, exclude_modules=endless) == plain
    assert (
        load(rank_pattern={"q_proj": 2}, layers_to_transform=[0], layers_pattern=[endless]) == plain
    )
    for field in ("rank_pattern", "alpha_pattern"):
        with pytest.raises(ModelError, match=f"has an expression in {field}"):
            load(**{field: {endless: 2}})


@pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning")
def test_an_adapter_of_a_head_that_shares_its_weight_is_refused(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_config(pico_config("gpt2"))
    config = LoraConfig(target_modules=["lm_head"], r=2)
    wrapped = get_peft_model(copy.deepcopy(model), config)
    wrapped.save_pretrained(str(tmp_path), save_embedding_layers=False)
    hold_once(model)
    with pytest.raises(ModelError, match="updates lm_head, which has no weight of its own"):
        load_updates(model, tmp_path, TaskType.CAUSAL_LM)


def test_an_adapter_with_tensors_that_find_no_place_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(task_type="FEATURE_EXTRACTION", target_modules=["query"], r=4)
    model = AutoModel.from_pretrained(pico("shallow-bert"))
    adapter = save_adapter(model, config, tmp_path / "adapter", "shallow-bert")
    for way in ("lora", "head"):
        with pytest.raises(ModelError, match=r"unlike one of BertFor.*merge_and_unload"):
            export(str(adapter), tmp_path / "bundle", tune=way, **OPTIONS)


def test_an_adapter_with_biases_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"], bias="all")
    adapter = save_adapter(
        classifier(pico("shallow-bert")), config, tmp_path / "adapter", "shallow-bert"
    )
    with pytest.raises(ModelError, match=r"updates biases too.*merge_and_unload"):
        export(str(adapter), tmp_path / "bundle", tune="lora", **OPTIONS)


def test_an_adapter_with_a_head_for_other_classes_is_refused(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    adapter = save_adapter(
        classifier(pico("shallow-bert")), config, tmp_path / "adapter", "shallow-bert"
    )
    options = OPTIONS | {"task": WantedTextClassification(labels=["cold", "warm"])}
    with pytest.raises(ModelError, match=r"wants \[2, 16\]\. Name the model|wants \[2\]"):
        export(str(adapter), tmp_path / "bundle", tune="lora", **options)


def test_prompts_are_refused_by_their_kind(tmp_path: Path) -> None:
    config = PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=3)
    adapter = save_adapter(
        classifier(pico("shallow-bert")), config, tmp_path / "adapter", "shallow-bert"
    )
    with pytest.raises(ModelError, match="of kind PROMPT_TUNING"):
        export(str(adapter), tmp_path / "bundle", tune="lora", **OPTIONS)


def test_an_adapter_is_no_model_by_itself(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    adapter = save_adapter(
        classifier(pico("shallow-bert")), config, tmp_path / "adapter", "shallow-bert"
    )
    with pytest.raises(ModelError, match=r"is a peft adapter, not a model\. Name the model"):
        find_source(str(adapter))


def test_what_was_trained_on_a_merged_adapter_is_no_adapter_of_its_base(tmp_path: Path) -> None:
    config = LoraConfig(task_type="SEQ_CLS", target_modules=["query"])
    adapter = save_adapter(
        classifier(pico("shallow-bert")), config, tmp_path / "adapter", "shallow-bert"
    )
    bundle = export(str(adapter), tmp_path / "bundle", tune="prefix", **OPTIONS)
    with pytest.raises(RunError, match="an adapter had been merged into"):
        convert(bundle, bundle.trainable(), tmp_path / "back", to="peft")


def chains_of_bert(directory: Path) -> Path:
    compress(str(pico("shallow-bert")), directory, method="mpo", matrices=("mlp",), max_error=0)
    return directory


def test_an_adapter_of_chains_has_no_plain_base(tmp_path: Path) -> None:
    way = find_way("lora", {"lora_rank": 2})
    bundle = export(str(chains_of_bert(tmp_path / "c")), tmp_path / "bundle", tune=way, **OPTIONS)
    with pytest.raises(
        RunError, match=r"this one's matrices are chains.*--to onnx or --to transformers"
    ):
        convert(bundle, bundle.trainable(), tmp_path / "back", to="peft")


def test_adapters_stand_behind_chains_on_the_board(tmp_path: Path) -> None:
    chains = chains_of_bert(tmp_path / "chains")
    bundle = export(str(chains), tmp_path / "bundle", tune="adapter", **OPTIONS)
    values = trained(bundle, 5)
    before = logits_on_the_board(bundle, bundle.trainable())
    assert np.abs(logits_on_the_board(bundle, values) - before).max() > 0.01
    graph = (bundle.path / "inference.onnx").read_bytes()
    assert b"output.dense.adapter.up.weight" in graph
    plain = exported("shallow-bert", "adapter")
    np.testing.assert_allclose(
        before, logits_on_the_board(plain, plain.trainable()), rtol=0.1, atol=0.1
    )


@pytest.mark.parametrize(
    ("way", "options", "match"),
    [
        ("lora", {"lora_alpha": 0.0}, "--lora-alpha 0 leaves nothing to train"),
        ("lora", {"lora_alpha": float("nan")}, "--lora-alpha nan"),
        ("prefix", {"prefix_length": 0}, "--prefix-length 0 leaves nothing"),
        ("prefix", {"prefix_projection": -1}, "--prefix-projection -1 is no width"),
    ],
)
def test_numbers_that_train_nothing_are_refused(
    way: str, options: dict[str, object], match: str
) -> None:
    with pytest.raises(InputError, match=match):
        find_way(way, options).prepare(classifier(pico("shallow-bert")), CONTEXT)


def test_prefixes_that_leave_no_position_for_text_are_refused(tmp_path: Path) -> None:
    way = find_way("prefix", {"prefix_length": 100})
    with pytest.raises(InputError, match=r"leaves no position for it.*--prefix-length"):
        export(str(pico("shallow-bert")), tmp_path / "bundle", tune=way, **OPTIONS)


def test_last_n_wants_a_number() -> None:
    with pytest.raises(InputError, match="--tune last-N says no number of layers"):
        find_way("last-N")


def _without_padding(
    architecture: str, directory: Path, *, tokenizer_too: bool, configured: int | None = None
) -> Path:
    source = pico(architecture)
    directory.mkdir(parents=True)
    for file in source.iterdir():
        (directory / file.name).write_bytes(file.read_bytes())
    config = json.loads((directory / "config.json").read_text()) | {"pad_token_id": configured}
    (directory / "config.json").write_text(json.dumps(config))
    if tokenizer_too:
        file = directory / "tokenizer_config.json"
        settings = json.loads(file.read_text())
        settings.pop("pad_token", None)
        file.write_text(json.dumps(settings | {"eos_token": "[SEP]"}))
    return directory


@pytest.mark.parametrize("tokenizer_too", [False, True])
def test_decoders_that_know_no_padding_are_padded(tokenizer_too: bool, tmp_path: Path) -> None:
    """Llama and GPT-2 come that way."""
    model = _without_padding("llama", tmp_path / "model", tokenizer_too=tokenizer_too)
    bundle = export(str(model), tmp_path / "bundle", tune="head", **OPTIONS)
    assert bundle.manifest.padding_id == (3 if tokenizer_too else 0)
    config = json.loads((bundle.path / "model" / "config.json").read_text())
    assert config["pad_token_id"] == bundle.manifest.padding_id


def test_a_model_that_was_saved_with_other_padding_is_given_the_tokenizers(tmp_path: Path) -> None:
    """A decoder that looks for another token reads the state of padding."""
    directory = tmp_path / "model"
    model = _without_padding("llama", directory, tokenizer_too=True, configured=0)
    bundle = export(str(model), tmp_path / "bundle", tune="head", **OPTIONS)
    assert bundle.manifest.padding_id == 3
    config = json.loads((bundle.path / "model" / "config.json").read_text())
    assert config["pad_token_id"] == 3


def test_a_head_that_knows_the_labels_keeps_their_order(tmp_path: Path) -> None:
    model = classifier(pico("shallow-bert"))
    model.config.id2label = {0: "warm", 1: "hot", 2: "cold"}
    model.config.label2id = {"warm": 0, "hot": 1, "cold": 2}
    with silence_transformers():
        model.save_pretrained(tmp_path / "model")
    for file in pico("shallow-bert").glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    bundle = export(str(tmp_path / "model"), tmp_path / "bundle", tune="head", **OPTIONS)
    assert bundle.manifest.task.labels == ["warm", "hot", "cold"]


def test_a_fused_models_head_is_a_part_of_what_is_merged(tmp_path: Path) -> None:
    """The other way round: an adapter for a fused model, of a task without a head."""
    compress(str(pico("shallow-llama")), tmp_path / "fused", ratio=0.25)
    config = LoraConfig(task_type="CAUSAL_LM", target_modules=["q_proj"])
    model = AutoModelForCausalLM.from_pretrained(pico("shallow-llama"))
    adapter = save_adapter(model, config, tmp_path / "adapter", "shallow-llama")
    file = adapter / "adapter_config.json"
    settings = json.loads(file.read_text()) | {"base_model_name_or_path": "fused"}
    file.write_text(json.dumps(settings))
    bundle = export(str(adapter), tmp_path / "bundle", tune="head", **OPTIONS)
    assert {name.partition(".")[0] for name in bundle.trainable()} == {"score"}
