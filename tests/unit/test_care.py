"""Rest for a hot machine, and what its sensors say."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import psutil
import pytest

from edgefuse_devices.errors import Interrupted, RunError
from edgefuse_runtime.machine import sensors
from edgefuse_runtime.training import care as module
from edgefuse_runtime.training import finetune as training
from edgefuse_runtime.training.care import Care, Strain
from edgefuse_runtime.training.metrics_log import read_metrics
from edgefuse_runtime.training.records import NoticeRecord
from edgefuse_runtime.training.run import TrainingSettings
from tests.tiny_bundle import FakeEngine, make_bundle, write_data


class Machine:
    """A clock, a thermometer and a battery that tests turn."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        self.temperatures: Iterator[float | None] = iter(())
        self.battery: float | None = None
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module.time, "sleep", self._sleep)
        monkeypatch.setattr(sensors, "temperature", lambda: next(self.temperatures))
        monkeypatch.setattr(sensors, "battery", lambda: self.battery)

    def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def watched(
    limit: float | None = 80, said: list[str] | None = None, stop: Callable[[], bool] | None = None
) -> Care:
    say = (said if said is not None else []).append
    return Care(Strain(), max_temperature=limit, say=say, stop=stop or (lambda: False))


def test_steps_become_slower_near_the_limit(machine):
    machine.temperatures = iter([60, 75, 77.5, 79])
    care = watched()
    for _ in range(4):
        assert not care.after_step(2.0)
        machine.now += 1
    assert machine.slept == pytest.approx([1.0, 1.6])
    assert care.strain == Strain(highest_temperature=79, rested=pytest.approx(2.6))


def test_at_the_limit_they_pause_until_it_is_cooler(machine):
    machine.temperatures = iter([81, 79, 76, 74.5])
    said: list[str] = []
    care = watched(said=said)
    care.after_step(2.0)
    assert machine.slept == [1.0, 1.0, 1.0]
    assert said == ["the machine is at 81 °C: a pause until 75 °C"]
    assert care.strain == Strain(highest_temperature=81, rested=3.0)


def test_a_pause_ends_where_the_run_is_stopped(machine):
    machine.temperatures = iter([90] * 9)
    care = watched(stop=lambda: len(machine.slept) == 2)
    care.after_step(2.0)
    assert machine.slept == [1.0, 1.0]


def test_without_a_limit_nothing_rests(machine):
    machine.temperatures = iter([99, 101])
    care = watched(limit=None)
    for _ in range(5):
        care.after_step(0.2)
        machine.now += 0.2
    assert not machine.slept
    assert care.strain.highest_temperature == 99, "the sensors are looked at once a second"


def test_what_holds_the_processor_back_is_said_once(machine, monkeypatch):
    machine.temperatures = iter([50] * 3)
    found: set[str] = set()
    monkeypatch.setattr(sensors.Throttling, "now", lambda _: found)
    said: list[str] = []
    care = watched(said=said)
    for more in ((), ("the clock is capped",), ("the voltage is too low",)):
        found |= {*more}
        care.after_step(1.0)
        machine.now += 1
    assert said == [
        "the clock is capped: steps take longer than they could",
        "the voltage is too low: steps take longer than they could",
    ]
    assert care.strain.throttled == ["the clock is capped", "the voltage is too low"]


def test_a_low_battery_ends_the_run_with_all_that_was_done(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "open_engine", FakeEngine)
    machine.temperatures = iter([None] * 99)
    machine.battery = 9.4
    bundle = make_bundle(tmp_path / "bundle")
    rows = write_data(tmp_path / "train.jsonl", 12)
    settings = TrainingSettings(epochs=1, learning_rate=0.1)

    def train(**how: object) -> object:
        return training.finetune(bundle, tmp_path / "run", train=rows, settings=settings, **how)

    with pytest.raises(Interrupted, match="the battery has 9 % left: stopped after step 1 of 3"):
        train()
    machine.battery = None
    assert train(resume=True).steps == 3


