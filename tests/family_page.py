"""docs/families.md, generated from the matrix of tests: `python -m tests.family_page` writes it."""

from pathlib import Path

from edgefuse_runtime.tagged import name_of
from edgefuse_runtime.tasks.registry import TASKS
from tests.families import FAMILIES, cases

PAGE = Path(__file__).parents[1] / "docs" / "families.md"

_HEAD = """# Families and tasks

What EdgeFuse exports. A ✓ is a case of `tests/export/test_families.py`, all of which `make matrix`
runs, and `make test` one for each family: a small model of the family is exported for the task, its
loss, outputs and every gradient differ from torch's by 1e-4 at most, and ten steps on stock ONNX
Runtime have torch's losses to 1e-4. Where there is none, transformers has no such head of the
family, or EdgeFuse says why it cannot be exported before it begins. Each family is fused to a
quarter of its width too, for its first task: `make test` runs that for each build of MLPs.

Other builds are held by `tests/export/test_rare_families.py`, as classifiers of texts: XLNet,
Bloom, MobileBERT, ConvBERT, BigBird and RoFormer.
"""


def family_page() -> str:
    """The page."""
    tasks = [name_of(task) for task in TASKS]
    shown = {(family.title, task) for family, task in cases()}
    lines = [
        "| family | " + " | ".join(tasks) + " |",
        "| --- |" + " --- |" * len(tasks),
        *(
            f"| {family.title} | "
            + " | ".join("✓" if (family.title, task) in shown else "" for task in tasks)
            + " |"
            for family in FAMILIES
        ),
    ]
    reasons = [
        f"- {family.title}, {task}: {reason}."
        for family in FAMILIES
        for task, reason in family.beyond.items()
    ]
    why = ["\nRefused, though transformers has the head:\n", *reasons] if reasons else []
    return "\n".join([_HEAD, *lines, *why]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(family_page(), encoding="utf-8")
