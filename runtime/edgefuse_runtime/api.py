"""The functions of the board: paths or opened bundles in, reports out. Every command calls one.

A model is the directory of a run, of which the best epoch is used, or of a bundle as it was
exported. May import everything else in `edgefuse_runtime`; nothing in it imports this.
"""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefuse_devices.errors import DataError, InputError, OutputError
from edgefuse_devices.options import make
from edgefuse_runtime.bundle import bundle as bundles
from edgefuse_runtime.bundle.bundle import Bundle
from edgefuse_runtime.checking import health
from edgefuse_runtime.checking.diagnosis import Diagnosis
from edgefuse_runtime.checking.doctor import diagnose
from edgefuse_runtime.checking.health import Health
from edgefuse_runtime.converting import convert as converting
from edgefuse_runtime.converting.convert import Conversion, Format
from edgefuse_runtime.inference.evaluation import Evaluation, evaluate_model
from edgefuse_runtime.inference.model import InferenceModel
from edgefuse_runtime.inference.predict import predict, stream
from edgefuse_runtime.machine.threads import threads_for
from edgefuse_runtime.measuring import bench as measuring
from edgefuse_runtime.measuring.report import BenchReport
from edgefuse_runtime.progress import OnProgress, silent
from edgefuse_runtime.tasks.registry import evaluation_options_of
from edgefuse_runtime.tasks.task import Asked, Converses, Prediction, StreamsText, Talk
from edgefuse_runtime.training import finetune as training
from edgefuse_runtime.training import run as runs
from edgefuse_runtime.training.loop import Observer
from edgefuse_runtime.training.memory_plan import MemoryPlan
from edgefuse_runtime.training.records import Report
from edgefuse_runtime.training.run import RunRecord, TrainingSettings
from edgefuse_runtime.training.trained import open_trained

StrPath = str | os.PathLike[str]


def open_bundle(path: StrPath, *, verify: bool = True) -> Bundle:
    """Open a bundle and check that it is whole.

    Args:
        path: The bundle's directory.
        verify: Whether to compare the SHA-256 of every file too, not only its presence and size.

    Raises:
        BundleError: The directory is no bundle, was cut short or changed, or is of another schema.
    """
    return bundles.open_bundle(Path(path), verify=verify)


def read_run(run: StrPath) -> RunRecord:
    """Read from what a run was made: its bundle, data and settings.

    Args:
        run: The run's directory.

    Raises:
        RunError: The directory is no run, or its record is broken.
    """
    return runs.read_record(Path(run))


def finetune(
    bundle: StrPath | Bundle,
    run: StrPath,
    *,
    train: StrPath | None = None,
    valid: StrPath | None = None,
    settings: TrainingSettings | None = None,
    resume: bool = False,
    overwrite: bool = False,
    budget: int | None = None,
    cache: int | None = None,
    max_temperature: float | None = None,
    observer: Observer | None = None,
    on_plan: Callable[[MemoryPlan], None] = lambda _: None,
    stop: Callable[[], bool] = lambda: False,
) -> Report:
    """Train a bundle on rows of its task.

    Everything that can be refused is refused before the first file is written.

    Args:
        bundle: A bundle, or its directory.
        run: The directory to make.
        train: Training data; None takes those of the run that is resumed.
        valid: Validation data, evaluated after every epoch; without any the last epoch is the best.
        settings: How to train; None for the defaults, or the settings of the run that is resumed.
        resume: Whether to go on from the last checkpoint of the run. It ends with the weights of a
            run that was never interrupted, bit for bit.
        overwrite: Whether to replace the run that is there.
        budget: Bytes that this process may hold, mapped files not counted; None for what the
            board's profile and this machine have free.
        cache: Bytes that the run may take on the disk while it trains, for what frozen layers give
            for each row, which is then computed once; None for half of what is free.
        max_temperature: Temperature in °C that the machine's sensors shall not report: steps become
            slower near it, and pause at it.
        observer: Receiver of every step, evaluation and checkpoint.
        on_plan: Called when it is decided how steps fit into memory.
        stop: Called after every step; True saves the run and raises `Interrupted`.

    Returns:
        The content of report.json; that of a run which is finished already is read again.

    Raises:
        DataError: There is nothing to train on, or a data file cannot be used.
        OutputError: The directory is not empty, or the disk is too small; or the run is to be both
            resumed and replaced.
        RunError: The run to resume was made from something else, another process is training in
            it, the machine reports no temperature to hold down, or training diverged.
        Interrupted: `stop` returned True, or a battery is low; everything up to the last step is
            saved.
    """
    if resume and overwrite:
        raise OutputError("--resume and --overwrite contradict each other", "Give one of them")
    if resume:
        stored = read_run(run)
        train = train or stored.train.path
        valid = valid or (stored.valid.path if stored.valid else None)
    if train is None:
        raise DataError("there is nothing to train on", "Name a data file: --train train.jsonl")
    return training.finetune(
        _opened(bundle),
        Path(run),
        train=Path(train),
        valid=_path(valid),
        settings=settings,
        resume=resume,
        overwrite=overwrite,
        budget=budget,
        cache=cache,
        max_temperature=max_temperature,
        observer=observer,
        on_plan=on_plan,
        stop=stop,
    )


