"""Pico models of every encoder that EdgeFuse knows: random weights, a real tokenizer, offline.

Their weights are large enough for activations to bend, and no two neurons are alike.
"""

from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PretrainedConfig, PreTrainedTokenizerFast

from edgefuse.models.load import quiet

ARCHITECTURES = ("bert", "roberta", "distilbert", "electra", "albert")
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


def save_pico_model(
    directory: Path, architecture: str, *, num_labels: int | None = None, seed: int = 0
) -> Path:
    """Save a pico model with its tokenizer and return `directory`.

    Args:
        directory: Made where it is missing.
        architecture: One of `ARCHITECTURES`.
        num_labels: Save it for sequence classification; None for the encoder alone.
        seed: Of the weights.
    """
    config = pico_config(architecture)
    auto = transformers.AutoModel
    if num_labels is not None:
        config.num_labels = num_labels
        auto = transformers.AutoModelForSequenceClassification
    torch.manual_seed(seed)
    model = auto.from_config(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at zero
                parameter.normal_(std=0.2)
    with quiet():
        model.save_pretrained(directory)
        pico_tokenizer(architecture).save_pretrained(directory)
    return directory


def pico_config(architecture: str) -> PretrainedConfig:
    """A configuration of that architecture, small enough for tests of milliseconds."""
    common = {
        "vocab_size": len(_VOCABULARY),
        "max_position_embeddings": 64,
        "initializer_range": 0.2,
        "pad_token_id": 1 if architecture == "roberta" else 0,
    }
    if architecture == "distilbert":
        return transformers.DistilBertConfig(
            dim=HIDDEN_SIZE, hidden_dim=WIDTH, n_layers=LAYERS, n_heads=2, **common
        )
    extra = {"albert": {"embedding_size": 8}, "electra": {"embedding_size": 8}}
    return transformers.AutoConfig.for_model(
        architecture,
        hidden_size=HIDDEN_SIZE,
        intermediate_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        **extra.get(architecture, {}),
        **common,
    )


def pico_tokenizer(architecture: str = "bert") -> PreTrainedTokenizerFast:
    """A WordPiece tokenizer that knows the words of `TEXTS`, and spells all others."""
    vocabulary = _ROBERTAS_VOCABULARY if architecture == "roberta" else _VOCABULARY
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", _VOCABULARY["[CLS]"]), ("[SEP]", _VOCABULARY["[SEP]"])],
    )
    inputs = ["input_ids", "attention_mask"]
    if architecture not in ("roberta", "distilbert"):
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
