"""A model's tokenizer: makes token ids, and saves the files that transformers reads."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.gguf import GGUF
from edgefuse.hub.gguf_tokenizer import as_written
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, as_pretrained, find_file
from edgefuse.hub.split_words import begin_words_with_spaces
from edgefuse.hub.token_ids import check_special_tokens, check_unknown_words, same_ids
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.data.tokenization import limit_length, tokenize

_FILE = "tokenizer.json"
_CONFIG = "tokenizer_config.json"


@dataclass(frozen=True)
class ModelTokenizer:
    """A model's tokenizer.

    Attributes:
        wrapper: The tokenizer as transformers loads it: it knows the special tokens and all
            settings, and saves them.
        backend: The tokenizer that makes token ids: the model's own tokenizer.json, where it has
            one. None where a tokenizer is Python code alone, whose ids the wrapper makes.
    """

    wrapper: PreTrainedTokenizerBase
    backend: Tokenizer | None

    @classmethod
    def of(cls, wrapper: PreTrainedTokenizerBase) -> Self:
        """Take a tokenizer of transformers, whose own backend makes token ids."""
        return cls(wrapper, wrapper.backend_tokenizer if wrapper.is_fast else None)

    @property
    def padding_id(self) -> int | None:
        """Token id that fills rows; None without a token to pad with."""
        token = self.wrapper.pad_token
        if token is None or self.backend is None:
            own: int | None = self.wrapper.pad_token_id
            return own
        found: int | None = self.backend.token_to_id(str(token))
        return found

    @property
    def highest_id(self) -> int:
        """The highest token id that a text may get."""
        vocabulary = self.wrapper.get_vocab() if self.backend is None else self.backend.get_vocab()
        return max(vocabulary.values())

    @property
    def longest(self) -> int:
        """Most tokens of a text that the model was trained on; huge where no file names them."""
        return int(self.wrapper.model_max_length)

    def encode(self, texts: Sequence[str], *, length: int) -> list[NDArray[np.int32]]:
        """Token ids of every text, special tokens included, cut to `length` tokens."""
        if self.backend is None:
            with silence_transformers():
                encoded = self.wrapper(list(texts), truncation=True, max_length=length)
            return [np.array(ids, np.int32) for ids in encoded["input_ids"]]
        return tokenize(self.limited(length), texts)

    def limited(self, length: int) -> Tokenizer:
        """The backend, which from now on cuts texts to `length` tokens and does not pad."""
        assert self.backend is not None
        limit_length(self.backend, length, self.wrapper.truncation_side)
        return self.backend

    def save(self, directory: Path) -> None:
        """Write the files that transformers loads; texts are neither cut nor padded by them."""
        with silence_transformers():
            self.wrapper.save_pretrained(directory)
        if self.backend is not None:
            self.backend.no_truncation()
            self.backend.no_padding()
            self.backend.save(str(directory / _FILE))

    def save_backend(self, directory: Path, *, length: int) -> None:
        """Write tokenizer.json alone, which cuts texts to `length` tokens and does not pad."""
        self.limited(length).save(str(directory / _FILE))


def load_tokenizer(source: ModelSource) -> ModelTokenizer:
    """Load a model's tokenizer.

    Token ids are those of its tokenizer.json. transformers builds some families' tokenizers anew
    from the vocabulary in that file, with pre-tokenizer and normalizer of its own: of other ids
    (https://github.com/huggingface/transformers/issues/45812).

    Raises:
        ModelError: There is none, its files are broken, or they contradict each other about the
            tokens around a text; or there is no token for unknown words, where it needs one.
    """
    if source.gguf is not None:
        return _of_gguf(source, source.gguf)
    with silence_transformers(), translate_errors(f"The tokenizer of {source.name}"):
        wrapper = AutoTokenizer.from_pretrained(
            source.name, revision=source.ref, trust_remote_code=False
        )
        assert isinstance(wrapper, PreTrainedTokenizerBase)
        # Without its files transformers makes a tokenizer that knows its special tokens only.
        files = {_FILE, *wrapper.vocab_files_names.values()}
        if not any(find_file(source, file) for file in sorted(files)):
            raise ModelError(
                f"{source.name} has no tokenizer", f"Put its {_FILE} beside config.json"
            )
        own = find_file(source, _FILE)
        if own is not None:
            return _with_own_backend(source, Path(own), wrapper)
        tokenizer = ModelTokenizer.of(wrapper)
        if tokenizer.backend is not None:
            check_unknown_words(tokenizer.backend, source.name)
        return tokenizer


def _of_gguf(source: ModelSource, gguf: GGUF) -> ModelTokenizer:
    """The tokenizer that transformers makes of a GGUF file."""
    if gguf.tokenizer is None:
        raise ModelError(
            f"{source.name} has no tokenizer", "Name a GGUF file that holds a whole model"
        )
    with (
        silence_transformers(),
        translate_errors(f"The tokenizer of {source.name}"),
        as_pretrained(source) as (name, options),
    ):
        wrapper = AutoTokenizer.from_pretrained(name, **options, trust_remote_code=False)
        tokenizer = ModelTokenizer.of(as_written(wrapper, gguf))
    assert tokenizer.backend is not None
    check_unknown_words(tokenizer.backend, source.name)
    return tokenizer


def load_padding_tokenizer(source: ModelSource, *, split_words: bool = False) -> ModelTokenizer:
    """Load a tokenizer that a tokenizer.json holds and that can pad: with a text's end at need.

    Args:
        source: The model.
        split_words: Whether texts come as words, which get the token ids that they have in a text.

    Raises:
        ModelError: There is none, or it has no token to pad with.
    """
    tokenizer = load_tokenizer(source)
    wrapper = tokenizer.wrapper
    if tokenizer.padding_id is None and wrapper.eos_token is not None:
        wrapper.pad_token = wrapper.eos_token  # as most do for GPT-2 and Llama
    if tokenizer.backend is None or tokenizer.padding_id is None:
        raise ModelError(
            f"{source.name} has no {_FILE} with a token to pad or to end a text with",
            "Give its tokenizer a `pad_token`, and save it with `save_pretrained`",
        )
    if tokenizer.backend.encode_special_tokens:
        raise ModelError(
            f"The tokenizer of {source.name} splits special tokens in texts, which no {_FILE} "
            "can say",
            f"Take split_special_tokens out of {_CONFIG}",
        )
    if split_words:
        wrapper = begin_words_with_spaces(wrapper, tokenizer.backend, source.name)
        return ModelTokenizer(wrapper, tokenizer.backend)
    return tokenizer


def _with_own_backend(
    source: ModelSource, file: Path, wrapper: PreTrainedTokenizerBase
) -> ModelTokenizer:
    """Join the tokenizer of a tokenizer.json with a wrapper that makes the same ids."""
    backend = Tokenizer.from_file(str(file))
    backend.encode_special_tokens = wrapper.split_special_tokens
    backend.no_truncation()
    backend.no_padding()
    check_unknown_words(backend, source.name)
    check_special_tokens(backend, wrapper, _settings(source), source.name)
    if same_ids(backend, wrapper):
        return ModelTokenizer(wrapper, backend)
    # The wrapper that takes tokenizer.json as it is, and adds what other files of the model name.
    plain = PreTrainedTokenizerFast.from_pretrained(source.name, revision=source.ref)
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    named = [token for _, token in sorted(plain.added_tokens_decoder.items())]
    backend.add_tokens([token for token in named if token.content not in known])
    if same_ids(backend, wrapper):
        return ModelTokenizer(wrapper, backend)
    vocabulary = backend.get_vocab()
    for name, token in wrapper.special_tokens_map.items():
        if getattr(plain, name) is None and token in vocabulary:
            setattr(plain, name, token)
    for setting in ("model_input_names", "truncation_side", "padding_side"):
        setattr(plain, setting, getattr(wrapper, setting))
    return ModelTokenizer(plain, backend)


def _settings(source: ModelSource) -> dict[str, Any]:
    """What tokenizer_config.json holds."""
    file = find_file(source, _CONFIG)
    settings = json.loads(Path(file).read_text(encoding="utf-8")) if file else {}
    return dict(settings)
