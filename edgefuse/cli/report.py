"""`edgefuse report`."""

from pathlib import Path
from typing import Annotated

import typer

from edgefuse.cli._output import print_text


def report(
    reports: Annotated[
        list[Path], typer.Argument(metavar="REPORT...", help="Files of `bench -o`, or runs.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Page to write, .html or .md.")
    ] = None,
) -> None:
    """Put reports side by side, as a page to open or as Markdown to paste.

    The HTML page is one file and loads nothing. Markdown is printed without --output. A run's
    directory is read as the report in it.

        edgefuse report unfused.json fused.json -o report.html
    """
    from edgefuse.report.html import html
    from edgefuse.report.markdown import markdown
    from edgefuse.report.read import read_report
    from edgefuse.report.write import check_output_file, write_file
    from edgefuse_devices.errors import OutputError

    pages = {".html": html, ".htm": html, ".md": markdown}
    if output and output.suffix not in pages:
        raise OutputError(f"{output} is neither .html nor .md", "Name one of these")
    read = [read_report(path) for path in reports]
    if output is None:
        print_text(markdown(read).rstrip())
        return
    check_output_file(output)
    write_file(output, pages[output.suffix](read).encode())
    print_text(f"Wrote {output}")