class Predictor:
    """A trained model that is loaded once, and predicts for any number of texts.

    Attributes:
        bundle: The bundle of the model.
    """

    def __init__(
        self, model: StrPath, *, bundle: StrPath | None = None, threads: int | None = None
    ) -> None:
        """Load the model.

        Args:
            model: The directory of a run or of a bundle.
            bundle: The run's bundle, if it was moved.
            threads: Threads to compute with; None for the board's.

        Raises:
            BundleError: The bundle is not whole.
            RunError: The run has no best epoch yet, or its bundle is not there.
        """
        self.bundle, trained = open_trained(Path(model), bundle=_path(bundle))
        threads = threads_for(self.bundle.manifest.device, threads)
        self._model = InferenceModel(self.bundle, trained, threads=threads)

    def predict(
        self,
        asked: Sequence[Asked],
        *,
        on_progress: OnProgress = silent,
        **options: object,
    ) -> list[Prediction]:
        """Predict for texts or rows, in their order.

        Args:
            asked: At least one text, or mapping with the fields of a row.
            on_progress: Observer, called after every batch.
            **options: The task's own options of `predict`.

        Raises:
            DataError: A text is blank or has no token, or a row lacks a field.
            InputError: An option is another task's, or does not hold.
        """
        chosen = self._options(self.bundle.manifest.task.prediction_options, options)
        return predict(self.bundle, self._model, asked, options=chosen, on_progress=on_progress)

    @property
    def streams(self) -> bool:
        """Whether what the model predicts is text that comes piece by piece."""
        return isinstance(self.bundle.manifest.task, StreamsText)

    def stream(self, asked: Sequence[Asked], **options: object) -> Iterator[str]:
        """Predict for texts or rows, in their order, and give the predictions' text as it comes.

        Args:
            asked: At least one text, or mapping with the fields of a row.
            **options: The task's own options of `predict`.

        Returns:
            Pieces of text; a newline ends each prediction.

        Raises:
            DataError: A text is blank or has no token, or a row lacks a field.
            InputError: An option is another task's, or does not hold.
        """
        chosen = self._options(self.bundle.manifest.task.prediction_options, options)
        return stream(self.bundle, self._model, asked, options=chosen)

    def conversation(self, *, system: str = "", **options: object) -> Talk:
        """Begin a conversation, whose `answer(text)` gives an answer piece by piece.

        Args:
            system: What the model is told before the first message; empty for nothing.
            **options: The task's own options of `predict`.

        Raises:
            InputError: The model's task is another one, its tokenizer has no chat template, or an
                option is another task's, or does not hold.
        """
        task = self.bundle.manifest.task
        if not isinstance(task, Converses):
            raise InputError(
                f"A model for {task.name} answers nobody",
                "Chat with one for text-generation, or use `edgefuse predict`",
            )
        chosen = self._options(task.prediction_options, options)
        return task.conversation(self._model, chosen, system=system)

    def evaluate(
        self, data: StrPath, *, on_progress: OnProgress = silent, **options: object
    ) -> Evaluation:
        """Measure the figures of the model's task on a data file.

        Args:
            data: Rows of the task.
            on_progress: Observer, called after every batch.
            **options: The task's own options of `evaluate`.

        Raises:
            DataError: There is no such file, it has no row, or a row is broken.
            InputError: An option is another task's, or does not hold.
        """
        chosen = self._options(evaluation_options_of(self.bundle.manifest.task), options)
        dataset = self.bundle.read(Path(data))
        return evaluate_model(
            self.bundle, self._model, dataset, options=chosen, on_progress=on_progress
        )

    def _options(self, kind: type[Any], given: Mapping[str, object]) -> Any:
        return make(kind, given, choice=f"a model for {self.bundle.manifest.task.name}")


