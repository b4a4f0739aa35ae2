"""The tokenizer of a GGUF file, as its writer meant it.

transformers makes one of the file's vocabulary, by the class of the tokenizer's kind. Of a
byte-level BPE that is GPT-2's, which brings a token `<|endoftext|>` of its own where the file has
none, and one way to split texts for all pre-tokenizers that it has no other for.
"""

import json
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edgefuse.hub.gguf import GGUF

_DIGITS_APART = frozenset(
    ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
)
"""Pre-tokenizers that take every digit alone and then split as GPT-2's (llama.cpp's
llama-vocab.cpp)."""


def as_written(made: PreTrainedTokenizerBase, gguf: GGUF) -> PreTrainedTokenizerBase:
    """Make a tokenizer with a GGUF file's own tokens and splits.

    Args:
        made: The tokenizer that transformers made of the file.
        gguf: What the file says.
    """
    described = json.loads(made.backend_tokenizer.to_str())
    count = made.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    described["added_tokens"] = [t for t in described["added_tokens"] if t["id"] < count]
    if gguf.tokenizer == "gpt2" and gguf.pre_tokenizer in _DIGITS_APART:
        described["pre_tokenizer"] = _digits_first(described["pre_tokenizer"])
    special = {n: t for n, t in made.special_tokens_map.items() if isinstance(t, str)}
    plain: PreTrainedTokenizerBase = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=Tokenizer.from_str(json.dumps(described)),
        model_input_names=made.model_input_names,
        padding_side=made.padding_side,
        truncation_side=made.truncation_side,
        chat_template=made.chat_template,
        **special,
    )
    return plain


def _digits_first(own: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "Sequence",
        "pretokenizers": [{"type": "Digits", "individual_digits": True}, own],
    }
