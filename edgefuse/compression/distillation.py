"""The last stage: all narrow MLPs taught together, each in its place, by the model as it was."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
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

Batch = Mapping[str, Tensor]

_EPOCHS = 2
_RATE = 0.02  # of Adam, in root mean squares of a tensor
_OWN = 1.0  # weight of each MLP's own error against that of the hidden states
_JUDGED = 8  # batches by which the taught ones have to be nearer
_BYTES = 1 << 30  # of the teacher's answers that are kept


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
        tokenizer: The model's tokenizer.
        mlps: The model's MLPs to replace.
        replacements: What takes each one's place.
        texts: Texts of the task, without labels; 65,536 tokens of them are read.
        seed: Seed of the batches' order.
        on_progress: Called after each step.

    Returns:
        The taught ones; those given where teaching did not bring them nearer.
    """
    batches = list(batches_within(model, tokenizer, texts))
    layers = [mlp.layer_view() for mlp in mlps]
    teacher = _Teacher(model, mlps, layers, batches)
    before = [one.parameters(layer.bias) for one, layer in zip(replacements, layers, strict=True)]
    trained = [{name: t.clone().requires_grad_() for name, t in own.items()} for own in before]
    student = _Student(teacher, layers, _with_parameters(replacements, trained))
    judged = range(len(batches))[:: max(1, len(batches) // _JUDGED)][:_JUDGED]
    at_first = student.mean_loss(judged)
    steps = _EPOCHS * len(batches)
    optimizer, schedule = adam(before, trained, _RATE, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(_EPOCHS):
        for index, batch in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
            with torch.enable_grad():
                loss = student.loss(batch)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
            on_progress(TEACHING, epoch * len(batches) + index + 1, steps)
    if not student.mean_loss(judged) < at_first:
        return list(replacements)
    taught = [{name: t.detach() for name, t in own.items()} for own in trained]
    return _with_parameters(replacements, taught)


@dataclass(frozen=True)
class _Answer:
    """What the unfused model computes on a batch.

    Attributes:
        states: Hidden states of every layer (tokens, p).
        inputs: Inputs of every MLP (n, p); an expert may have none.
        outputs: Outputs of every MLP (n, p).
    """

    states: Sequence[Tensor]
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return sum(t.nbytes for t in (*self.states, *self.inputs, *self.outputs))


class _Teacher:
    """The unfused model and its answers, which are computed once as far as memory goes."""

    def __init__(
        self,
        model: "PreTrainedModel",
        mlps: Sequence[MLP],
        layers: Sequence[Layer],
        batches: Sequence[Batch],
    ) -> None:
        self.model = model.base_model  # whatever head there is would be computed for nothing
        self.mlps = mlps_in(self.model, mlps)
        self.batches = batches
        self._layers = layers
        self._kept: dict[int, _Answer] = {}
        self._room = _BYTES

    def answer(self, index: int) -> _Answer:
        """The answer to the batch of that index."""
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        answer = self._compute(self.batches[index])
        if answer.nbytes <= self._room:
            self._kept[index] = answer
            self._room -= answer.nbytes
        return answer

    @torch.no_grad()
    def _compute(self, batch: Batch) -> _Answer:
        seen: dict[str, list[Tensor]] = {
            mlp.name: [] for mlp in self.mlps
        }  # several of a shared one
        with watch_inputs(self.mlps, lambda mlp, x: seen[mlp.name].append(x)):
            states = _hidden_states(self.model, batch)
        inputs = [
            torch.cat(seen[mlp.name] or [states[0].new_zeros(0, mlp.hidden_size)])
            for mlp in self.mlps
        ]
        outputs = [layer.output(x) for layer, x in zip(self._layers, inputs, strict=True)]
        return _Answer(states, inputs, outputs)


class _Student:
    """The model with narrow MLPs, and how far it is from its teacher."""

    def __init__(
        self, teacher: _Teacher, layers: Sequence[Layer], narrow: Sequence[Replacement]
    ) -> None:
        """Put narrow MLPs, whose tensors may want gradients, in the MLPs' places in a copy."""
        self._teacher = teacher
        self._layers = layers
        self._narrow = narrow
        self._model = with_tensors(teacher.model, lambda tensor: tensor)
        self._model.requires_grad_(requires_grad=False)  # only what is put in trains
        own = {mlp.name: mlp for mlp in find_mlps(self._model)}
        place([own[mlp.name] for mlp in teacher.mlps], [neurons_of(one) for one in narrow])

    def loss(self, index: int) -> Tensor:
        """The relative errors on the batch of that index, for a backward pass."""
        answer = self._teacher.answer(index)
        tensors = write_neurons(
            [mlp.layout for mlp in self._teacher.mlps],
            [neurons_of(one) for one in self._narrow],
            folded=True,
        )
        states = _hidden_states(self._model, self._teacher.batches[index], tensors)
        own = [
            _relative(one.output(x, layer.activation, layer.bias), y)
            for one, layer, x, y in zip(
                self._narrow, self._layers, answer.inputs, answer.outputs, strict=True
            )
            if len(x)
        ]
        errors = [_relative(*pair) for pair in zip(states, answer.states, strict=True)]
        return torch.stack(errors).mean() + _OWN * torch.stack(own).mean()

    @torch.no_grad()
    def mean_loss(self, indices: Sequence[int]) -> float:
        """Mean of the losses on the batches of these indices."""
        return float(torch.stack([self.loss(index) for index in indices]).mean())


def _with_parameters(
    replacements: Sequence[Replacement], tensors: Sequence[dict[str, Tensor]]
) -> list[Replacement]:
    return [one.with_parameters(own) for one, own in zip(replacements, tensors, strict=True)]


def _hidden_states(
    model: nn.Module, batch: Batch, tensors: Mapping[str, Tensor] | None = None
) -> list[Tensor]:
    """Hidden states of every layer (tokens, p), without padding and without the embeddings'.

    Args:
        model: The model.
        batch: Arguments of the model's call.
        tensors: Tensors, by name, to compute with instead of the model's own.
    """
    arguments = {**batch, "output_hidden_states": True, "return_dict": True}
    output: Any = functional_call(model, dict(tensors or {}), kwargs=arguments)
    mask = batch["attention_mask"].bool()
    if "decoder_attention_mask" not in batch:
        return _without_padding(output.hidden_states[1:], mask)
    decoder = batch["decoder_attention_mask"].bool()
    states = _without_padding(output.encoder_hidden_states[1:], mask)
    return states + _without_padding(output.decoder_hidden_states[1:], decoder)


def _without_padding(states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """Hidden states of the tokens that count; a layer that pools tokens has other ones."""
    return [state[mask] for state in states if state.shape[:2] == mask.shape]


def _relative(student: Tensor, teacher: Tensor) -> Tensor:
    """‖student − teacher‖² / ‖teacher‖²."""
    return (student - teacher).square().sum() / teacher.square().sum().clamp(min=1e-12)
