"""The shape of the keys and values that a model's attention keeps of a token for later ones."""

import inspect
from dataclasses import dataclass

import torch
from peft.utils.constants import TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING
from torch._subclasses import FakeTensorMode
from transformers import DynamicCache, PreTrainedModel

from edgefuse.hub.copies import with_tensors
from edgefuse.hub.silence import silence_transformers
from edgefuse.tuning.way import INSTEAD
from edgefuse_devices.errors import ModelError
from edgefuse_export.silence import silence


@dataclass(frozen=True)
class CacheShape:
    """Shape of the keys of one token; its values have the same.

    Attributes:
        layers: Count of layers that keep any.
        heads: Count of heads of keys, which are fewer than the queries' in grouped attention.
        size: Size of a head.
    """

    layers: int
    heads: int
    size: int

    def __str__(self) -> str:
        """The shape as messages show it."""
        return f"{self.layers} × {self.heads} × {self.size}"


def shape_of_cache(model: PreTrainedModel) -> CacheShape:
    """Run the backbone on one token and an empty cache, by shapes alone, and look what it keeps.

    Args:
        model: A model with a head, whose weights do not matter.

    Raises:
        ModelError: The backbone takes no cache, or one of its own, or does not keep the same in
            every layer.
    """
    backbone, kind = model.base_model, type(model.base_model).__name__
    if (
        "past_key_values" not in inspect.signature(type(backbone).forward).parameters
        or model.config.is_encoder_decoder
        or model.config.model_type in TRANSFORMERS_MODELS_TO_PREFIX_TUNING_POSTPROCESS_MAPPING
    ):
        raise ModelError(
            f"The attention of {kind} takes no keys and values from outside, and --tune prefix "
            "trains such",
            INSTEAD,
        )
    cache, fakes = DynamicCache(), FakeTensorMode(allow_non_fake_inputs=True)
    try:
        with fakes, silence_transformers(), silence(), torch.no_grad():
            token = torch.ones((1, 1), dtype=torch.int64)
            fake = with_tensors(backbone, fakes.from_tensor)
            fake(input_ids=token, attention_mask=token, past_key_values=cache)
    except Exception as error:  # whatever attention makes of a cache that is not its own
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ModelError(
            f"The attention of {kind} does not run with keys and values from outside: {reason}",
            INSTEAD,
        ) from error
    tensors = [getattr(one, name, None) for one in cache.layers for name in ("keys", "values")]
    kept = {None if tensor is None else (tensor.shape[1], tensor.shape[3]) for tensor in tensors}
    sizes = sorted(filter(None, kept))
    if len(kept) != 1 or not sizes:
        found = " and ".join(f"{heads} × {size}" for heads, size in sizes) or "no"
        raise ModelError(
            f"Keys and values of {kind} are {found} numbers for a token (heads × head size), where "
            "prefixes are as many in every layer",
            INSTEAD,
        )
    return CacheShape(len(cache.layers), *sizes[0])
