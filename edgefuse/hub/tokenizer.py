"""A model's tokenizer: what makes token ids of texts, and what transformers saves of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_file
from edgefuse_devices.errors import ModelError
from edgefuse_runtime.data.tokenization import limit_length, tokenize

_FILE = "tokenizer.json"


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
        """The tokenizer that transformers made, whose own backend makes token ids."""
        return cls(wrapper, wrapper.backend_tokenizer if wrapper.is_fast else None)

    @property
    def padding_id(self) -> int | None:
        """Token id that fills rows; None without a token to pad with."""
        padding_id = self.wrapper.pad_token_id
        return None if padding_id is None else int(padding_id)

    @property
    def highest_id(self) -> int:
        """The highest token id that a text may get."""
        vocabulary = self.wrapper.get_vocab() if self.backend is None else self.backend.get_vocab()
        return max(vocabulary.values())

    @property
    def longest(self) -> int:
        """Tokens of the longest text that the model was trained on; huge where nothing names it."""
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

    Raises:
        ModelError: There is none, or its files are broken.
    """
    with silence_transformers(), translate_errors(f"The tokenizer of {source.name}"):
        wrapper = AutoTokenizer.from_pretrained(source.name, revision=source.ref)
        # Without its files transformers makes a tokenizer that knows its special tokens only.
        files = {_FILE, *wrapper.vocab_files_names.values()}
        if not any(find_file(source, file) for file in sorted(files)):
            raise ModelError(
                f"{source.name} has no tokenizer", f"Put its {_FILE} beside config.json"
            )
        own = find_file(source, _FILE)
        assert isinstance(wrapper, PreTrainedTokenizerBase)
        if own is None or not wrapper.is_fast:
            return ModelTokenizer.of(wrapper)
        return ModelTokenizer(wrapper, _own_backend(Path(own), wrapper))


def load_padding_tokenizer(source: ModelSource) -> ModelTokenizer:
    """Load a tokenizer that is no Python code and can pad: with the end of a text at need.

    Raises:
        ModelError: The model has none, or no token to pad with.
    """
    tokenizer = load_tokenizer(source)
    wrapper = tokenizer.wrapper
    if wrapper.pad_token_id is None and wrapper.eos_token is not None:
        wrapper.pad_token = wrapper.eos_token  # as most do for GPT-2 and Llama
    if tokenizer.backend is None or tokenizer.padding_id is None:
        raise ModelError(
            f"{source.name} has no tokenizer.json with a token to pad or to end a text with",
            "Give its tokenizer a `pad_token`, and save it with `save_pretrained`",
        )
    return tokenizer


def _own_backend(file: Path, wrapper: PreTrainedTokenizerBase) -> Tokenizer:
    """The tokenizer of a tokenizer.json, with the tokens that other files of the model add."""
    backend = Tokenizer.from_file(str(file))
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    added = sorted(wrapper.added_tokens_decoder.items())
    backend.add_tokens([token for _, token in added if token.content not in known])
    return backend
