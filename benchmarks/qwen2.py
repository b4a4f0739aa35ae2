"""A model of the shape of Qwen2.5-0.5B with random weights, for benchmarks of memory."""

import shutil
from pathlib import Path

from benchmarks import harness, smollm2

_TOKENIZER = ("tokenizer.json", "tokenizer_config.json")


def bundle_of(kept: Path, *, base: str, tokens: int) -> str:
    """The directory of a bundle that trains LoRA of rank 8 on all linear layers.

    Args:
        kept: A folder that stays until the source changes.
        base: What the frozen weights are kept in.
        tokens: Most tokens of a text.
    """
    sizes = ("--batch-size", "1", "--sequence-length", str(tokens), "--base", base)

    def make(folder: Path) -> None:
        model = kept / "qwen2"
        if not model.exists():
            text = smollm2.in_floats(kept)
            harness.in_fresh_process(save_random, folder=str(model), tokenizer=text)
        harness.edgefuse("export", str(model), str(folder), *smollm2.WRITING, *sizes)
        harness.remove(model)

    return smollm2.once(kept / f"qwen2-{base}", make)


def save_random(*, folder: str, tokenizer: str) -> None:
    """Save the model; runs in a process of its own.

    Args:
        folder: The directory to make.
        tokenizer: A directory with another model's tokenizer, of fewer pieces.
    """
    import torch  # noqa: PLC0415
    from transformers import Qwen2Config, Qwen2ForCausalLM  # noqa: PLC0415

    torch.manual_seed(0)
    shape = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
        eos_token_id=0,
        bos_token_id=0,
    )
    Qwen2ForCausalLM(shape).save_pretrained(folder)
    for name in _TOKENIZER:
        shutil.copy(Path(tokenizer) / name, folder)