def evaluate(
    model: StrPath,
    data: StrPath,
    *,
    bundle: StrPath | None = None,
    threads: int | None = None,
    on_progress: OnProgress = silent,
    **options: object,
) -> Evaluation:
    """Measure the figures of a model's task on a data file.

    Args:
        model: The directory of a run or of a bundle.
        data: Rows of the task.
        bundle: The run's bundle, if it was moved.
        threads: Threads to compute with; None for the board's.
        on_progress: Observer, called after every batch.
        **options: The task's own options of `evaluate`.

    Raises:
        BundleError: The bundle is not whole.
        DataError: There is no such file, it has no row, or a row is broken.
        InputError: An option is another task's, or does not hold.
        RunError: The run has no best epoch yet, or its bundle is not there.
    """
    predictor = Predictor(model, bundle=bundle, threads=threads)
    return predictor.evaluate(data, on_progress=on_progress, **options)


def convert(
    model: StrPath,
    output: StrPath,
    *,
    to: Format = "onnx",
    bundle: StrPath | None = None,
    overwrite: bool = False,
) -> Conversion:
    """Write trained weights as a model that needs no EdgeFuse.

    Args:
        model: The directory of a run or of a bundle.
        output: The directory to make.
        to: Format of the converted model: `onnx` for a bare `onnxruntime.InferenceSession`,
            `transformers` for `from_pretrained`, `peft` for `PeftModel.from_pretrained`.
        bundle: The run's bundle, if it was moved.
        overwrite: Whether to replace an earlier conversion that is there.

    Raises:
        BundleError: The bundle is not whole.
        OutputError: The directory is not empty, or the disk is too small.
        RunError: The run has no best epoch yet, or the format has no form for the model.
    """
    opened, trained = open_trained(Path(model), bundle=_path(bundle))
    return converting.convert(opened, trained, Path(output), to=to, overwrite=overwrite)


def bench(
    bundle: StrPath | Bundle,
    *,
    batch_size: int | None = None,
    sequence_length: int | None = None,
    threads: int | None = None,
    warmup: int = 5,
    steps: int = 50,
    on_progress: OnProgress = silent,
) -> BenchReport:
    """Measure the time and memory that training a bundle takes on this machine.

    Args:
        bundle: A bundle, or its directory.
        batch_size: Rows in a batch; None for the bundle's.
        sequence_length: Tokens in a row; None for the bundle's.
        threads: Threads to compute with; None for the board's.
        warmup: Steps before the measured ones.
        steps: Steps to measure.
        on_progress: Observer, called after every step.

    Raises:
        InputError: The bundle or a size does not hold.
        EdgeFuseError: The engine is not installed, or the measured process ended early.
    """
    opened = _opened(bundle)
    workload = measuring.plan_workload(
        opened,
        batch_size=batch_size,
        sequence_length=sequence_length,
        threads=threads,
        warmup=warmup,
        steps=steps,
    )
    return measuring.bench(opened, workload, on_progress=on_progress)


def doctor(
    bundle: StrPath | Bundle, *, threads: int | None = None, on_progress: OnProgress = silent
) -> Diagnosis:
    """Check that a bundle computes on this machine what torch did at export.

    The batches of its certificate are computed again, and its texts tokenized again.

    Args:
        bundle: A bundle, or its directory, whose files are verified then.
        threads: Threads to compute with; None for the board's.
        on_progress: Observer, called before each stage.

    Returns:
        What was found; `healthy` says whether all is well.

    Raises:
        BundleError: The bundle is not whole or has no certificate, or its engine is not installed
            here.
    """
    return diagnose(_opened(bundle), threads=threads, on_progress=on_progress)


def check(path: StrPath, *, bundle: StrPath | None = None) -> Health:
    """Read every byte of a run, a bundle or a model, and say what is whole; nothing is written.

    Args:
        path: The directory of one of these.
        bundle: Place of a run's bundle, when it is not where it was.

    Returns:
        How each file is; `whole` says whether all is well, and `advice` what can be done.

    Raises:
        InputError: It is no run, no bundle and no model.
    """
    return health.check(Path(path), bundle=_path(bundle))


def _path(path: StrPath | None) -> Path | None:
    return None if path is None else Path(path)


def _opened(bundle: StrPath | Bundle) -> Bundle:
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


__all__ = [
    "Predictor",
    "bench",
    "check",
    "convert",
    "doctor",
    "evaluate",
    "finetune",
    "open_bundle",
    "read_run",
]
