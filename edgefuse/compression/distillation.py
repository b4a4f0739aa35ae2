"""The last stage: all narrow MLPs taught together, each in its place, by the model as it was."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from edgefuse.compression.calibration import batches_within
from edgefuse.compression.progress import TEACHING
from edgefuse.compression.teaching import adam
from edgefuse.hub.copies import with_tensors
from edgefuse.hub.tokenizer import ModelTokenizer
from edgefuse.mlps.inputs import watch_inputs
from edgefuse.mlps.install import place
from edgefuse.mlps.layout import write_neurons
from edgefuse.mlps.low_rank import Replacement, neurons_of
from edgefuse.mlps.mlp import MLP, find_mlps, mlps_in
from edgefuse.mlps.neurons import Layer
from edgefuse_runtime.progress import OnProgress, silent

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_EPOCHS = 2
_RATE = 0.02  # of Adam, in root mean squares of a tensor
_OWN = 1.0  # weight of each MLP's own error against that of the hidden states
_JUDGED = 8  # batches by which the taught ones have to be nearer


def distill(
    model: "PreTrainedModel",
    tokenizer: ModelTokenizer,
    mlps: Sequence[MLP],
    replacements: Sequence[Replacement],
    texts: Sequence[str],
    *,
    seed: int,
    on_progress: OnProgress = silent,
) -> list[Replacement]:
    """Train what takes the MLPs' places so that the model's hidden states stay what they were.

    The tuning stage of MLP Fusion (Wei et al., ICML 2023, arXiv 2307.08941): teacher is the model
    unfused, student the same with the narrow MLPs, and the loss the mean over layers of
    ‖h_student − h_teacher‖² / ‖h_teacher‖², over tokens that are not padding. Narrow MLPs so make
    up for what those below got wrong. Beside it stands each MLP's own error on the teacher's
    inputs, or they would give up what they are for in favour of it. P is constant, and nothing
    else of the model trains.

    Args:
        model: Unfused, in evaluation mode; it stays as it is.
        tokenizer: The model's.
        mlps: Of that model.
        replacements: What takes each one's place.
        texts: Of the task, without labels; 65,536 tokens of them are read.
        seed: Of the batches' order.
        on_progress: Called after each step.

    Returns:
        The taught ones; those given where teaching did not bring them nearer.
    """
    batches = list(batches_within(model, tokenizer, texts))
    layers = [mlp.layer_view() for mlp in mlps]
    before = [one.parameters(layer.bias) for one, layer in zip(replacements, layers, strict=True)]
    trained = [{name: t.clone().requires_grad_() for name, t in own.items()} for own in before]
    lesson = _Lesson(model, mlps, layers, _with(replacements, trained))
    judged = batches[:: max(1, len(batches) // _JUDGED)][:_JUDGED]
    at_first = _mean_loss(lesson, judged)
    steps = _EPOCHS * len(batches)
    optimizer, schedule = adam(before, trained, _RATE, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(_EPOCHS):
        for index, batch in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
            with torch.enable_grad():
                loss = lesson.loss(batches[batch])
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            on_progress(TEACHING, epoch * len(batches) + index + 1, steps)
    if not _mean_loss(lesson, judged) < at_first:
        return list(replacements)
    return _with(replacements, [{name: t.detach() for name, t in own.items()} for own in trained])


class _Lesson:
    """A model, its student, and how far the student is from it."""

    def __init__(
        self,
        model: "PreTrainedModel",
        mlps: Sequence[MLP],
        layers: Sequence[Layer],
        narrow: Sequence[Replacement],
    ) -> None:
        """Put narrow MLPs, whose tensors may want gradients, in MLPs' place in a student."""
        self.teacher = model.base_model  # whatever head there is would be computed for nothing
        self.mlps = mlps_in(self.teacher, mlps)
        self.layers = layers
        self.narrow = narrow
        self.student = with_tensors(self.teacher, lambda tensor: tensor)
        self.student.requires_grad_(requires_grad=False)  # only what stands in MLPs' place learns
        in_student = {mlp.name: mlp for mlp in find_mlps(self.student)}
        place([in_student[mlp.name] for mlp in self.mlps], [neurons_of(one) for one in narrow])

    def loss(self, batch: Mapping[str, Tensor]) -> Tensor:
        """How far the student is from the model on a batch, relative, for a backward pass."""
        given: dict[str, list[Tensor]] = {mlp.name: [] for mlp in self.mlps}  # a shared one's, each
        arguments = {**batch, "output_hidden_states": True, "return_dict": True}
        with torch.no_grad(), watch_inputs(self.mlps, lambda mlp, x: given[mlp.name].append(x)):
            exact = _hidden_states(self.teacher(**arguments), batch)
        tensors = write_neurons(
            [mlp.layout for mlp in self.mlps], [neurons_of(one) for one in self.narrow], folded=True
        )
        said = _hidden_states(functional_call(self.student, tensors, kwargs=arguments), batch)
        states = [_relative(one, other) for one, other in zip(said, exact, strict=True)]
        own = [
            _relative(one.output(x, layer.activation, layer.bias), layer.output(x))
            for one, layer, mlp in zip(self.narrow, self.layers, self.mlps, strict=True)
            if given[mlp.name] and len(x := torch.cat(given[mlp.name]))
        ]
        return torch.stack(states).mean() + _OWN * torch.stack(own).mean()


@torch.no_grad()
def _mean_loss(lesson: _Lesson, batches: Sequence[Mapping[str, Tensor]]) -> float:
    return float(torch.stack([lesson.loss(batch) for batch in batches]).mean())


def _with(
    replacements: Sequence[Replacement], tensors: Sequence[dict[str, Tensor]]
) -> list[Replacement]:
    return [one.with_parameters(own) for one, own in zip(replacements, tensors, strict=True)]


def _hidden_states(output: Any, batch: Mapping[str, Tensor]) -> list[Tensor]:
    """Every layer's (tokens, p), without padding; the embeddings, which stay, left out."""
    mask = batch["attention_mask"].bool()
    if "decoder_attention_mask" not in batch:
        return _real(output.hidden_states[1:], mask)
    decoder = batch["decoder_attention_mask"].bool()
    states = _real(output.encoder_hidden_states[1:], mask)
    return states + _real(output.decoder_hidden_states[1:], decoder)


def _real(states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """Those of tokens that are not padding; a layer that pools tokens has other ones."""
    return [state[mask] for state in states if state.shape[:2] == mask.shape]


def _relative(said: Tensor, exact: Tensor) -> Tensor:
    """‖said − exact‖² / ‖exact‖²."""
    return (said - exact).square().sum() / exact.square().sum().clamp(min=1e-12)
