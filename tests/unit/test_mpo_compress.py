"""`edgefuse compress --method mpo`: from a model to a directory of chains, and back."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

import edgefuse
from edgefuse.artifact.record import CompressionRecord, read_record
from edgefuse.compression.chains.bonds import cut_to_error, cut_to_parameters
from edgefuse.compression.chains.limit import Limit
from edgefuse.compression.chains.mpo_plan import decompose_model, plan_mpo
from edgefuse.compression.compress import compress
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import find_source
from edgefuse.layers.chains.decomposition import MPO, decompose, parameter_count
from edgefuse.layers.chains.dimensions import choose_dimensions
from edgefuse.layers.chains.modules import Chain
from edgefuse.layers.stand_ins import merge_chains
from edgefuse.mlps.matrices import (
    KINDS,
    Kind,
    find_matrices,
    place_chains,
    read_matrix,
)
from edgefuse.tuning.ways.full import FullWithoutEmbeddings
from edgefuse_devices.errors import ModelError
from tests.pico_models import ALL_KINDS, ENCODER_DECODERS, TEXTS, pico_model, pico_tokenizer
from tests.tuned_pico import CONTEXT

CLASSIFIER = transformers.AutoModelForSequenceClassification
LOSSLESS = Limit(max_error=0)
STACKED = ("mixtral", "qwen2_moe", "qwen3_moe", "olmoe")


def kinds_of(architecture: str) -> tuple[Kind, ...]:
    """Those that an architecture's matrices can be decomposed of."""
    lacking = {"mlp"} if architecture in STACKED else set()
    lacking |= {"embeddings"} if architecture in (*ENCODER_DECODERS, "gemma") else set()  # scaled
    return tuple(kind for kind in KINDS if kind not in lacking)


@torch.no_grad()
def output(model: Any, source: Path) -> Tensor:
    with silence_transformers():
        tokenizer = transformers.AutoTokenizer.from_pretrained(source)
    inputs = tokenizer(list(TEXTS[:4]), padding=True, return_tensors="pt")
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return model(**inputs)[0]


def mpo_of(bond: int, *, seed: int = 0) -> MPO:
    """Of a matrix (64, 64) that a chain of that bond nearly is."""
    generator = torch.Generator().manual_seed(seed)
    noise = decompose(torch.randn(64, 64, generator=generator), choose_dimensions(64, 64))
    near = noise.truncate([min(bond, own) for own in noise.bonds]).matrix()
    return decompose(near + 0.1 * noise.matrix(), choose_dimensions(64, 64))


