"""What MLP Fusion and its like will do to a model: planned, then done."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from transformers import PretrainedConfig, PreTrainedModel

from edgefuse.artifact.record import CompressionRecord, LayerRecord, read_record
from edgefuse.artifact.save import VARIANT, save_compressed, save_description
from edgefuse.artifact.widths import even_widths
from edgefuse.compression.allocation import check_allocation
from edgefuse.compression.calibration import Texts, split_texts
from edgefuse.compression.fusion import fuse_model
from edgefuse.compression.plan import LayerPlan, plan_layers
from edgefuse.compression.recipe import Recipe
from edgefuse.compression.reduction import Reduction, check_fit
from edgefuse.compression.streaming import StoredModel, fuse_stored, open_stored
from edgefuse.hub.device import computing_on, fastest, move
from edgefuse.hub.model import empty_model, load_config, load_model
from edgefuse.hub.source import ModelSource
from edgefuse.hub.tokenizer import load_tokenizer
from edgefuse.mlps.mlp import MLP, find_mlps, unknown_experts
from edgefuse.mlps.verify import verify, verify_without_weights
from edgefuse_devices.errors import DataError, InputError, ModelError
from edgefuse_devices.probe import probe
from edgefuse_runtime.data.texts import read_texts
from edgefuse_runtime.progress import OnProgress, silent

_BYTES_BESIDE_WEIGHTS = 20_000_000


@dataclass(frozen=True)
class FusionPlan:
    """What will be done to a model's MLPs, known from its configuration and the text.

    Attributes:
        source: The model.
        config: Configuration of the model.
        empty: The model without weights.
        recipe: What is done to each MLP.
        allocation: How widths are shared out: `even` or `sensitivity`.
        texts: Text to look at, and text that errors are measured on.
        tune_texts: Text of the teaching stages, if not that to look at.
        layers: Each MLP to fuse, bottom first, and the width that the method is given for it.
        outcome: What becomes of them, which differs where a method keeps the width.
        left_out: Names of modules with experts that are built in no way EdgeFuse knows, and stay.
    """

    source: ModelSource
    config: PretrainedConfig
    empty: PreTrainedModel = field(repr=False, compare=False)
    recipe: Recipe
    allocation: str
    texts: Texts | None = field(repr=False)
    tune_texts: Sequence[str] = field(repr=False)
    layers: tuple[LayerPlan, ...]
    outcome: tuple[LayerPlan, ...]
    left_out: tuple[str, ...]

    @property
    def parameters_before(self) -> int:
        """Elements of all parameters of the model."""
        return self.empty.num_parameters()

    @property
    def parameters_after(self) -> int:
        """Elements of all parameters afterwards."""
        return self._parameters_after(self.outcome)

    @property
    def even(self) -> bool:
        """Whether the configuration can say all widths afterwards."""
        return _is_even(self.empty, self.outcome)

    @property
    def needed_bytes(self) -> int:
        """Room on the disk that the compressed model takes."""
        return self.parameters_after * 4 + _BYTES_BESIDE_WEIGHTS

    def preview(self, on_progress: OnProgress = silent) -> CompressionRecord:  # noqa: ARG002
        """The record without what only the weights show: P and the errors."""
        return self._record(
            [LayerRecord(**vars(layer)) for layer in self.outcome], type(self.empty).__name__
        )

    def make(self, directory: Path, on_progress: OnProgress = silent) -> CompressionRecord:
        """Fuse the model and write it to an empty directory.

        Raises:
            InputError: The model's weights or the text do not hold.
        """
        if self.texts is None:
            stored = open_stored(self.source, self.config)
            if stored is not None:
                return self._make_from_files(stored, directory, on_progress)
            _check_memory(self.source, self.empty)  # there are no files to read an MLP at a time
        return self._make_in_memory(directory, on_progress)

    def _make_from_files(
        self, stored: StoredModel, directory: Path, on_progress: OnProgress
    ) -> CompressionRecord:
        tokenizer = load_tokenizer(self.source)
        verify_without_weights(stored.model, _chosen(stored.model, self.layers))
        folded = all(layer.kind == "fused" for layer in self.outcome)
        layers = fuse_stored(
            stored,
            self.layers,
            self.recipe,
            directory,
            variant=None if folded else VARIANT,
            on_progress=on_progress,
        )
        record = self._record(layers, type(stored.model).__name__)
        save_description(directory, stored.model, tokenizer, record)
        return record

    def _make_in_memory(self, directory: Path, on_progress: OnProgress) -> CompressionRecord:
        tokenizer = load_tokenizer(self.source)
        # A pooler that the source lacks is made up the same each time.
        torch.manual_seed(self.recipe.seed)
        model = load_model(self.source, self.config)
        device = fastest()
        with computing_on(device):
            move(model, device)
            verify(model, _chosen(model, self.layers))
            layers = fuse_model(
                model,
                self.layers,
                self.recipe,
                tokenizer=tokenizer,
                texts=self.texts,
                tune_texts=self.tune_texts,
                on_progress=on_progress,
            )
        record = self._record(layers, type(model).__name__)
        move(model, torch.device("cpu"))
        save_compressed(directory, model, tokenizer, record)
        return record

    def _record(self, layers: Sequence[LayerRecord], architecture: str) -> CompressionRecord:
        return CompressionRecord(
            method=self.recipe.method.name,
            paper=self.recipe.method.paper,
            source=self.source.label,
            revision=self.source.revision,
            architecture=architecture,
            seed=self.recipe.seed,
            even=_is_even(self.empty, layers),
            parameters_before=self.parameters_before,
            parameters_after=self._parameters_after(layers),
            allocation=self.allocation,
            refitted=self.recipe.refits,
            tuned=self.recipe.teaches,
            calibration_texts=len(self.texts.seen) if self.texts else 0,
            held_out_texts=len(self.texts.held_out) if self.texts else 0,
            layers=list(layers),
            left_out=list(self.left_out),
        )

    def _parameters_after(self, layers: Sequence[LayerPlan | LayerRecord]) -> int:
        less = sum(layer.parameters_before - layer.parameters_after for layer in layers)
        return self.parameters_before - less


def plan_fusion(source: ModelSource, method: Reduction, *, seed: int = 0) -> FusionPlan:
    """Plan which MLPs become how wide, and read the text.

    Args:
        source: The model.
        method: What makes each MLP smaller, with its options.
        seed: Seed of the method and of teaching.

    Raises:
        InputError: The model, an option or the text does not hold, or the method does not suit
            the model; the message names the reason.
    """
    if read_record(Path(source.name)) is not None:
        raise ModelError(
            f"{source.name} is compressed already", "Start from the model that it was made from"
        )
    config = load_config(source)
    empty = empty_model(config)
    blocks = find_mlps(empty)
    planned = plan_layers(blocks, ratio=method.ratio, width=method.width, layers=method.layers)
    chosen = _chosen(empty, planned)
    check_fit(method, chosen, [layer.width_after for layer in planned])
    has_text = method.calibration is not None or method.tune_text is not None
    check_allocation(method.allocation, has_text=has_text)
    if method.refit and not has_text:
        raise InputError("A refit needs text to fit to", "Give --calibration a file of texts")
    if method.needs_text and not has_text:
        raise InputError(
            f"The method {method.name} needs text to see which neurons are active",
            "Give --calibration a file of example texts, or choose another --method",
        )
    if has_text:
        _check_memory(source, empty)
    texts, tune_texts = _read(method.calibration, method.tune_text)
    return FusionPlan(
        source=source,
        config=config,
        empty=empty,
        recipe=Recipe(
            method=method,
            refits=has_text and (method.refits if method.refit is None else method.refit),
            teaches=method.tune_text is not None,
            seed=seed,
            allocates=method.allocation == "sensitivity",
        ),
        allocation=method.allocation,
        texts=texts,
        tune_texts=tune_texts,
        layers=planned,
        outcome=tuple(map(method.outcome, chosen, planned)),
        left_out=tuple(unknown_experts(empty, blocks)),
    )


def _check_memory(source: ModelSource, empty: PreTrainedModel) -> None:
    """Refuse a model whose weights alone are more than the machine can hold."""
    needed, there = empty.num_parameters() * 4 / 2**30, probe().memory_mib / 2**10
    if needed > there:
        raise ModelError(
            f"{source.label} has {needed:.1f} GiB of weights in float32, and this machine "
            f"{there:.1f} GiB of memory",
            "Compress it without text, from safetensors files: those are read an MLP at a time",
        )


def _read(calibration: Path | None, tune_text: Path | None) -> tuple[Texts | None, list[str]]:
    """What is held out of the one is not in the other either."""
    file = calibration or tune_text
    if file is None:
        return None, []
    texts = split_texts(read_texts(file))
    if tune_text is None or tune_text == file:
        return texts, []
    held_out = set(texts.held_out)
    tune_texts = [text for text in read_texts(tune_text) if text not in held_out]
    if not tune_texts:
        raise DataError(
            f"Every text of {tune_text} is also in {file}, held out to measure errors on",
            "Give other texts to --tune-text, or the same file to both",
        )
    return texts, tune_texts


def _chosen(model: PreTrainedModel, layers: Sequence[LayerPlan]) -> list[MLP]:
    names = {layer.name for layer in layers}
    return [mlp for mlp in find_mlps(model) if mlp.name in names]


def _is_even(empty: PreTrainedModel, layers: Sequence[LayerPlan | LayerRecord]) -> bool:
    """Whether the configuration can say all widths."""
    after = {layer.name: layer.width_after for layer in layers}
    mlps = find_mlps(empty)
    widths = [after.get(mlp.name, mlp.width) for mlp in mlps]
    return even_widths(empty, widths) is not None
