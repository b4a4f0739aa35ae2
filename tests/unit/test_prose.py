"""Docstrings read without a key: lines stand alone, and words that mean two things are not used."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for package in ("edgefuse", "export", "runtime", "devices", "benchmarks")
    for file in (ROOT / package).rglob("*.py")
)

ENTRY = re.compile(r"^\s+[\w*]+: (?P<text>.+)$")
LEANS_ON_OTHERS = re.compile(
    r"(Of|Its|Their|Likewise|Whose|That|Asked|Told|Theirs)\b(?! (is|are) )|The same\.$"
)
"""Beginnings that make sense only beside the entry's name: "seed: Of the shuffling."."""

METAPHORS = re.compile(r"\b(felt|said|lesson|one_sentence|put_beside|p_of_stack)\b")


def docstrings(file: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield text


def entries(text: str) -> Iterator[str]:
    """What stands behind each name under `Args:` and `Attributes:`."""
    inside = False
    for line in text.splitlines():
        if re.fullmatch(r"(Args|Attributes):", line.strip()):
            inside = True
        elif line and not line.startswith(" "):
            inside = False
        elif inside and (entry := ENTRY.match(line)):
            yield entry["text"]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_every_line_about_an_argument_stands_alone(file: Path) -> None:
    leaning = [e for text in docstrings(file) for e in entries(text) if LEANS_ON_OTHERS.match(e)]
    assert leaning == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_no_docstring_begins_in_the_middle_of_a_sentence(file: Path) -> None:
    begins = [text.splitlines()[0] for text in docstrings(file)]
    assert [line for line in begins if LEANS_ON_OTHERS.match(line)] == []


def test_no_private_metaphor_is_left_in_the_code() -> None:
    found = {
        f"{file.relative_to(ROOT)}:{number}": line.strip()
        for file in FILES
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1)
        if METAPHORS.search(line) and "lexicon" not in file.name and '"' not in line
    }
    assert found == {}
