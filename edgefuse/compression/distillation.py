"""The last stage: all narrow MLPs taught together, each in its place, by the model as it was."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from edgefuse.compression.calibration import batches_within
from edgefuse.compression.distillation_settings import DistillationSettings
from edgefuse.compression.progress import TEACHING
from edgefuse.compression.teaching import adam
from edgefuse.hub.copies import with_tensors
from edgefuse.hub.model import embedding_rows
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


_JUDGED = 8  # batches by which the taught ones have to be nearer
_LOGITS_AT_ONCE = 1 << 25  # 128 MiB, some times over
_TOKENS_AT_ONCE = 512  # what is kept for their gradients is a megabyte a token in a small model


def distill(
    model: "PreTrainedModel",
    tokenizer: ModelTokenizer,
    mlps: Sequence[MLP],
    replacements: Sequence[Replacement],
    texts: Sequence[str],
    *,
    settings: DistillationSettings,
    seed: int,
    on_progress: OnProgress = silent,
) -> list[Replacement]:
    """Train what takes the MLPs' places so that the model's hidden states stay what they were.

    The tuning stage of MLP Fusion (Wei et al., ICML 2023, arXiv 2307.08941): teacher is the model
    unfused, student the same with the narrow MLPs, and the loss the mean over layers of
    ‖h_student − h_teacher‖² / ‖h_teacher‖², over tokens that are not padding. Narrow MLPs so make
    up for what those below got wrong. Beside it stands each MLP's own error on the teacher's
    inputs, or they would give up what they are for in favour of it. Of a language model it is, in
    place of that, the Kullback-Leibler divergence of the next token's distributions (Hinton et
    al., 2015, arXiv 1503.02531), which says what of the last states matters. P is constant, and
    nothing else of the model trains.

    Few tokens are taught at once and what the teacher says of them is computed each time, so that
    memory does not grow with the text.

    Args:
        model: Unfused, in evaluation mode; it stays as it is.
        tokenizer: The model's tokenizer.
        mlps: The model's MLPs to replace.
        replacements: What takes each one's place.
        texts: Texts of the task, without labels, of which `settings.tokens` are read.
        settings: How they are taught.
        seed: Seed of the batches' order.
        on_progress: Called after each step.

    Returns:
        The taught ones; those given where teaching did not bring them nearer.
    """
    batches = list(batches_within(model, tokenizer, texts, settings.tokens))
    layers = [mlp.layer_view() for mlp in mlps]
    teacher = _Teacher(model, mlps, watches=settings.own > 0)
    before = [one.parameters(layer.bias) for one, layer in zip(replacements, layers, strict=True)]
    trained = [{name: t.clone().requires_grad_() for name, t in own.items()} for own in before]
    student = _Student(teacher, layers, _with_parameters(replacements, trained), settings)
    judged = batches[:: max(1, len(batches) // _JUDGED)][:_JUDGED]
    at_first = student.mean_loss(judged)
    steps = settings.epochs * len(batches)
    optimizer, schedule = adam(before, trained, settings.rate, steps)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(settings.epochs):
        for index, batch in enumerate(torch.randperm(len(batches), generator=generator).tolist()):
            optimizer.zero_grad()
            student.learn(batches[batch])
            optimizer.step()
            schedule.step()
            on_progress(TEACHING, epoch * len(batches) + index + 1, steps)
    if not student.mean_loss(judged) < at_first:
        return list(replacements)
    taught = [{name: t.detach() for name, t in own.items()} for own in trained]
    return _with_parameters(replacements, taught)


@dataclass(frozen=True)
class _Outputs:
    """What a model gives for some tokens.

    Attributes:
        states: Hidden states of every layer (tokens, p).
        logits: Logits of the next token (tokens, V); None of a model that does not write.
    """

    states: Sequence[Tensor]
    logits: Tensor | None


class _Teacher:
    """The unfused model."""

    def __init__(self, model: "PreTrainedModel", mlps: Sequence[MLP], *, watches: bool) -> None:
        """Take a model.

        Args:
            model: The model.
            mlps: MLPs of the model that are to be replaced.
            watches: Whether what they are given is asked for.
        """
        self._watches = watches
        self.vocabulary = embedding_rows(model)
        # Of what does not write, whatever head there is would be computed for nothing.
        self.model: nn.Module = model if model.can_generate() else model.base_model
        self.mlps = mlps_in(self.model, mlps)

    @torch.no_grad()
    def answer(self, batch: Batch) -> tuple["_Outputs", list[Tensor]]:
        """What it gives for a batch, and each MLP's inputs (n, p); an expert may have none."""
        # Several of an MLP that layers share:
        seen: dict[str, list[Tensor]] = {mlp.name: [] for mlp in self.mlps}
        watched = self.mlps if self._watches else []
        with watch_inputs(watched, lambda mlp, x: seen[mlp.name].append(x)):
            outputs = _outputs_of(self.model, batch)
        none = outputs.states[0].new_zeros
        return outputs, [
            torch.cat(seen[mlp.name] or [none(0, mlp.hidden_size)]) for mlp in self.mlps
        ]


