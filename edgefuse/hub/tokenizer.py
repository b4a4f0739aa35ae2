"""A model's tokenizer."""

from transformers import AutoTokenizer, PreTrainedTokenizerBase

from edgefuse.hub.errors import translate_errors
from edgefuse.hub.silence import silence_transformers
from edgefuse.hub.source import ModelSource, find_file
from edgefuse_devices.errors import ModelError


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """Load a model's tokenizer.

    Raises:
        ModelError: It has none.
    """
    with silence_transformers(), translate_errors(f"The tokenizer of {source.name}"):
        tokenizer = AutoTokenizer.from_pretrained(source.name, revision=source.ref)
        # Without its files transformers makes a tokenizer that knows its special tokens only.
        files = {"tokenizer.json", *tokenizer.vocab_files_names.values()}
        if not any(find_file(source, file) for file in sorted(files)):
            raise ModelError(
                f"{source.name} has no tokenizer", "Put its tokenizer.json beside config.json"
            )
    assert isinstance(tokenizer, PreTrainedTokenizerBase)
    return tokenizer
