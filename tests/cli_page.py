"""docs/cli.md, generated from the program: `python -m tests.cli_page` writes it anew."""

import re
from collections.abc import Iterator
from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from edgefuse.cli._app import app

PAGE = Path(__file__).parents[1] / "docs" / "cli.md"

_PREFACE = """\
# The command line

Every command and its options, as the program's own `--help` says them. Where a command has
`--json`, it prints exactly one JSON object on standard output and nothing else. Progress goes
to standard error: bars on a terminal, elsewhere a line at most every half minute.

| exit code | meaning |
|---|---|
| 0 | done |
| 1 | a mistake of EdgeFuse's |
| 2 | something to mend in what was given: one sentence on standard error says what |
| 130 | interrupted; what was reached is saved where the command can go on from it |
| 143 | ended by SIGTERM; a command that can go on saves what was reached, and ends with 130 |
"""


def cli_page() -> str:
    """The page's text."""
    root = get_command(app)
    context = typer.Context(root, info_name="edgefuse")
    records = [parameter.get_help_record(context) for parameter in root.get_params(context)]
    commands = dict(leaves(root, "edgefuse"))
    parts = [
        _PREFACE,
        "`edgefuse` itself takes these, before the command's name:\n",
        "".join(f"* `{option}`: {text}\n" for option, text in filter(None, records)),
        "| command | what it does |\n|---|---|",
        *(
            f"| [`{name}`](#{name.replace(' ', '-')}) | {_first_line(command)} |"
            for name, command in commands.items()
        ),
        "",
        *(_section(name, command) for name, command in commands.items()),
    ]
    return "\n".join(parts).strip() + "\n"


def leaves(command, name: str) -> Iterator[tuple[str, typer.core.TyperCommand]]:
    """Every command that does something, by what one types for it."""
    if not isinstance(command, typer.core.TyperGroup):
        yield name, command
        return
    for child in command.commands.values():
        yield from leaves(child, f"{name} {child.name}")


def _first_line(command: typer.core.TyperCommand) -> str:
    return command.help.partition("\n\n")[0].replace("\n", " ")


def _section(name: str, command: typer.core.TyperCommand) -> str:
    prefix = name.removesuffix(f" {command.name}")
    context = typer.Context(command, info_name=name)
    text = get_docs_for_click(obj=command, ctx=context, indent=1, call_prefix=prefix)
    return re.sub("^- ", "  - ", text, flags=re.MULTILINE)  # a list in an option's help


if __name__ == "__main__":
    PAGE.write_text(cli_page(), encoding="utf-8")
