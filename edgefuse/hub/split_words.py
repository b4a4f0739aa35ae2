"""Tokenizers for texts that are split into words already.

A byte-level BPE, as RoBERTa, GPT-2, Llama 3 and Qwen have it, makes the space before a word a part
of the word's token. A word that comes alone has no such space, and gets tokens that the model knows
from the middle of words (https://github.com/huggingface/transformers/issues/9607).
"""

import json

from tokenizers import Tokenizer, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edgefuse_devices.errors import ModelError

_PROBES = ("turn on the light", "the door of the hall is open")


def begin_words_with_spaces(
    wrapper: PreTrainedTokenizerBase, backend: Tokenizer, name: str
) -> PreTrainedTokenizerBase:
    """Let a tokenizer make the same token ids of words as of a text with spaces between them.

    A ByteLevel pre-tokenizer gets `add_prefix_space`. Behind a pre-tokenizer that splits, it would
    put a space before each part of a word; there a normalizer puts one before the word, which only
    transformers' plain tokenizer class keeps.

    Args:
        wrapper: The tokenizer of transformers, which changes in place or is replaced.
        backend: The tokenizer that makes token ids, which changes in place.
        name: Name of the model, for messages.

    Returns:
        The tokenizer of transformers, which saves what was changed.

    Raises:
        ModelError: The tokenizer makes other ids of words all the same.
    """
    if _reads_words(backend):
        return wrapper
    if isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        for tokenizer in (backend, wrapper.backend_tokenizer):
            level = tokenizer.pre_tokenizer
            level.add_prefix_space = True
            tokenizer.pre_tokenizer = level
            _count_spaces_in_offsets(tokenizer)
        wrapper.add_prefix_space = True
        wrapper.init_kwargs["add_prefix_space"] = True
    else:
        own = [] if backend.normalizer is None else [backend.normalizer]
        backend.normalizer = normalizers.Sequence([normalizers.Prepend(" "), *own])
        _count_spaces_in_offsets(backend)
        wrapper = _plain(wrapper, backend)
    if not _reads_words(backend):
        raise ModelError(
            f"The tokenizer of {name} makes other tokens of single words than of a text",
            "Begin from a model whose tokenizer splits texts into words, such as BERT's",
        )
    return wrapper


def _reads_words(backend: Tokenizer) -> bool:
    """Whether words that come alone get the tokens that they have in a text."""
    whole = backend.encode_batch(_PROBES, add_special_tokens=False)
    split = backend.encode_batch(
        [text.split() for text in _PROBES], is_pretokenized=True, add_special_tokens=False
    )
    return [one.ids for one in whole] == [one.ids for one in split]


def _count_spaces_in_offsets(tokenizer: Tokenizer) -> None:
    """Let a post-processor that takes spaces out of offsets know that the first was added."""
    described = json.loads(tokenizer.to_str())
    own = described["post_processor"]
    parts = own["processors"] if own and own["type"] == "Sequence" else [own]
    changed = [part for part in parts if part and "add_prefix_space" in part]
    for part in changed:
        part["add_prefix_space"] = True
    if changed:
        tokenizer.post_processor = Tokenizer.from_str(json.dumps(described)).post_processor


def _plain(wrapper: PreTrainedTokenizerBase, backend: Tokenizer) -> PreTrainedTokenizerBase:
    """A tokenizer of transformers that takes a tokenizer.json as it is."""
    special = {n: t for n, t in wrapper.special_tokens_map.items() if isinstance(t, str)}
    plain: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        model_max_length=wrapper.model_max_length,
        model_input_names=wrapper.model_input_names,
        padding_side=wrapper.padding_side,
        truncation_side=wrapper.truncation_side,
        add_prefix_space=True,  # what classes that build a tokenizer anew make of it is near
        **special,
    )
    return plain
