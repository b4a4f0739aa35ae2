"""How many tokens a model takes, and what is refused above that."""

import pytest
import transformers

from edgefuse.bundling.length import choose_length, longest_sequence
from edgefuse.hub.model import empty_model
from edgefuse_devices.errors import InputError
from tests.pico_models import pico_config


@pytest.mark.parametrize(
    ("kind", "longest"),
    [("bert", 64), ("roberta", 62), ("gpt2", 64), ("opt", 64), ("llama", 64), ("modernbert", 64)],
)
def test_more_tokens_than_a_model_has_positions_for_are_refused(kind: str, longest: int) -> None:
    assert longest_sequence(empty_model(pico_config(kind))) == longest
    assert choose_length(longest, longest) == longest
    assert choose_length(None, longest) == longest
    with pytest.raises(
        InputError, match=rf"{longest + 1} is outside 2 to {longest}, which the mod"
    ):
        choose_length(longest + 1, longest)
    with pytest.raises(
        InputError, match=rf"outside 2 to {longest - 5}, .* 5 positions of a prefix"
    ):
        choose_length(longest, longest, prefix=5)


def test_models_without_positions_take_any_length_and_128_unless_told() -> None:
    sizes = {"hidden_size": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20}
    for config in (pico_config("t5"), transformers.BloomConfig(**sizes)):
        longest = longest_sequence(empty_model(config))
        assert choose_length(None, longest) == 128
        assert choose_length(1000, longest) == 1000