class _Student:
    """The model with narrow MLPs, and how far it is from its teacher."""

    def __init__(
        self,
        teacher: _Teacher,
        layers: Sequence[Layer],
        narrow: Sequence[Replacement],
        settings: DistillationSettings,
    ) -> None:
        """Put narrow MLPs, whose tensors may want gradients, in the MLPs' places in a copy."""
        self._teacher = teacher
        self._layers = layers
        self._narrow = narrow
        self._settings = settings
        self._at_once = _TOKENS_AT_ONCE
        if settings.next:
            self._at_once = min(_TOKENS_AT_ONCE, _LOGITS_AT_ONCE // teacher.vocabulary)
        self._model = with_tensors(teacher.model, lambda tensor: tensor)
        self._model.requires_grad_(requires_grad=False)  # only what is put in trains
        own = {mlp.name: mlp for mlp in find_mlps(self._model)}
        place([own[mlp.name] for mlp in teacher.mlps], [neurons_of(one) for one in narrow])

    @torch.enable_grad()
    def learn(self, batch: Batch) -> None:
        """Add up the gradients of the loss on a batch."""
        for part, share in _parts(batch, self._at_once):
            (share * self._loss(part)).backward()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def mean_loss(self, batches: Sequence[Batch]) -> float:
        """Mean of the losses on these batches."""
        parts = (part for batch in batches for part in _parts(batch, self._at_once))
        losses = [share * self._loss(part) for part, share in parts]
        return float(torch.stack(losses).sum()) / len(batches)

    def _loss(self, batch: Batch) -> Tensor:
        """The relative errors on a batch, and how far the next tokens' distributions are apart."""
        meant, inputs = self._teacher.answer(batch)
        tensors = write_neurons(
            [mlp.layout for mlp in self._teacher.mlps],
            [neurons_of(one) for one in self._narrow],
            folded=True,
        )
        outputs = _outputs_of(self._model, batch, tensors)
        errors = [_relative(*pair) for pair in zip(outputs.states, meant.states, strict=True)]
        loss = torch.stack(errors).mean()
        if self._settings.own:
            loss = loss + self._settings.own * self._own_error(inputs)
        if self._settings.next:
            assert outputs.logits is not None
            assert meant.logits is not None
            loss = loss + self._settings.next * _divergence(outputs.logits, meant.logits)
        return loss

    def _own_error(self, inputs: Sequence[Tensor]) -> Tensor:
        """Mean over MLPs of the relative error on inputs (n, p) that the teacher's have."""
        errors = [
            _relative(one.output(x, layer.activation, layer.bias), layer.output(x))
            for one, layer, x in zip(self._narrow, self._layers, inputs, strict=True)
            if len(x)
        ]
        return torch.stack(errors).mean()


def _with_parameters(
    replacements: Sequence[Replacement], tensors: Sequence[dict[str, Tensor]]
) -> list[Replacement]:
    return [one.with_parameters(own) for one, own in zip(replacements, tensors, strict=True)]


def _parts(batch: Batch, most: int) -> Iterator[tuple[Batch, float]]:
    """Rows of a batch with so many tokens at most, and what part of its tokens they have."""
    rows, length = batch["input_ids"].shape
    tokens = int(batch["attention_mask"].sum())
    at_once = max(1, most // length)
    for begin in range(0, rows, at_once):
        part = {name: tensor[begin : begin + at_once] for name, tensor in batch.items()}
        yield part, int(part["attention_mask"].sum()) / tokens


def _outputs_of(
    model: nn.Module, batch: Batch, tensors: Mapping[str, Tensor] | None = None
) -> _Outputs:
    """What a model gives for a batch's tokens, without padding.

    Args:
        model: The model.
        batch: Arguments of the model's call.
        tensors: Tensors, by name, to compute with instead of the model's own.
    """
    arguments = {**batch, "output_hidden_states": True, "return_dict": True}
    output: Any = functional_call(model, dict(tensors or {}), kwargs=arguments)
    logits = output.get("logits")
    mask = batch["attention_mask"].bool()
    if "decoder_attention_mask" not in batch:
        states = _without_padding(output.hidden_states[1:], mask)  # the first are embeddings
        return _Outputs(states, None if logits is None else logits[mask])
    decoder = batch["decoder_attention_mask"].bool()
    states = _without_padding(output.encoder_hidden_states[1:], mask)
    states += _without_padding(output.decoder_hidden_states[1:], decoder)
    return _Outputs(states, None if logits is None else logits[decoder])


def _without_padding(states: Sequence[Tensor], mask: Tensor) -> list[Tensor]:
    """Hidden states of the tokens that count; a layer that pools tokens has other ones."""
    return [state[mask] for state in states if state.shape[:2] == mask.shape]


def _relative(student: Tensor, teacher: Tensor) -> Tensor:
    """‖student − teacher‖² / ‖teacher‖²."""
    return (student - teacher).square().sum() / teacher.square().sum().clamp(min=1e-12)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean over tokens of KL(teacher ‖ student), of logits (tokens, V)."""
    narrow, wide = student.log_softmax(dim=-1), teacher.log_softmax(dim=-1)
    return F.kl_div(narrow, wide, reduction="batchmean", log_target=True)
