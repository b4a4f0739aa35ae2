"""Whether a model tells two texts of a row apart by the types of their tokens."""

from edgefuse_export.tasks.task import ModelFacts


def has_token_types(facts: ModelFacts) -> bool:
    """Whether a model embeds token types, and its tokenizer makes them.

    RoBERTa's configuration may name two types, of which its tokenizer knows nothing: transformers
    feeds it zeros then, as the model itself does where nothing is fed.

    Args:
        facts: What is known of the model; without a tokenizer its configuration decides.
    """
    types = getattr(facts.config, "type_vocab_size", None) or 0
    if types < 2 or facts.tokenizer is None:
        return types >= 2
    return "token_type_ids" in facts.tokenizer.model_input_names
