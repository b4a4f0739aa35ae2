"""A command's flags are the fields of the classes that it chooses from."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from typer.testing import CliRunner

from edgefuse.cli._fields import Given, with_fields
from edgefuse_devices.errors import InputError
from edgefuse_devices.options import make, option, options_of
from edgefuse_runtime.optimizers.adamw import AdamW


@dataclass(frozen=True)
class Shaded:
    shade: float = option(0.5, help="Part of the light.")


@dataclass(frozen=True)
class Lamp(Shaded):
    watts: int | None = option(None, help="Power.", shown="2 × volts")
    rooms: tuple[str, ...] = option((), help="Rooms, with commas between.", shown="all")
    manual: Path | None = option(None, help="What to read.", shown="")
    dimmed: bool = option(default=False, help="Less light.", shown="")
    socket: Literal["screw", "pin"] = option("screw", help="What it stands in.")
    serial: int = 0


@dataclass(frozen=True)
class Candle(Shaded):
    pass


@pytest.fixture
def command() -> Callable[..., tuple[str, dict[str, object]]]:
    """Run a command with flags of lamps and candles: its output, and the options that it got."""
    received: dict[str, object] = {}

    @with_fields(lamp_options=[("lamp", Lamp), ("lamp", Candle)], other_options=[("", Candle)])
    def light(
        name: Annotated[str, typer.Argument()],
        *,
        lamp_options: Given,
        loud: Annotated[bool, typer.Option("--loud")] = False,
        other_options: Given,
    ) -> None:
        assert not loud
        received.update({**lamp_options, **other_options})

    app = typer.Typer(rich_markup_mode="markdown")
    app.command()(light)

    def run(*arguments: str) -> tuple[str, dict[str, object]]:
        done = CliRunner().invoke(app, arguments, env={"COLUMNS": "200"})
        assert done.exit_code == 0, done.output
        return done.output, received

    return run


def test_values_have_the_types_of_their_fields(command: Callable) -> None:
    _, options = command(
        *("desk", "--lamp-watts", "40", "--lamp-rooms", "hall, attic", "--lamp-manual", "m.txt"),
        *("--lamp-dimmed", "--lamp-socket", "pin", "--lamp-shade", "0.1", "--shade", "1"),
    )
    assert options == {
        "lamp_watts": 40,
        "lamp_rooms": ("hall", "attic"),
        "lamp_manual": Path("m.txt"),
        "lamp_dimmed": True,
        "lamp_socket": "pin",
        "lamp_shade": 0.1,
        "shade": 1.0,
    }


def test_what_is_not_given_is_none(command: Callable) -> None:
    _, options = command("desk")
    assert set(options.values()) == {None}


def test_the_help_shows_sentences_and_defaults_at_the_place_that_is_named(
    command: Callable,
) -> None:
    shown, _ = command("--help")
    output = " ".join(shown.split())
    assert "Power. [default: 2 × volts]" in output
    assert "Part of the light. [default: 0.5]" in output
    assert "What to read." in output
    assert "--no-lamp-dimmed" not in output
    assert output.index("--lamp-watts") < output.index("--loud")


def test_a_field_without_help_is_no_option() -> None:
    assert "serial" not in {option.name for option in options_of(Lamp)}


def test_a_structs_options_are_its_described_fields() -> None:
    found = {option.name: (option.type, option.default) for option in options_of(AdamW)}
    assert found == {"weight_decay": (float, "0.01"), "max_gradient_norm": (float, "1.0")}


def test_what_is_chosen_is_made_of_its_own_options_alone() -> None:
    given = {"lamp_watts": 40, "lamp_shade": None}
    assert make(Lamp, given, choice="a lamp", family="lamp", serial=7) == Lamp(watts=40, serial=7)
    with pytest.raises(InputError, match="--lamp-watts is no option of a candle"):
        make(Candle, given, choice="a candle", family="lamp")


@dataclass(frozen=True)
class Lantern:
    shade: float = option(0.1, help="Part of the light.")


def test_an_option_that_classes_share_shows_the_default_of_each() -> None:
    @with_fields(options=[("", Candle), ("", Shaded), ("", Lantern)])
    def light(*, options: Given) -> None:
        assert options == {"shade": None}

    app = typer.Typer(rich_markup_mode="markdown")
    app.command()(light)
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "200"}).output
    expected = "Part of the light. [default: 0.5 with candle, shaded; 0.1 with lantern]"
    assert expected in " ".join(shown.split())
    assert CliRunner().invoke(app, []).exit_code == 0


def test_two_options_of_one_name_are_a_mistake() -> None:
    with pytest.raises(AssertionError, match="two options: shade"):
        with_fields(options=[("", Candle), ("", dataclass(type("Other", (), _OTHER)))])


_OTHER = {"__annotations__": {"shade": float}, "shade": option(0.5, help="Another.")}
