"""Find the entries of a configuration that say how wide the MLPs are."""

import copy
from collections.abc import Sequence

import torch
from transformers import PretrainedConfig, PreTrainedModel

from edgefuse.hub.silence import silence_transformers
from edgefuse.mlps.mlp import find_mlps

_KEYS = (
    "intermediate_size",
    "n_inner",  # GPT-2; None there means 4 p
    "ffn_dim",  # OPT
    "d_ff",  # T5
    "hidden_dim",  # DistilBERT
    "d_inner",  # XLNet
    "ffn_hidden_size",  # Falcon
    "encoder_ffn_dim",
    "decoder_ffn_dim",
    "moe_intermediate_size",
    "shared_expert_intermediate_size",
    "shared_intermediate_size",
)


def even_widths(model: PreTrainedModel, widths: Sequence[int]) -> dict[str, int] | None:
    """Find what a model's configuration has to say for its MLPs to have these widths.

    Each key is changed on trial, in a model without storage, to see which MLPs follow it.

    Args:
        model: Model whose class is built anew; its configuration has the widths before.
        widths: Width of each MLP, in the order of `find_mlps`.

    Returns:
        The entries to change, or None where no configuration says it: two MLPs that follow the
        same entry differ, or one that changes follows none.
    """
    before = _widths(model, model.config)
    wanted: dict[str, int] = {}
    settled = [old == new for old, new in zip(before, widths, strict=True)]
    for key in _KEYS:
        value = getattr(model.config, key, 0)
        if value is not None and value not in before:
            continue
        changed = copy.deepcopy(model.config)
        setattr(changed, key, 2 * (value or before[0]))
        after = _widths(model, changed)
        following = [i for i, (a, b) in enumerate(zip(before, after, strict=True)) if a != b]
        values = {widths[i] for i in following}
        if len(values) > 1:
            return None
        if values and values != {before[i] for i in following}:
            wanted[key] = values.pop()
        for i in following:
            settled[i] = True
    return wanted if all(settled) else None


def _widths(model: PreTrainedModel, config: PretrainedConfig) -> list[int]:
    with silence_transformers(), torch.device("meta"):
        return [mlp.width for mlp in find_mlps(type(model)(config))]
