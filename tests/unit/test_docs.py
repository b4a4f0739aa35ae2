"""What the documentation says is there: commands, options, links, targets, extras, boards."""

import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from typer.main import get_command
from typer.testing import CliRunner

from edgefuse.cli._app import app
from edgefuse_devices.catalog import list_devices
from tests.cli_page import PAGE, cli_page, leaves

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
COMMANDS = dict(leaves(get_command(app), "edgefuse"))

every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)


def tokens(page: Path) -> Iterator[Token]:
    for token in MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8")):
        yield token
        yield from token.children or ()


def typed(page: Path) -> list[list[str]]:
    """What one would type in a shell, by the page's code blocks, as words."""
    lines = (
        line.strip().removeprefix("$ ")
        for token in tokens(page)
        if token.type in {"fence", "code_block"}
        for line in token.content.replace("\\\n", " ").splitlines()
    )
    return [
        [word for word in shlex.split(line.partition(" > ")[0], comments=True) if word != "…"]
        for line in lines
        if re.match(r"(edgefuse|make|python -m) ", line) and "[OPTIONS]" not in line
    ]


@every_page
def test_files_that_a_page_names_are_there(page: Path) -> None:
    named = [token.content for token in tokens(page) if token.type == "code_inline"]
    houses = r"(edgefuse|export|runtime|devices|tests|docs|benchmarks)/[\w./]+\.(py|md|toml|json)"
    files = {name for name in named if re.fullmatch(houses, name) and "NAME" not in name}
    assert {name for name in files if not (ROOT / name).exists()} == set()


def test_the_page_of_the_command_line_is_what_the_program_says() -> None:
    assert PAGE.read_text(encoding="utf-8") == cli_page(), "run `python -m tests.cli_page`"


@pytest.mark.parametrize("name", [n for n, c in COMMANDS.items() if "    edgefuse" in c.help])
def test_help_shows_its_example_as_code(name: str) -> None:
    shown = CliRunner().invoke(app, [*name.split()[1:], "--help"], env={"COLUMNS": "120"}).output
    assert re.search(rf"^  {name} ", shown, re.MULTILINE), "prose is indented by one space"


@pytest.mark.parametrize("name", COMMANDS)
def test_no_example_runs_into_prose(name: str) -> None:
    assert not re.search(r"^edgefuse ", COMMANDS[name].help, re.MULTILINE)


@every_page
def test_every_command_parses(page: Path) -> None:
    for words in typed(page):
        if words[0] != "edgefuse" or words == ["edgefuse", "devices"]:
            continue
        name = max((n for n in COMMANDS if words[: len(n.split())] == n.split()), default=None)
        assert name, f"no such command: {shlex.join(words)}"
        # Raises where an option is unknown, a value of the wrong type, or an argument missing.
        COMMANDS[name].make_context(name, words[len(name.split()) :])


@every_page
def test_every_target_of_make_and_every_module_is_there(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for program, *words in typed(page):
        if program == "make":
            target = next(word for word in words if "=" not in word)
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
        if program == "python":
            assert (ROOT / words[1].replace(".", "/")).with_suffix(".py").is_file(), words[1]


@every_page
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    targets = [token.attrs.get("href") or token.attrs.get("src") for token in tokens(page)]
    for target in filter(None, map(str, filter(None, targets))):
        path = target.partition("#")[0]
        if path and not re.match(r"[a-z]+:", path):
            assert (page.parent / path).exists(), f"{page.name} links to {target}"


@every_page
def test_every_extra_is_one_of_the_distributions(page: Path) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    named = re.findall(r"edgefuse(?:-\S+\.whl)?\[([a-z-]+)\]", page.read_text(encoding="utf-8"))
    assert set(named) <= set(project["optional-dependencies"])


@every_page
def test_no_example_lets_onnxruntime_report_usage(page: Path) -> None:
    blocks = [token.content for token in tokens(page) if token.type in {"fence", "code_block"}]
    for block in blocks:
        if imported := re.search(r"^(import|from) .*\bonnxruntime", block, re.MULTILINE):
            assert "ORT_DISABLE_TELEMETRY" in block[: imported.start()], block


@pytest.mark.parametrize("page", ["README.md", "docs/devices.md"])
def test_every_board_is_named(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [board.name for board in list_devices() if f"`{board.name}`" not in text]


def test_the_readme_shows_every_command() -> None:
    shown = {" ".join(words[:2]) for words in typed(ROOT / "README.md")}
    assert {" ".join(name.split()[:2]) for name in COMMANDS} <= shown
