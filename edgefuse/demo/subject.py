"""What a demo teaches a model: data, and the flags that its task wants.

`subjects.py` lists all of them.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Splits = Mapping[str, Sequence[Mapping[str, Any]]]
"""Rows of a task by the name of their split, `train`, `valid` and `test`: a file each."""


@dataclass(frozen=True)
class Subject:
    """What a demo teaches a model.

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
