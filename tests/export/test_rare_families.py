"""Families of other builds: exported by what was mended for them, or refused with the reason."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import PretrainedConfig

from edgefuse.bundling.export import export
from edgefuse.compression.compress import compress, plan_compression
from edgefuse.hub.silence import silence_transformers
from edgefuse.mlps.mlp import find_mlps
from edgefuse_devices.catalog import load_device
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.text_classification import WantedTextClassification
from tests.pico_models import HIDDEN_SIZE, WIDTH, pico_tokenizer

pytestmark = pytest.mark.no_cover  # it takes as long again, and shows nothing new

ENDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
SIZES = {
    "vocab_size": len(pico_tokenizer("bert")),
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": WIDTH,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
    **ENDS,
}
SMALL = {"vocab_size": SIZES["vocab_size"], **ENDS}
ONE_GROUP = dict.fromkeys(("q_groups", "k_groups", "v_groups", "post_attention_groups"), 1)


def saved(config: PretrainedConfig, folder: Path) -> str:
    torch.manual_seed(0)
    with silence_transformers():
        transformers.AutoModel.from_config(config).save_pretrained(folder)
        pico_tokenizer("bert").save_pretrained(folder)
    return str(folder)


def exported(config: PretrainedConfig, folder: Path) -> Any:
    task = WantedTextClassification(labels=["down", "up"])
    device = load_device("rpi5")
    return export(saved(config, folder / "model"), folder / "bundle", device=device, task=task)


MENDED: dict[str, Callable[[], PretrainedConfig]] = {
    "xlnet": lambda: transformers.XLNetConfig(
        d_model=HIDDEN_SIZE, n_layer=1, n_head=2, d_inner=WIDTH, **SMALL
    ),
    "bloom": lambda: transformers.BloomConfig(
        hidden_size=HIDDEN_SIZE, n_layer=1, n_head=2, **SMALL
    ),
    "mobilebert": lambda: transformers.MobileBertConfig(
        **SIZES | {"hidden_size": 32},
        embedding_size=16,
        intra_bottleneck_size=HIDDEN_SIZE,
        true_hidden_size=HIDDEN_SIZE,
        num_feedforward_networks=1,
    ),
    "convbert": lambda: transformers.ConvBertConfig(
        **SIZES, embedding_size=HIDDEN_SIZE, head_ratio=1, conv_kernel_size=3
    ),
    "big_bird": lambda: transformers.BigBirdConfig(**SIZES, attention_type="original_full"),
    "roformer": lambda: transformers.RoFormerConfig(**SIZES, embedding_size=HIDDEN_SIZE),
}


@pytest.mark.parametrize("family", MENDED)
def test_a_mended_family_is_exported(family: str, tmp_path: Path) -> None:
    bundle = exported(MENDED[family](), tmp_path)
    certificate = bundle.manifest.certificate
    assert certificate is not None
    assert certificate.worst_gradient_error < 1e-3
    assert certificate.loss_difference < 1e-5
    trained = {parameter.name for parameter in bundle.manifest.parameters}
    unused = bundle.manifest.tuning.without_gradient
    assert trained.isdisjoint(unused)
    assert set(unused) <= bundle.frozen.keys()
    assert ("transformer.mask_emb" in unused) == (family == "xlnet")


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (
            transformers.SqueezeBertConfig(
                **SIZES, **ONE_GROUP, embedding_size=HIDDEN_SIZE, intermediate_groups=2
            ),
            r"it projects by convolutions .*\(encoder.layers.0.attention.query\)",
        ),
        (
            transformers.GptOssConfig(
                **SIZES,
                num_key_value_heads=1,
                head_dim=8,
                num_local_experts=4,
                num_experts_per_tok=2,
                layer_types=["full_attention"],
            ),
            r"its experts have biases, .*\(layers.0.mlp.experts\)",
        ),
        (
            transformers.MambaConfig(
                hidden_size=HIDDEN_SIZE, state_size=4, num_hidden_layers=1, **SMALL
            ),
            r"its layers are state-space mixers without an MLP \(layers.0.mixer\)",
        ),
    ],
    ids=lambda case: getattr(case, "model_type", ""),
)
def test_a_family_with_mlps_of_another_build_is_refused_with_its_reason(
    config: PretrainedConfig, reason: str, tmp_path: Path
) -> None:
    model = saved(config, tmp_path / "model")
    with pytest.raises(ModelError, match=f"has no MLP that EdgeFuse knows: {reason}"):
        plan_compression(model)


def test_experts_with_biases_are_not_exported_either(tmp_path: Path) -> None:
    config = transformers.GptOssConfig(
        **SIZES, num_key_value_heads=1, head_dim=8, num_local_experts=4, num_experts_per_tok=2
    )
    with pytest.raises(ModelError, match="its experts have biases"):
        exported(config, tmp_path)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(
    ("config", "places"),
    [
        (
            transformers.LongformerConfig(**SIZES | {"num_hidden_layers": 2}, attention_window=4),
            r"\(in .*encoder\.layer\.0\.attention\.self, .*encoder\.layer\.1\.attention\.self",
        ),
        (
            transformers.FunnelConfig(
                block_sizes=[1, 1],
                d_model=HIDDEN_SIZE,
                n_head=2,
                d_head=8,
                d_inner=WIDTH,
                num_decoder_layers=1,
                architectures=["FunnelModel"],
                vocab_size=SIZES["vocab_size"],
                pad_token_id=0,
            ),
            r"Constraints violated .*attention_mask",
        ),
    ],
    ids=["longformer", "funnel"],
)
def test_a_family_that_cannot_be_traced_is_refused_with_the_modules(
    config: PretrainedConfig, places: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ModelError, match=rf"cannot be traced: .*{places}"):
        exported(config, tmp_path)
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "bundle").exists()


def test_an_mlp_that_calls_its_activation_is_found_and_fused(tmp_path: Path) -> None:
    """LFM2's holds three projections and no activation, which is silu."""
    config = transformers.Lfm2Config(
        **SIZES | {"num_hidden_layers": 2},
        num_key_value_heads=1,
        layer_types=["conv", "full_attention"],
        block_multiple_of=8,
    )
    model = saved(config, tmp_path / "model")
    record = compress(model, tmp_path / "fused", ratio=0.5)
    assert [layer.width_after * 2 for layer in record.layers] == [
        mlp.width for mlp in find_mlps(transformers.AutoModel.from_config(config))
    ]
