"""`python -m edgefuse.demo.board finetune …`: the command line as it is on a board.

The workstation's libraries cannot be imported in this process, whether they are installed or not.
"""

import sys

BARRED = ("torch", "transformers", "onnx", "sklearn")

if __name__ == "__main__":
    for library in BARRED:
        sys.modules[library] = None  # type: ignore[assignment]  # an import of it now fails

    from edgefuse.cli import main

    main()
