"""Checks of the token ids that a tokenizer.json makes, alone and against transformers."""

from collections.abc import Mapping

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from edgefuse_devices.errors import ModelError

PROBES = (
    "2023 100000 3.14159 1,234,567",
    "don't  double  space, I'll",
    " leading and trailing ",
    "Größe Ünïcode İstanbul ﬁ Ⅷ e\u0301",
    "你好 привет مرحبا नमस्ते 日本語 한국어 🙂 \ue000",
    "CamelCase SHOUTED snake_case http://a.b/c?d=e\n\n\tx == y",
    "tab\there, line\r\nthere\n",
    "“curly” ‘quotes’, O'Brien’s – it's 👩‍👩‍👧 🇩🇪 ไทย עברית",
    "<s>[INST] <|im_start|>user [SEP] </s> <pad> <|endoftext|>",
    "",
)
"""Texts of which tokenizers that differ are likely to make other ids."""


def telling_texts(wrapper: PreTrainedTokenizerBase) -> list[str]:
    """`PROBES`, and texts in which a user wrote the tokenizer's special tokens."""
    special = [str(token) for token in wrapper.all_special_tokens]
    return [*PROBES, " ".join(special), *(f"a {token}b" for token in special)]


def same_ids(backend: Tokenizer, wrapper: PreTrainedTokenizerBase) -> bool:
    """Whether a tokenizer.json and transformers have one vocabulary and make the same ids."""
    if wrapper.get_vocab() != backend.get_vocab():
        return False
    texts = telling_texts(wrapper)
    theirs: list[list[int]] = wrapper(texts)["input_ids"]
    return theirs == [encoding.ids for encoding in backend.encode_batch(texts)]


def check_special_tokens(
    backend: Tokenizer, wrapper: PreTrainedTokenizerBase, settings: Mapping[str, object], name: str
) -> None:
    """Refuse a tokenizer.json that adds fewer tokens to a text than a model's other files ask for.

    Args:
        backend: The tokenizer of the tokenizer.json.
        wrapper: The tokenizer that transformers makes of all files.
        settings: What tokenizer_config.json holds.
        name: Name of the model, for messages.

    Raises:
        ModelError: transformers adds others, or the settings ask for others.
    """
    added = set(backend.encode("").ids)
    asked = [str(wrapper.convert_ids_to_tokens(token_id)) for token_id in wrapper("")["input_ids"]]
    for setting, token in (
        ("add_bos_token", wrapper.bos_token),
        ("add_eos_token", wrapper.eos_token),
    ):
        if settings.get(setting) and token is not None:
            asked.append(str(token))
    lacking = [token for token in asked if backend.token_to_id(token) not in added]
    if lacking:
        raise ModelError(
            f"The tokenizer of {name} contradicts itself: its class or its tokenizer_config.json "
            f"adds {lacking[0]} to each text, and its tokenizer.json does not",
            "Save it as it was when the model was trained, by `tokenizer.save_pretrained(…)` of "
            "the transformers of that time",
        )


def check_unknown_words(backend: Tokenizer, name: str) -> None:
    """Refuse a tokenizer that fails at a word that it does not know, instead of giving a token.

    Raises:
        ModelError: The tokenizer fails.
    """
    try:
        backend.encode_batch(PROBES)
    except Exception as error:  # the library raises nothing more special
        raise ModelError(
            f"The tokenizer of {name} has no token for words that it does not know: {error}",
            "Give it an unknown token that is in its vocabulary",
        ) from error
