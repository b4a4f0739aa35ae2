"""`edgefuse devices`: the boards that `--device` can name, and this machine."""

from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.cli._options import Json
from edgefuse.cli._output import print_json, print_table, print_text
from edgefuse.report.table import Table

if TYPE_CHECKING:
    from edgefuse_devices.profile import Cluster, DeviceProfile

app = typer.Typer()

_MIB_PER_GIB = 1024


@app.callback(invoke_without_command=True)
def devices(context: typer.Context, json: Json = False) -> None:
    """List the boards that EdgeFuse knows, show one, or probe this machine."""
    if context.invoked_subcommand is None:
        list_(json)
    else:  # `devices --json list` is `devices list --json`
        context.default_map = {context.invoked_subcommand: {"json": json}}


@app.command("list")
def list_(json: Json = False) -> None:
    """List the boards that `--device` can name."""
    from edgefuse_devices.catalog import list_devices

    profiles = list_devices()
    if json:
        print_json({"devices": profiles})
        return
    columns = ["name", "board", "cores", "memory", "bandwidth", "threads"]
    print_table(Table.of(columns, [_summary(profile) for profile in profiles]))
    print_text("`host` names this machine; a path to a .toml file works as well.")


@app.command()
def show(
    name: Annotated[
        str, typer.Argument(help="A board's name, `host`, or the path of a .toml profile.")
    ],
    json: Json = False,
) -> None:
    """Show a board's figures, and where each comes from."""
    from edgefuse_devices.catalog import load_device

    profile = load_device(name)
    if json:
        print_json(profile)
    else:
        _print_figures(profile)


@app.command()
def probe(json: Json = False) -> None:
    """Show this machine's figures as Linux reports them, and which board it is."""
    from edgefuse_devices.catalog import list_devices
    from edgefuse_devices.probe import matches
    from edgefuse_devices.probe import probe as probe_machine

    host = probe_machine()
    if json:
        print_json(host)
        return
    _print_figures(host)
    boards = [f"{board.title} ({board.name})" for board in list_devices() if matches(board, host)]
    print_text(
        f"This machine is a {' or '.join(boards)}."
        if boards
        else "This machine is none of the boards that EdgeFuse knows."
    )


def _summary(profile: "DeviceProfile") -> list[str]:
    return [
        profile.name,
        profile.title,
        "\n".join(_cores(cluster) for cluster in profile.clusters),
        _memory(profile.memory_mib),
        _bandwidth(profile.memory_bandwidth_gb_s),
        str(profile.threads),
    ]


def _print_figures(profile: "DeviceProfile") -> None:
    values = {
        "soc": profile.soc,
        "clusters": "\n".join(_cores(cluster) for cluster in profile.clusters),
        "features": " ".join(profile.features) or "unknown",
        "memory_mib": _memory(profile.memory_mib),
        "memory_variants_mib": ", ".join(map(_memory, profile.memory_variants_mib)) or "unknown",
        "memory_bandwidth_gb_s": _bandwidth(profile.memory_bandwidth_gb_s),
        "threads": str(profile.threads),
        "pinning": " ".join(map(str, profile.pinning)) or "left to Linux",
    }
    rows = [(figure, value, profile.sources.get(figure, "")) for figure, value in values.items()]
    print_table(
        Table.of(["figure", "value", "source"], rows, title=f"{profile.title} ({profile.name})")
    )


def _cores(cluster: "Cluster") -> str:
    clock = f" at {cluster.max_clock_mhz / 1000:g} GHz" if cluster.max_clock_mhz else ""
    threads = f", {cluster.threads_per_core} threads each" if cluster.threads_per_core > 1 else ""
    return f"{cluster.core} x {cluster.count}{clock}{threads}"


def _memory(mib: int) -> str:
    return f"{mib} MiB" if mib < _MIB_PER_GIB else f"{mib / _MIB_PER_GIB:.4g} GiB"


def _bandwidth(gigabytes: float | None) -> str:
    return f"{gigabytes:g} GB/s" if gigabytes else "unknown"
