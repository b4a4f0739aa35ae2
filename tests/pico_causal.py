"""Pico language models with a byte-level tokenizer: random weights, offline."""

from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from edgefuse.hub.silence import silence_transformers
from tests.pico_models import HIDDEN_SIZE, TEXTS, pico_config

END = "<|end|>"
START = "<|start|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|start|>{{ message['role'] }}\n{{ message['content'] | trim }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@cache
def byte_tokenizer(*, begins: bool = False) -> Tokenizer:
    """A byte-level BPE tokenizer of `TEXTS`; one that begins texts with a token, perhaps."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=[END, START],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if begins:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{START} $A", special_tokens=[(START, tokenizer.token_to_id(START))]
        )
    return tokenizer


def causal_tokenizer(*, begins: bool = False, chats: bool = False) -> PreTrainedTokenizerFast:
    """That tokenizer as transformers has it; like GPT-2's it pads with what ends a text."""
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=byte_tokenizer(begins=begins), eos_token=END, pad_token=END
    )
    if chats:
        wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def causal_model(
    architecture: str = "llama",
    *,
    tied: bool = False,
    layers: int = 1,
    seed: int = 0,
    hidden_size: int = HIDDEN_SIZE,
) -> PreTrainedModel:
    """A pico language model in evaluation mode."""
    config = pico_config(architecture)
    config.hidden_size = hidden_size
    config.vocab_size = byte_tokenizer().get_vocab_size()
    config.num_hidden_layers = layers
    config.tie_word_embeddings = tied
    config.pad_token_id = None
    config.bos_token_id = config.eos_token_id = byte_tokenizer().token_to_id(END)
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # transformers starts them at zero
                parameter.normal_(std=0.2)
    return model


def save_causal_model(
    directory: Path,
    architecture: str = "llama",
    *,
    begins: bool = False,
    chats: bool = False,
    **options: object,
) -> Path:
    """Save a pico language model with its tokenizer and return `directory`."""
    with silence_transformers():
        causal_model(architecture, **options).save_pretrained(directory)
        causal_tokenizer(begins=begins, chats=chats).save_pretrained(directory)
    return directory
