"""A pico Llama as a GGUF file, as llama.cpp's converter would write it."""

import json
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedModel

from edgefuse_runtime.graph.base import BLOCK
from tests.pico_causal import HIDDEN_SIZE, causal_model, causal_tokenizer

_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_NORMAL, _CONTROL = 1, 3


def save_gguf(
    file: Path,
    *,
    pre: str = "gpt-2",
    architecture: str = "llama",
    forms: Sequence[str] = (),
    **other: str,
) -> PreTrainedModel:
    """Write a pico Llama with its tokenizer and chat template, and give it.

    Args:
        file: The file.
        pre: Name of the pre-tokenizer.
        architecture: Name of the architecture.
        forms: What its matrices of whole blocks are written in, in turn; none for float32. The
            model is wider then.
        **other: Further values, by their keys with `__` for a dot.
    """
    gguf = pytest.importorskip("gguf", reason="the package gguf (extra `gguf`) is not installed")
    model = causal_model("llama", layers=2, hidden_size=64 if forms else HIDDEN_SIZE)
    config = model.config
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_name("pico")
    for key, value in other.items():
        writer.add_string(key.replace("__", "."), value)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_key_length(config.head_dim)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, pre)
    turns = cycle(forms or [""])
    for name, parameter in model.named_parameters():
        own, weight = _as_llama_cpp(name, parameter.detach().numpy(), model)
        form = next(turns) if weight.ndim > 1 and weight.shape[-1] % BLOCK == 0 else ""
        if form:
            kind = gguf.GGMLQuantizationType[form]
            writer.add_tensor(own, gguf.quants.quantize(weight, kind), raw_dtype=kind)
        else:
            writer.add_tensor(own, weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


def _add_tokenizer(writer, pre: str) -> None:
    wrapper = causal_tokenizer(chats=True)
    described = json.loads(wrapper.backend_tokenizer.to_str())
    vocabulary = wrapper.get_vocab()
    tokens = sorted(vocabulary, key=vocabulary.__getitem__)
    special = {token["content"] for token in described["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)
    writer.add_token_types([_CONTROL if token in special else _NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in described["model"]["merges"]])
    writer.add_bos_token_id(wrapper.eos_token_id)
    writer.add_eos_token_id(wrapper.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_chat_template(wrapper.chat_template)


def _as_llama_cpp(name: str, weight: np.ndarray, model: PreTrainedModel) -> tuple[str, np.ndarray]:
    """A tensor's name in GGUF, and its values, with the rotated halves of a head interleaved."""
    outer = {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "lm_head.weight": "output.weight",
    }
    if name in outer:
        return outer[name], weight
    _, _, index, inner = name.split(".", maxsplit=3)
    module = inner.removesuffix(".weight")
    heads = {
        "self_attn.q_proj": model.config.num_attention_heads,
        "self_attn.k_proj": model.config.num_key_value_heads,
    }
    if module in heads:
        halves = weight.reshape(heads[module], 2, -1, weight.shape[1])
        weight = halves.swapaxes(1, 2).reshape(weight.shape)
    return f"blk.{index}.{_NAMES[module]}.weight", np.ascontiguousarray(weight)