def test_what_holds_the_machine_back_is_among_the_metrics(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "open_engine", FakeEngine)
    monkeypatch.setattr(sensors.Throttling, "now", lambda _: {"the clock is capped"})
    machine.temperatures = iter([70, 81, *[70] * 99])
    rows = write_data(tmp_path / "train.jsonl", 12)
    bundle, run = make_bundle(tmp_path / "bundle"), tmp_path / "run"
    training.finetune(bundle, run, train=rows, max_temperature=80)
    lines = read_metrics(run / "metrics.jsonl")
    notices = [(line.step, line.notice) for line in lines if isinstance(line, NoticeRecord)]
    assert [step for step, _ in notices] == [1, 1]
    assert "the clock is capped" in notices[0][1]
    assert "a pause until 75" in notices[1][1]


def test_a_limit_needs_a_thermometer(machine, monkeypatch, tmp_path):
    monkeypatch.setattr(training, "open_engine", FakeEngine)
    machine.temperatures = iter([None] * 9)
    bundle = make_bundle(tmp_path / "bundle")
    rows = write_data(tmp_path / "train.jsonl", 12)
    with pytest.raises(RunError, match="reports no temperature"):
        training.finetune(bundle, tmp_path / "run", train=rows, max_temperature=80)
    assert not (tmp_path / "run").exists()
    machine.temperatures = iter([70] * 9)
    report = training.finetune(bundle, tmp_path / "run", train=rows, max_temperature=80)
    assert report.highest_temperature == 70
    assert report.rested_seconds == 0


def test_the_hottest_sensor_counts(monkeypatch, tmp_path):
    monkeypatch.setattr(sensors, "_ZONES", tmp_path / "none")
    groups = {"cpu": [SimpleNamespace(current=51.0), SimpleNamespace(current=63.5)], "nvme": []}
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: groups, raising=False)
    assert sensors.temperature() == 63.5
    monkeypatch.setattr(sensors, "_ZONES", tmp_path)
    zone = tmp_path / "thermal_zone0"
    zone.mkdir()
    (zone / "temp").write_text("71200\n")
    assert sensors.temperature() == 71.2, "zones count beside others"
    (zone / "temp").write_text("broken")
    monkeypatch.setattr(psutil, "sensors_temperatures", dict, raising=False)
    assert sensors.temperature() is None


@pytest.mark.parametrize(
    ("said", "left"),
    [
        ({"type": "Battery", "status": "Discharging", "capacity": "41"}, 41.0),
        ({"type": "Battery", "status": "Not charging", "capacity": "41"}, None),
        ({"type": "Battery", "status": "Discharging", "capacity": "?"}, None),
        ({"type": "Battery", "scope": "Device", "status": "Discharging", "capacity": "5"}, None),
        ({"type": "Mains", "online": "0"}, None),
    ],
    ids=["emptied", "on mains", "broken", "a mouse's", "no battery"],
)
def test_a_battery_counts_where_it_is_this_machines_and_is_emptied(
    monkeypatch, tmp_path, said, left
):
    monkeypatch.setattr(sensors, "_SUPPLIES", tmp_path / "supplies")
    assert sensors.battery() is None, "there is no such folder"
    supply = tmp_path / "supplies" / "one"
    supply.mkdir(parents=True)
    for name, content in said.items():
        (supply / name).write_text(f"{content}\n")
    assert sensors.battery() == left


def test_a_pause_ends_before_the_battery_does(machine):
    machine.temperatures = iter([90] * 9)
    machine.battery = 50.0
    care = watched(stop=lambda: bool(machine.slept) and setattr(machine, "battery", 3.0))
    assert care.after_step(2.0) == "the battery has 3 % left"


def test_flags_of_a_raspberry_pi_are_read(monkeypatch, tmp_path):
    monkeypatch.setattr(sensors, "_PLATFORM", tmp_path)
    file = tmp_path / "soc" / "soc:firmware" / "get_throttled"
    file.parent.mkdir(parents=True)
    for content, sentences in (
        ("0\n", set()),
        ("50005\n", {"the voltage is too low", "the processor is throttled"}),
        ("80000", set()),  # once, and not now
        ("what", set()),
    ):
        file.write_text(content)
        assert sensors.Throttling().now() == sentences


def test_counters_of_an_intel_processor_are_compared(monkeypatch, tmp_path):
    monkeypatch.setattr(sensors, "_CPUS", tmp_path)
    file = tmp_path / "cpu0" / "thermal_throttle" / "package_throttle_count"
    file.parent.mkdir(parents=True)
    file.write_text("7\n")
    throttling = sensors.Throttling()
    assert not throttling.now()
    file.write_text("8\n")
    assert throttling.now() == {"the processor was throttled by heat"}