@pytest.mark.parametrize("architecture", ALL_KINDS)
def test_a_decomposed_model_loads_with_the_same_output(
    architecture: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model(architecture)
    kinds = kinds_of(architecture)
    plan = plan_mpo(find_source(str(source)), kinds=kinds, limit=Limit(budget=0.7))
    decomposed = decompose_model(plan)
    record = compress(str(source), tmp_path / "chains", method="mpo", matrices=kinds, budget=0.7)
    assert record == decomposed.record == read_record(tmp_path / "chains")
    assert {matrix.kind for matrix in record.matrices} == set(kinds)

    loaded = edgefuse.from_pretrained(tmp_path / "chains")
    assert type(loaded) is type(decomposed.model)
    assert not loaded.training
    expected = output(decomposed.model.eval(), source)
    torch.testing.assert_close(output(loaded, source), expected, rtol=0, atol=1e-5)
    before = output(edgefuse.from_pretrained(source), source)
    assert (before - expected).abs().max() > 1e-3  # bonds were cut
    assert record.parameters_after == loaded.num_parameters() < record.parameters_before


@pytest.mark.parametrize("architecture", ["bert", "albert", "gpt2", "t5-gated", "llama"])
def test_without_an_error_the_output_stays(
    architecture: str, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model(architecture)
    record = compress(
        str(source), tmp_path / "chains", method="mpo", matrices=kinds_of(architecture), max_error=0
    )
    assert all(matrix.bonds == matrix.full_bonds for matrix in record.matrices)
    assert all(matrix.error < 1e-12 and matrix.error_bound == 0 for matrix in record.matrices)
    assert record.parameters_after > record.parameters_before
    model, plain = (edgefuse.from_pretrained(d) for d in (tmp_path / "chains", source))
    torch.testing.assert_close(output(model, source), output(plain, source), rtol=0, atol=1e-4)


def test_the_record_says_what_the_files_hold(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    record = compress(
        str(pico_model("bert")), tmp_path / "chains", method="mpo", matrices=KINDS, budget=0.5
    )
    stored = load_file(tmp_path / "chains" / "model.edgefuse.safetensors")
    spectra = load_file(tmp_path / "chains" / "spectra.safetensors")
    for matrix in record.matrices:
        assert f"{matrix.name}.weight" not in stored
        central = stored[f"{matrix.name}.central"]
        auxiliary = [stored[f"{matrix.name}.auxiliary.{index}"] for index in range(4)]
        assert sum(tensor.numel() for tensor in auxiliary) == matrix.auxiliary_parameters
        assert central.numel() + matrix.auxiliary_parameters == matrix.parameters_after
        assert [len(spectra[f"{matrix.name}.{m}"]) for m in range(4)] == matrix.full_bonds
        norm = spectra[f"{matrix.name}.0"].norm()
        lost = [spectra[f"{matrix.name}.{m}"][d:] for m, d in enumerate(matrix.bonds)]
        assert matrix.error <= matrix.error_bound * (1 + 1e-9)
        assert float(torch.cat(lost).norm() / norm) == pytest.approx(matrix.error_bound, abs=1e-5)
    total = sum(matrix.parameters_after for matrix in record.matrices)
    assert total <= 0.5 * sum(matrix.parameters_before for matrix in record.matrices)


def test_no_bond_is_above_the_one_that_is_given(pico_model: Callable[..., Path]) -> None:
    record = decompose_model(
        plan_mpo(find_source(str(pico_model("bert"))), kinds=KINDS, limit=Limit(bond=3))
    ).record
    assert any(bond > 3 for matrix in record.matrices for bond in matrix.full_bonds)
    for matrix in record.matrices:
        assert matrix.bonds == [min(3, bond) for bond in matrix.full_bonds]


def test_chains_of_a_fused_model_are_compared_with_what_was_before_it(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model("bert")
    compress(str(source), tmp_path / "fused", ratio=0.5)
    options = ("--method", "mpo", "--max-error", 0, "--dry-run")
    done = run("compress", tmp_path / "fused", tmp_path / "chains", *options)
    assert done.code == 0
    before = edgefuse.from_pretrained(source).num_parameters()
    assert f"Parameters of the whole model: {before:,} → " in done.out
    assert "% of those before it was fused)" in done.out
    assert "Chains at high bonds take more than their matrices" in done.out


def test_plain_transformers_refuses_chains(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    """Else it would make up every matrix that it does not find."""
    compress(
        str(pico_model("bert")), tmp_path / "chains", method="mpo", matrices=["mlp"], max_error=0
    )
    with silence_transformers(), pytest.raises(OSError, match="no file named model"):
        transformers.AutoModel.from_pretrained(tmp_path / "chains")


@pytest.mark.parametrize("saved", [None, 2])
def test_chains_load_under_another_head(
    saved: int | None, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model("bert", num_labels=saved)
    compress(str(source), tmp_path / "chains", method="mpo", matrices=KINDS, bond=3)
    models = [
        edgefuse.from_pretrained(tmp_path / "chains"),
        edgefuse.from_pretrained(tmp_path / "chains", CLASSIFIER),
    ]
    ours, theirs = (dict(model.base_model.named_parameters()) for model in models)
    chains = [name for name in ours if "central" in name or "auxiliary" in name]
    assert len(chains) == 5 * (6 + 12 + 1)
    for name in chains:
        assert torch.equal(ours[name], theirs[name])


@pytest.mark.parametrize("layers", [None, "0,2"])
@pytest.mark.parametrize("architecture", ["bert", "gpt2", "llama", "switch_transformers"])
def test_fused_models_are_decomposed_with_p_standalone(
    architecture: str, layers: str | None, pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model(architecture)
    compress(str(source), tmp_path / "fused", ratio=0.5, layers=layers)
    fused = edgefuse.from_pretrained(tmp_path / "fused")
    record = compress(
        str(tmp_path / "fused"), tmp_path / "both", method="mpo", matrices=["mlp"], max_error=0
    )
    assert record.method == "mlp-fusion+mpo"
    assert record.layers == read_record(tmp_path / "fused").layers  # type: ignore[union-attr]
    both = edgefuse.from_pretrained(tmp_path / "both")
    ours, theirs = edgefuse.multiplicities(both), edgefuse.multiplicities(fused)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(p, theirs[name]) for name, p in ours.items())
    torch.testing.assert_close(output(both, source), output(fused, source), rtol=0, atol=1e-4)
    merge_chains(both)
    for name, weight in fused.state_dict().items():
        torch.testing.assert_close(both.state_dict()[name], weight, rtol=1e-4, atol=1e-5)


def test_folding_a_decomposed_fused_model_gives_what_plain_transformers_reads(
    pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, fused = pico_model("bert"), tmp_path / "fused"
    compress(str(source), fused, ratio=0.5)
    compress(str(fused), tmp_path / "both", method="mpo", matrices=KINDS, max_error=0)
    both = edgefuse.from_pretrained(tmp_path / "both")
    edgefuse.fold(both)
    with silence_transformers():
        both.save_pretrained(tmp_path / "folded")
        plain = transformers.AutoModel.from_pretrained(tmp_path / "folded").eval()
        wanted = transformers.AutoModel.from_pretrained(fused).eval()
    torch.testing.assert_close(output(plain, source), output(wanted, source), rtol=0, atol=1e-4)


@pytest.mark.parametrize("architecture", ["bert", "gpt2", "albert"])
def test_merged_chains_are_the_plain_model(architecture: str) -> None:
    model, plain = pico_model(architecture), pico_model(architecture)
    chains = _with_chains(model)
    assert len(chains) == len(find_matrices(plain, KINDS))
    merge_chains(model)
    assert not any(isinstance(module, Chain) for module in model.modules())
    assert model.state_dict().keys() == plain.state_dict().keys()
    for name, tensor in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, rtol=1e-4, atol=1e-5)


def test_full_without_embeddings_leaves_the_embeddings_chain_out() -> None:
    model = pico_model("bert", num_labels=2)
    _with_chains(model)
    FullWithoutEmbeddings().prepare(model, CONTEXT)
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    table = "bert.embeddings.word_embeddings"
    chain = {f"{table}.central", *(f"{table}.auxiliary.{index}" for index in range(4))}
    assert chain == {name for name in frozen if "word_embeddings" in name}
    assert all(".embeddings." in name for name in frozen)


def _with_chains(model: Any) -> list[str]:
    chains = {
        one.name: decompose(
            read_matrix(model, one), choose_dimensions(one.rows, one.columns)
        ).tensors
        for one in find_matrices(model, KINDS)
    }
    place_chains(model, chains.items())
    return list(chains)


def test_a_budget_is_kept_at_a_smaller_error_than_even_bonds() -> None:
    mpos = [mpo_of(2), mpo_of(5, seed=1), mpo_of(16, seed=2)]

    def parameters(bonds: list[tuple[int, ...]]) -> int:
        pairs = zip(mpos, bonds, strict=True)
        return sum(parameter_count(mpo.dimensions, own)[0] for mpo, own in pairs)

    def error(bonds: list[tuple[int, ...]]) -> float:
        return sum((m.error_bound(b) / m.norm) ** 2 for m, b in zip(mpos, bonds, strict=True))

    even = [tuple(min(6, bond) for bond in mpo.bonds) for mpo in mpos]
    chosen = cut_to_parameters(mpos, parameters(even))
    assert parameters(chosen) <= parameters(even)
    assert error(chosen) < 0.85 * error(even)


@pytest.mark.parametrize("error", [0.0, 0.2, 0.5])
def test_an_error_is_kept_and_used(error: float) -> None:
    mpo = mpo_of(4)
    bonds = cut_to_error(mpo, error)
    assert mpo.error_bound(bonds) <= error * mpo.norm
    if error:
        assert mpo.error_bound(bonds) > 0.8 * error * mpo.norm
        smaller = cut_to_error(mpo, 0.5 * error)
        before, after = (parameter_count(mpo.dimensions, b)[0] for b in (smaller, bonds))
        assert after < before


def test_the_command_decomposes_and_says_so(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source, folder = pico_model("bert"), tmp_path / "chains"
    options = ("--method", "mpo", "--budget", 0.6, "--matrices", "mlp,embeddings")
    dry = run("compress", source, folder, *options, "--dry-run", "--json")
    assert dry.code == 0
    assert not folder.exists()
    done = run("compress", source, folder, *options, "--json")
    assert done.code == 0
    found, expected = (json.loads(one.out)["compression"] for one in (done, dry))
    assert found == expected
    assert {matrix["kind"] for matrix in found["matrices"]} == {"mlp", "embeddings"}
    shown = run("compress", source, folder, *options, "--overwrite")
    assert shown.code == 0
    assert "encoder.layer.0.output.dense" in shown.out
    assert "--tune mpo" in shown.out
    again = run("compress", source, folder, *options, "--dry-run", "--overwrite")
    assert "Nothing was written" in again.out
    assert "take more than" not in again.out
    whole = run(
        "compress", source, tmp_path / "whole", "--method", "mpo", "--max-error", 0, "--dry-run"
    )
    assert "Chains at high bonds take more than their matrices" in whole.out


MISTAKES = {
    "no limit": ([], "not given"),
    "two limits": (["--bond", 4, "--budget", 0.5], "more than once"),
    "bond above full": (["--bond", 1000], "above the largest of these matrices, 16"),
    "no bond": (["--bond", 0], "leaves nothing"),
    "budget of nothing": (["--budget", 0], "not above 0"),
    "budget too small": (["--budget", 0.001], "bonds of 1 have"),
    "error of all": (["--max-error", 1.0], "not from 0 to below 1"),
    "unknown matrices": (["--bond", 4, "--matrices", "mlp,head"], "no kind of matrices 'head'"),
    "fusion's option": (["--bond", 4, "--ratio", 0.5], "--ratio is no option of --method mpo"),
    "fusion's text": (["--bond", 4, "--calibration", "x.txt"], "--calibration is no option of"),
    "fusion's allocation": (
        ["--bond", 4, "--allocation", "sensitivity"],
        "--allocation is no option of",
    ),
}


@pytest.mark.parametrize(("arguments", "sentence"), MISTAKES.values(), ids=MISTAKES)
def test_mistakes_get_a_sentence(
    arguments: list[object],
    sentence: str,
    run: Callable[..., SimpleNamespace],
    pico_model: Callable[..., Path],
    tmp_path: Path,
) -> None:
    failed = run("compress", pico_model("bert"), tmp_path / "x", "--method", "mpo", *arguments)
    assert failed.code == 2
    assert sentence in failed.err
    assert not (tmp_path / "x").exists()


def test_other_methods_refuse_its_options(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    failed = run("compress", pico_model("bert"), tmp_path / "x", "--bond", 4)
    assert failed.code == 2
    assert "--bond is no option of --method mlp-fusion" in failed.err


def test_an_embedding_that_scales_its_rows_is_no_table(tmp_path: Path) -> None:
    config = transformers.Gemma3TextConfig(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
    )
    with silence_transformers():
        transformers.Gemma3TextModel(config).save_pretrained(tmp_path)
    with pytest.raises(ModelError, match=r"Gemma3TextScaledWordEmbedding.*Leave embeddings out"):
        plan_mpo(find_source(str(tmp_path)), kinds=KINDS, limit=LOSSLESS)
    assert plan_mpo(find_source(str(tmp_path)), kinds=("mlp", "attention"), limit=LOSSLESS).matrices


@pytest.mark.parametrize(
    ("architecture", "kind", "sentence"),
    [("t5", "embeddings", "are tied")],
)
def test_matrices_that_cannot_become_chains_are_refused(
    architecture: str, kind: Kind, sentence: str, pico_model: Callable[..., Path]
) -> None:
    with pytest.raises(ModelError, match=sentence):
        plan_mpo(find_source(str(pico_model(architecture))), kinds=[kind], limit=LOSSLESS)


def test_what_is_compressed_by_matrices_already_is_refused(
    run: Callable[..., SimpleNamespace], pico_model: Callable[..., Path], tmp_path: Path
) -> None:
    source = pico_model("bert")
    chains, factors = tmp_path / "chains", tmp_path / "factors"
    compress(str(source), chains, method="mpo", matrices=["mlp"], max_error=0)
    assert run("compress", source, factors, "--method", "svd", "--ratio", 0.5).code == 0
    for directory, sentence in ((chains, "decomposed already"), (factors, "products already")):
        failed = run("compress", directory, tmp_path / "x", "--method", "mpo", "--bond", 4)
        assert failed.code == 2
        assert sentence in failed.err


def test_weights_that_are_not_numbers_are_refused(
    run: Callable[..., SimpleNamespace], tmp_path: Path
) -> None:
    model = pico_model("bert")
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[0, 0] = torch.nan
    with silence_transformers():
        model.save_pretrained(tmp_path / "broken")
        pico_tokenizer().save_pretrained(tmp_path / "broken")
    failed = run("compress", tmp_path / "broken", tmp_path / "x", "--method", "mpo", "--bond", 4)
    assert failed.code == 2
    assert "NaN or infinite, in encoder.layer.1.output.dense.weight" in failed.err
    assert not (tmp_path / "x").exists()


def test_records_of_before_chains_are_read(pico_model: Callable[..., Path], tmp_path: Path) -> None:
    compress(str(pico_model("bert")), tmp_path / "fused")
    file = tmp_path / "fused" / "edgefuse.json"
    raw = json.loads(file.read_text())
    del raw["matrices"]
    file.write_text(json.dumps(raw | {"schema_version": 2}))
    record = read_record(tmp_path / "fused")
    assert isinstance(record, CompressionRecord)
    assert record.matrices == []
