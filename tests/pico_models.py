"""Pico models of every kind that EdgeFuse knows: random weights, a real tokenizer, offline.

Their weights are large enough for activations to bend, and no two neurons are alike.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel, PreTrainedTokenizerFast

from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.mlps.layout import write_neurons
from edgefuse.mlps.mlp import MLP, find_mlps
from edgefuse.mlps.neurons import FusedNeurons

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "albert")  # those that export takes
DENSE = (*ARCHITECTURES, "gpt2", "opt", "gpt_neox", "t5", "bart")
GATED = ("t5-gated", "llama", "qwen2", "gemma", "mistral", "modernbert", "phi3")
MIXTURES = ("switch_transformers", "mixtral", "qwen2_moe", "qwen3_moe", "olmoe")
ALL_KINDS = (*DENSE, *GATED, *MIXTURES)
ENCODER_DECODERS = ("t5", "t5-gated", "bart", "switch_transformers")
EXPERTS = 4
HIDDEN_SIZE = 16
WIDTH = 32  # intermediate size
LAYERS = 3

TEXTS = (
    "this film is good and very warm",
    "the movie was very dull and not funny",
    "turn on the lamp in the kitchen please",
    "a great movie",
    "stop the music",
    "it is warm and the door is open",
    "turn off the light in the bedroom",
    "a sad film with more bad music to play",
    "close the door and set the light to cold",
    "less is more",
)

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_WORDS = sorted({word for text in TEXTS for word in text.split()} - {"a"})
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?'-"
_TOKENS = (*_SPECIAL, *_WORDS, *_CHARACTERS, *(f"##{mark}" for mark in _CHARACTERS))
_VOCABULARY = {token: index for index, token in enumerate(_TOKENS)}
_ROBERTAS_VOCABULARY = {**_VOCABULARY, "[UNK]": 0, "[PAD]": 1}  # as the real one pads


_PADS_AS_ROBERTA = ("roberta", "xlm-roberta", "mpnet")


def save_pico_model(
    directory: Path,
    architecture: str,
    *,
    num_labels: int | None = None,
    auto_class: str = "AutoModel",
    seed: int = 0,
    layers: int = LAYERS,
) -> Path:
    """Save a pico model with its tokenizer and return `directory`.

    Args:
        directory: Made where it is missing.
        architecture: One of `ALL_KINDS`.
        num_labels: Save it for sequence classification; None for another class.
        auto_class: Class of transformers that makes it, where it is for no classification.
        seed: Seed of the weights.
        layers: Count of layers.
    """
    model = pico_model(
        architecture, num_labels=num_labels, auto_class=auto_class, seed=seed, layers=layers
    )
    with silence_transformers():
        model.save_pretrained(directory)
        pico_tokenizer(architecture).save_pretrained(directory)
    return directory


def pico_model(
    architecture: str,
    *,
    num_labels: int | None = None,
    auto_class: str = "AutoModel",
    seed: int = 0,
    layers: int = LAYERS,
) -> PreTrainedModel:
    """A pico model in evaluation mode; the arguments are those of `save_pico_model`."""
    config = pico_config(architecture)
    for setting in ("num_hidden_layers", "num_decoder_layers", "decoder_layers"):
        if hasattr(config, setting):
            setattr(config, setting, layers)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    auto = getattr(transformers, auto_class)
    if num_labels is not None:
        config.num_labels = num_labels
        auto = transformers.AutoModelForSequenceClassification
    torch.manual_seed(seed)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at zero
                parameter.normal_(std=0.2)
    return model


def pico_config(architecture: str) -> PretrainedConfig:
    """A configuration of that architecture, small enough for tests of milliseconds."""
    gated = architecture.endswith("-gated")
    model_type = architecture.removesuffix("-gated")
    return transformers.AutoConfig.for_model(
        model_type,
        vocab_size=len(_VOCABULARY),
        pad_token_id=1 if architecture in _PADS_AS_ROBERTA else 0,
        bos_token_id=2,
        eos_token_id=3,
        **_SIZES.get(model_type, _USUAL_SIZES),
        **_SPECIALTIES.get(model_type, {}),
        # Untied as Flan-T5's: the head is a matrix of its own, and its inputs are not scaled.
        **({"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False} if gated else {}),
    )


def duplicate_neurons(model: nn.Module, sizes: Sequence[int]) -> None:
    """Make every MLP's neurons copies of `len(sizes)` of them, shuffled.

    Args:
        model: Plain.
        sizes: How many copies of each; in a wider MLP a multiple, and the rest to the first.
    """
    generator = torch.Generator().manual_seed(3)
    mlps, duplicated = find_mlps(model), []
    for mlp in mlps:
        repeated = torch.tensor(sizes) * (mlp.width // sum(sizes))
        repeated[0] += mlp.width - repeated.sum()
        order = torch.repeat_interleave(torch.arange(len(sizes)), repeated)
        order = order[torch.randperm(len(order), generator=generator)]
        neurons = mlp.layer_view().neurons.select(order)
        duplicated.append(FusedNeurons(neurons, torch.ones(mlp.width)))
    tensors = write_neurons([mlp.layout for mlp in mlps], duplicated, folded=True)
    with torch.no_grad():
        for name, tensor in tensors.items():
            model.get_parameter(name).copy_(tensor)


_USUAL_SIZES = {
    "hidden_size": HIDDEN_SIZE,
    "intermediate_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.2,
}
_T5_SIZES = {
    "d_model": HIDDEN_SIZE,
    "d_ff": WIDTH,
    "d_kv": 8,
    "num_layers": LAYERS,
    "num_heads": 2,
    "decoder_start_token_id": 0,  # the padding, as the real one
}
_SIZES = {
    "distilbert": {
        "dim": HIDDEN_SIZE,
        "hidden_dim": WIDTH,
        "n_layers": LAYERS,
        "n_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
    },
    "gpt2": {
        "n_embd": HIDDEN_SIZE,  # n_inner is left out: 4 × 16
        "n_layer": LAYERS,
        "n_head": 2,
        "n_positions": 64,
        "initializer_range": 0.2,
    },
    "mpt": {"d_model": HIDDEN_SIZE, "n_layers": LAYERS, "n_heads": 2, "max_seq_len": 64},
    "bart": {
        "d_model": HIDDEN_SIZE,
        "encoder_layers": LAYERS,
        "decoder_layers": LAYERS,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": WIDTH,
        "decoder_ffn_dim": WIDTH,
        "max_position_embeddings": 64,
        "init_std": 0.2,
        "decoder_start_token_id": 3,  # the end, as the real one
        "forced_eos_token_id": 3,
    },
    "t5": _T5_SIZES,
    "mt5": _T5_SIZES,
    "switch_transformers": _T5_SIZES | {"num_decoder_layers": LAYERS},
}
_GROUPED = {"num_key_value_heads": 1, "head_dim": 8}
_EXPERTS = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "num_key_value_heads": 1}
_SPECIALTIES = {
    "albert": {"embedding_size": 8},
    "electra": {"embedding_size": 8},
    "falcon": {"ffn_hidden_size": WIDTH},
    "opt": {"ffn_dim": WIDTH, "word_embed_proj_dim": HIDDEN_SIZE, "init_std": 0.2},
    "llama": _GROUPED,
    "qwen2": {"num_key_value_heads": 1},
    "gemma": _GROUPED,
    "mistral": _GROUPED,
    "phi3": {"num_key_value_heads": 1},
    "modernbert": {"cls_token_id": 2, "sep_token_id": 3},
    "switch_transformers": {
        "num_experts": EXPERTS,
        "num_sparse_encoder_layers": 1,
        "num_sparse_decoder_layers": 1,
    },
    "mixtral": {"num_local_experts": EXPERTS, "num_experts_per_tok": 2, "num_key_value_heads": 1},
    "qwen2_moe": _EXPERTS
    | {"moe_intermediate_size": 64, "shared_expert_intermediate_size": 40, "mlp_only_layers": [1]},
    "qwen3_moe": _EXPERTS | {"moe_intermediate_size": WIDTH, "head_dim": 8},
    "olmoe": _EXPERTS,
    "deberta": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]},
    "deberta-v2": {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 8,
        "share_att_key": True,
        "norm_rel_ebd": "layer_norm",
    },
    "qwen3": _GROUPED,
    "gemma2": _GROUPED | {"sliding_window": 8},
    "gemma3_text": _GROUPED | {"sliding_window": 8},
    "smollm3": _GROUPED | {"no_rope_layer_interval": 2},
    "olmo2": {"num_key_value_heads": 1},
    "granite": {"num_key_value_heads": 1},
    "cohere": {"num_key_value_heads": 1},
}


def pico_tokenizer(architecture: str = "bert") -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer that knows the words of `TEXTS`, and spells all others."""
    vocabulary = _ROBERTAS_VOCABULARY if architecture in _PADS_AS_ROBERTA else _VOCABULARY
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _VOCABULARY["[CLS]"]), ("[SEP]", _VOCABULARY["[SEP]"])],
    )
    inputs = ["input_ids", "attention_mask"]
    if architecture in ("bert", "electra", "albert"):
        inputs.insert(1, "token_type_ids")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="[UNK]",
        pad_token="[PAD]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=62,  # RoBERTa's positions start at 2
        model_input_names=inputs,
    )


def model_tokenizer(architecture: str = "bert") -> ModelTokenizer:
    """`pico_tokenizer` as EdgeFuse holds it."""
    return ModelTokenizer.of(pico_tokenizer(architecture))


def parameters(mlps: Sequence[MLP]) -> list[nn.Parameter]:
    """What trains in MLPs (W1, b1, W2, b2, a gate's too), each once; no P."""
    found: dict[int, nn.Parameter] = {}
    for mlp in mlps:
        for slot in mlp.layout.slots().values():
            path, _, attribute = slot.name.rpartition(".")
            module = mlp.model.get_submodule(path)
            parameter = getattr(module, attribute)
            found.setdefault(id(parameter), parameter)
    return list(found.values())
