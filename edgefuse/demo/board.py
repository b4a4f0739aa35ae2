"""Run the command line as it is on a board: `python -m edgefuse.demo.board finetune …`.

The workstation's libraries cannot be imported in this process, whether they are installed or not.
"""

import runpy
import sys

BARRED = ("torch", "transformers", "onnx", "sklearn")

if __name__ == "__main__":
    for library in BARRED:
        sys.modules[library] = None  # type: ignore[assignment]  # an import of it now fails
    # By name, as a shell would: the command line imports the demo, not the other way round.
    runpy.run_module("edgefuse", run_name="__main__")
