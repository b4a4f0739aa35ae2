"""What is compressed from its files is what is compressed in memory, to the last bit."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import edgefuse
from edgefuse.artifact.record import CompressionRecord
from edgefuse.compression import fusion_plan
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.compression.fusion_plan import FusionPlan
from edgefuse.compression.fusions import FUSIONS
from edgefuse.compression.streaming import open_stored
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.tensor_files import write_shards
from edgefuse.mlps import verify
from edgefuse.mlps.mlp import find_mlps
from edgefuse.mlps.neurons import Layer
from edgefuse_devices.errors import ModelError
from tests.pico_models import (
    ALL_KINDS,
    HIDDEN_SIZE,
    TEXTS,
    WIDTH,
    pico_model,
    pico_tokenizer,
    save_pico_model,
)

WITHOUT_TEXT = [m.name for m in FUSIONS if not m.needs_text and m.name != "mlp-fusion"]


def in_memory(plan: FusionPlan, output: Path, monkeypatch: pytest.MonkeyPatch) -> CompressionRecord:
    output.mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(fusion_plan, "open_stored", lambda *_: None)
        return plan.make(output)


def is_streamed(plan: FusionPlan) -> bool:
    return open_stored(plan.source, plan.config) is not None


def assert_same(ours: Path, theirs: Path) -> None:
    assert {file.name for file in ours.iterdir()} == {file.name for file in theirs.iterdir()}
    for file in theirs.iterdir():
        if file.suffix != ".safetensors":
            assert (ours / file.name).read_bytes() == file.read_bytes(), file.name
            continue
        tensors, expected = load_file(ours / file.name), load_file(file)
        assert tensors.keys() == expected.keys()
        for name, tensor in expected.items():
            assert tensors[name].dtype == tensor.dtype
            assert torch.equal(tensors[name], tensor), name
        with safe_open(ours / file.name, "pt") as opened:
            assert opened.metadata() == {"format": "pt"}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_files_give_what_memory_gives(
    kind: str,
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = plan_compression(str(pico_model(kind)), ratio=0.5)
    assert is_streamed(plan)
    ours = compress(str(pico_model(kind)), tmp_path / "streamed", ratio=0.5)
    assert ours == in_memory(plan, tmp_path / "in-memory", monkeypatch)
    assert_same(tmp_path / "streamed", tmp_path / "in-memory")


@pytest.mark.parametrize("method", WITHOUT_TEXT)
@pytest.mark.parametrize("kind", ["bert", "llama"])
def test_every_method_without_text_works_from_files(
    kind: str,
    method: str,
    pico_model: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if (kind, method) == ("bert", "clustering"):
        pytest.skip("does not suit GELU")
    plan = plan_compression(str(pico_model(kind)), method=method)
    ours = compress(str(pico_model(kind)), tmp_path / "streamed", method=method)
    assert ours == in_memory(plan, tmp_path / "in-memory", monkeypatch)
    assert_same(tmp_path / "streamed", tmp_path / "in-memory")
    edgefuse.from_pretrained(tmp_path / "streamed")


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("mixtral", False), ("gpt2", True)])
def test_shards_of_half_precision_become_one_file_of_single(
    kind: str, tied: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = pico_model(kind).config
    config.tie_word_embeddings = tied
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).bfloat16()
    model.generation_config.max_new_tokens = 7
    source = tmp_path / "source"
    with silence_transformers():
        model.save_pretrained(source, max_shard_size="10KB")
        pico_tokenizer(kind).save_pretrained(source)
    assert len(list(source.glob("*.safetensors"))) > 1
    plan = plan_compression(str(source), layers="1", ratio=0.5)
    assert is_streamed(plan)
    record = compress(str(source), tmp_path / "streamed", layers="1", ratio=0.5)
    assert not record.even
    assert record == in_memory(plan, tmp_path / "in-memory", monkeypatch)
    assert_same(tmp_path / "streamed", tmp_path / "in-memory")
    auto = transformers.AutoModelForCausalLM
    found = edgefuse.from_pretrained(tmp_path / "streamed", auto)
    assert [mlp.width for mlp in find_mlps(found) if mlp.layer == 1] == [
        layer.width_after for layer in record.layers
    ]
    assert (found.get_output_embeddings().weight is found.get_input_embeddings().weight) == tied
    assert found.generation_config.max_new_tokens == 7
    tokens = pico_tokenizer(kind)(list(TEXTS), padding=True, return_tensors="pt")
    kept = edgefuse.from_pretrained(tmp_path / "in-memory", auto)
    with torch.no_grad():
        assert torch.equal(found(**tokens).logits, kept(**tokens).logits)


def test_a_model_without_its_pooler_and_one_with_more_tensors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = save_pico_model(tmp_path / "source", "bert")
    tensors = load_file(source / "model.safetensors")
    more = tensors | {"embeddings.position_ids": torch.arange(9)}
    save_file(more, source / "model.safetensors", metadata={"format": "pt"})
    plan = plan_compression(str(source))
    assert is_streamed(plan)
    compress(str(source), tmp_path / "streamed")
    in_memory(plan, tmp_path / "in-memory", monkeypatch)
    assert_same(tmp_path / "streamed", tmp_path / "in-memory")

    fewer = {name: tensor for name, tensor in tensors.items() if "pooler" not in name}
    save_file(fewer, source / "model.safetensors", metadata={"format": "pt"})
    assert not is_streamed(plan)  # the pooler is made up by the seed
    compress(str(source), tmp_path / "made-up")
    made_up = load_file(tmp_path / "made-up" / "model.safetensors")
    assert made_up.keys() == tensors.keys()


def test_a_weight_that_is_no_number_is_named_and_nothing_is_left(
    tmp_path: Path,
) -> None:
    source = save_pico_model(tmp_path / "source", "llama")
    tensors = load_file(source / "model.safetensors")
    tensors["layers.2.mlp.down_proj.weight"][3, 3] = torch.nan
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    plan = plan_compression(str(source))
    assert is_streamed(plan)
    with pytest.raises(ModelError, match=r"layers.2.mlp has weights that are NaN.*down_proj"):
        compress(str(source), tmp_path / "fused")
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


@pytest.mark.parametrize("text", [False, True])
def test_a_norm_between_projections_is_found_out_with_weights_and_without(
    text: bool, tmp_path: Path
) -> None:
    config = transformers.BitNetConfig(
        vocab_size=len(pico_tokenizer()),
        hidden_size=HIDDEN_SIZE,
        intermediate_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
    )
    with silence_transformers():
        transformers.BitNetForCausalLM(config).save_pretrained(tmp_path / "odd")
        pico_tokenizer().save_pretrained(tmp_path / "odd")
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS * 20))
    plan = plan_compression(str(tmp_path / "odd"), ratio=0.5)
    assert is_streamed(plan)
    texts = tmp_path / "texts.txt" if text else None
    with pytest.raises(ModelError, match=r"layers\.0\.mlp is built like an MLP and computes some"):
        compress(str(tmp_path / "odd"), tmp_path / "out", ratio=0.5, calibration=texts)
    assert not (tmp_path / "out").exists()
    with pytest.raises(ModelError, match=r"layers\.1\.mlp is built like"):  # and not layer 0
        compress(str(tmp_path / "odd"), tmp_path / "out", ratio=0.5, layers="1", calibration=texts)


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_every_kind_is_run_to_see_what_it_computes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = pico_model(kind).to("meta")
    monkeypatch.setattr(Layer, "output", lambda *_: torch.tensor(1.0))
    with pytest.raises(ModelError, match="is built like an MLP"):
        verify.verify_without_weights(model, find_mlps(model))


def test_files_that_lack_a_shard_or_are_cut_short_are_refused(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with silence_transformers():
        pico_model("llama").save_pretrained(source, max_shard_size="20KB")
        pico_tokenizer("llama").save_pretrained(source)
    shard = min(source.glob("*.safetensors"))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:100])
    with pytest.raises(ModelError, match="cannot be loaded"):
        compress(str(source), tmp_path / "fused")
    shard.unlink()
    with pytest.raises(ModelError, match="cannot be loaded"):
        compress(str(source), tmp_path / "fused")


@pytest.mark.parametrize("method", ["published", "svd"])
def test_a_model_too_large_for_one_file_is_written_in_shards_that_load_the_same(
    method: str, pico_model: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compress(str(pico_model("llama")), tmp_path / "whole", method=method, ratio=0.5)
    monkeypatch.setattr("edgefuse.hub.tensor_files._SHARD_BYTES", 5000)
    compress(str(pico_model("llama")), tmp_path / "shards", method=method, ratio=0.5)
    files = sorted(file.name for file in (tmp_path / "shards").glob("*.safetensors"))
    stem = "model" if method == "published" else "model.edgefuse"
    assert len(files) > 3
    assert files[1] == f"{stem}-00002-of-{len(files):05}.safetensors"
    whole, shards = (edgefuse.from_pretrained(tmp_path / name) for name in ("whole", "shards"))
    expected = whole.state_dict()
    assert shards.state_dict().keys() == expected.keys()
    assert all(torch.equal(t, expected[name]) for name, t in shards.state_dict().items())


def test_shards_have_every_tensor_once_and_an_index(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = {
        "b": torch.arange(6).reshape(2, 3),
        "a": torch.ones(3, 2, dtype=torch.bfloat16).T,
        "empty": torch.ones(0, 4),
        "one": torch.tensor(2.5),
        "flags": torch.tensor([True, False, True]),
    }
    monkeypatch.setattr("edgefuse.hub.tensor_files._SHARD_BYTES", 48)
    write_shards(tmp_path, tensors.items())
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"] == {"total_size": 6 * 8 + 6 * 4 + 4 + 3}
    assert index["weight_map"].keys() == tensors.keys()
    assert set(index["weight_map"].values()) == {
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    }
    assert len(list(tmp_path.iterdir())) == 3
    found: dict[str, torch.Tensor] = {}
    for file in tmp_path.glob("*.safetensors"):
        found |= load_file(file)
    assert found.keys() == tensors.keys()
    assert found["a"].dtype == torch.float32
    assert all(torch.equal(found[name], tensors[name].to(found[name])) for name in tensors)
