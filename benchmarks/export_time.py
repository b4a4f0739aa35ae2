"""How long `edgefuse export` takes, for a real model and for each layer, in fresh processes."""

import shutil
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import median

from benchmarks import harness
from benchmarks.data import minilm
from benchmarks.text_generators import tiny_llama

_OPTIONS = ("--device", "rpi5", "--num-labels", "2")
_LAYERS = (
    *("--device", "rpi5", "--task", "text-generation", "--tune", "lora"),
    *("--engine", "onnxruntime-layers"),
)
_SHALLOW, _DEEP = 6, 24


def export_minilm(case: harness.Case) -> harness.Figures:
    """Seconds of a whole export, the check of gradients included."""
    rounds = 1 if case.quick else 3
    measured = [_seconds(minilm(), case.work / f"bundle-{index}") for index in range(rounds)]
    return {"seconds": median(measured), "slowest_seconds": max(measured), "rounds": rounds}


def export_by_depth(case: harness.Case) -> harness.Figures:
    """Seconds for each layer that a model has beyond the first one, at two depths in turn."""
    rounds = 1 if case.quick else 3
    models = {count: _bert(case.work / f"bert-{count}", count) for count in (1, _SHALLOW, _DEEP)}
    runs = iter(range(10**6))

    def export(count: int) -> harness.Figures:
        return {"seconds": _seconds(models[count], case.work / f"bundle-{next(runs)}")}

    sides = {str(count): partial(export, count) for count in models}
    measured = harness.in_turn(sides, rounds=rounds)
    seconds = {name: [figures["seconds"] for figures in of] for name, of in measured.items()}
    first = seconds.pop("1")
    per_layer = {
        int(name): [(one - base) / (int(name) - 1) for one, base in zip(of, first, strict=True)]
        for name, of in seconds.items()
    }
    return {
        f"seconds_per_layer_of_{_SHALLOW}": median(per_layer[_SHALLOW]),
        f"seconds_per_layer_of_{_DEEP}": median(per_layer[_DEEP]),
        "ratio": harness.median_ratio(per_layer[_DEEP], per_layer[_SHALLOW]),
        "seconds_of_one_layer": median(first),
        "rounds": rounds,
    }


def export_layers_by_depth(case: harness.Case) -> harness.Figures:
    """Seconds of a language model that trains layer by layer, at two depths in turn."""
    rounds = 1 if case.quick else 3
    models = {count: _llama(case.work / f"llama-{count}", count) for count in (_SHALLOW, _DEEP)}
    runs = iter(range(10**6))

    def export(count: int) -> harness.Figures:
        output = case.work / f"layers-{next(runs)}"
        return {"seconds": _seconds(models[count], output, options=_LAYERS)}

    measured = harness.in_turn({str(n): partial(export, n) for n in models}, rounds=rounds)
    shallow, deep = ([one["seconds"] for one in measured[str(n)]] for n in (_SHALLOW, _DEEP))
    return {
        f"seconds_of_{_SHALLOW}": median(shallow),
        f"seconds_of_{_DEEP}": median(deep),
        "ratio": harness.median_ratio(deep, shallow),
        "rounds": rounds,
    }


def _llama(folder: Path, layers: int) -> str:
    """A Llama with random weights, of tiny-llama's sizes and tokenizer but for its depth."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer  # noqa: PLC0415

    config = AutoConfig.from_pretrained(tiny_llama())
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)  # type: ignore[no-untyped-call]
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(tiny_llama()).save_pretrained(folder)
    return str(folder)


def _bert(folder: Path, layers: int) -> str:
    """A BERT of MiniLM's sizes with random weights and MiniLM's tokenizer."""
    import torch  # noqa: PLC0415
    from transformers import AutoConfig, AutoModel, AutoTokenizer  # noqa: PLC0415

    config = AutoConfig.from_pretrained(minilm())
    config.num_hidden_layers = layers
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)
    return str(folder)


def _seconds(model: str, output: Path, *, options: Sequence[str] = _OPTIONS) -> float:
    begin = time.perf_counter()
    harness.edgefuse("export", model, str(output), *options)
    seconds = time.perf_counter() - begin
    shutil.rmtree(output)
    return seconds


if __name__ == "__main__":
    harness.main(
        "export_time",
        {
            "all-MiniLM-L6-v2": export_minilm,
            "by depth": export_by_depth,
            "layer by layer": export_layers_by_depth,
        },
        description=__doc__,
        packages=("torch", "transformers", "onnx-ir", "onnxscript"),
        quick=("all-MiniLM-L6-v2", "by depth"),
    )
