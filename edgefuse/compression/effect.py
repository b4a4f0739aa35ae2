"""How much an error in an MLP's output changes the last hidden states."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedModel

from edgefuse.compression.fidelity import squared_error
from edgefuse.compression.methods.mlp_fusion import mlp_fusion
from edgefuse.compression.plan import LayerPlan
from edgefuse.compression.refit import refit
from edgefuse.hub.copies import share
from edgefuse.mlps.install import install
from edgefuse.mlps.mlp import MLP, find_mlps
from edgefuse.mlps.neurons import FusedNeurons


@torch.no_grad()
def measure_effects(
    model: PreTrainedModel,
    mlps: Sequence[MLP],
    inputs: Sequence[Tensor],
    plans: Sequence[LayerPlan],
    batches: Sequence[Mapping[str, Tensor]],
) -> dict[int, float]:
    """Fuse one layer at a time, to its planned width, and see what comes out at the top.

    Noise in the place of that error would not do: in all-MiniLM-L6-v2 the first layer's real error
    weighs 20 times as much as the fourth's, and noise of the same size 6 times.

    Args:
        model: Unfused, in evaluation mode.
        mlps: MLPs to fuse.
        inputs: Inputs of each MLP (n, p); an expert may have none.
        plans: Plan of each MLP.
        batches: Arguments of the model's calls on that text.

    Returns:
        By layer, the ratio of the relative squared errors: of the final hidden states, and of the
        output of the layer's MLPs.
    """
    exact = _final(model, batches)
    members: dict[int, list[int]] = {}
    for index, mlp in enumerate(mlps):
        members.setdefault(mlp.layer, []).append(index)
    effects = {}
    for layer, indices in members.items():
        fused, difference, power = [], 0.0, 0.0
        for index in indices:
            view = replace(mlps[index].layer_view(), inputs=inputs[index])
            one = refit(view, mlp_fusion(view, plans[index].width_after, 0))
            assert isinstance(one, FusedNeurons)
            fused.append(one)
            its_difference, its_power = squared_error(view, one, inputs[index])
            difference += its_difference
            power += its_power
        trial = share(model)
        found = {mlp.name: mlp for mlp in find_mlps(trial)}
        install([found[mlps[index].name] for index in indices], fused)
        change = (_final(trial, batches) - exact).double().square().sum()
        error = difference / power if power else 0.0
        effects[layer] = float(change / exact.double().square().sum()) / error if error else 0.0
    return effects


def _final(model: PreTrainedModel, batches: Sequence[Mapping[str, Tensor]]) -> Tensor:
    """The last hidden states (tokens, p), without padding."""
    states = []
    for batch in batches:
        has_two = bool(model.config.is_encoder_decoder)
        output = model.base_model(**batch, output_hidden_states=has_two, return_dict=True)
        final = output.get("last_hidden_state")
        if final is None:  # of an encoder-decoder that is its own base, with its head
            final = output.decoder_hidden_states[-1]
        states.append(final[batch.get("decoder_attention_mask", batch["attention_mask"]).bool()])
    return torch.cat(states)
