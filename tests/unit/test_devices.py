"""The boards: their profiles hold, bad ones are refused by field, and the probe reads Linux."""

import json
import re
from importlib.resources import files
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from typer.testing import CliRunner

from edgefuse.cli.devices import app
from edgefuse_devices import probe as probe_module
from edgefuse_devices.catalog import list_devices, load_device
from edgefuse_devices.errors import DeviceError
from edgefuse_devices.probe import matches, probe, read_machine
from edgefuse_devices.profile import FIGURES, DeviceProfile

GENERIC = ["generic-arm64", "generic-x86"]
BOARDS = [
    "beagleplay",
    *GENERIC,
    "imx8mp-evk",
    "jetson-nano",
    "jetson-orin-nano",
    "jetson-orin-nx",
    "n100",
    "orange-pi-5",
    "rock-4d",
    "rock-5b",
    "rpi-cm5",
    "rpi-zero-2w",
    "rpi3b-plus",
    "rpi4",
    "rpi5",
    "rpi500",
]
UNKNOWN = {
    "rock-4d": ["memory_bandwidth_gb_s", "memory_variants_mib"],
    "rpi3b-plus": ["memory_bandwidth_gb_s"],
}
"""Figures that no source was found for."""
A76_FEATURES = (
    "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop "
    "asimddp"
)


# The catalog


def test_the_shipped_boards_are_the_files():
    assert [device.name for device in list_devices()] == BOARDS


@pytest.mark.parametrize("name", sorted({*BOARDS} - {*GENERIC}))
def test_a_shipped_board_has_every_figure_that_is_known_and_its_source(name):
    device = load_device(name)
    known = {*FIGURES} - {*UNKNOWN.get(name, ())}
    assert {figure for figure in FIGURES if getattr(device, figure)} == known
    assert device.sources.keys() == known
    assert all(cluster.max_clock_mhz for cluster in device.clusters) == (name != "rock-4d")
    assert len(device.pinning) == device.threads
    assert device.reported_as


@pytest.mark.parametrize("name", GENERIC)
def test_what_stands_for_any_board_is_none_that_is_measured(name):
    device = load_device(name)
    assert not device.reported_as
    assert not matches(device, probe())


@pytest.mark.parametrize("name", [*BOARDS, "host"])
def test_a_profile_survives_json(name):
    device = load_device(name)
    assert msgspec.json.decode(msgspec.json.encode(device), type=DeviceProfile) == device


def test_large_cores_of_the_orange_pi_are_pinned_to():
    device = load_device("orange-pi-5")
    large = next(c for c in device.clusters if c.core == "Cortex-A76")
    assert device.pinning == list(large.cpus)


@pytest.mark.parametrize(
    ("asked", "nearest"),
    [
        ("rpi6", "rpi5"),
        ("RPi4", "rpi4"),
        ("raspberry-pi-5", "rpi5"),
        ("orangepi5", "orange-pi-5"),
        ("jetson", "jetson-orin-nano"),
        ("hots", "host"),
    ],
)
def test_an_unknown_name_gets_the_nearest(asked, nearest):
    with pytest.raises(DeviceError) as caught:
        load_device(asked)
    assert caught.value.problem == f"There is no device {asked!r}"
    assert re.search(rf"Did you mean [^?]*\b{nearest}\b[^?]*\?", caught.value.hint)


def test_a_name_like_no_other_gets_the_way_to_the_list():
    with pytest.raises(DeviceError) as caught:
        load_device("zzz")
    assert caught.value.hint.startswith("`edgefuse devices` lists the boards")


@pytest.mark.parametrize("processor", ["cpu", "cuda", "cuda:0", "gpu", "CPU"])
def test_a_processor_is_told_that_device_names_a_board(processor):
    with pytest.raises(DeviceError, match="names a board") as caught:
        load_device(processor)
    assert "--device rpi5" in caught.value.hint
    assert "--device host" in caught.value.hint


# Files of the user's own


@pytest.fixture
def board_file(tmp_path, monkeypatch):
    """Writes `my-board.toml`, the Raspberry Pi 5's profile with one passage replaced."""
    shipped = files("edgefuse_devices").joinpath("profiles/rpi5.toml").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def write(old: str = "", new: str = "") -> str:
        assert old in shipped
        text = shipped.replace(old, new, 1).replace('name = "rpi5"', 'name = "my-board"')
        (tmp_path / "my-board.toml").write_text(text, encoding="utf-8")
        return "./my-board.toml"

    return write


def test_a_file_works_as_well_as_a_name(board_file):
    device = load_device(board_file("memory_mib = 8192", "memory_mib = 4096"))
    assert (device.name, device.memory_mib) == ("my-board", 4096)


def test_a_file_in_the_working_directory_needs_no_dot(board_file):
    board_file()
    assert load_device("my-board.toml").name == "my-board"


@pytest.mark.parametrize(
    ("old", "new", "named"),
    [
        ('soc = "Broadcom BCM2712"', "", "`soc`"),
        ('soc = "Broadcom BCM2712"', 'soc = ""', "`soc`"),
        ("threads = 4", "threds = 4", "`threds`"),
        ("threads = 4", "threads = 0", "`threads`"),
        ("threads = 4", 'threads = "four"', "`threads`"),
        ("threads = 4", "threads = 9", "`threads`"),
        ("threads = 4", "threads = 3", "`pinning`"),
        ("pinning = [0, 1, 2, 3]", "pinning = [0, 1, 2, 4]", "`pinning`"),
        ("pinning = [0, 1, 2, 3]", "pinning = [0, 1, 2, 2]", "`pinning`"),
        ("pinning = [0, 1, 2, 3]", "pinning = [-1, 1, 2, 3]", "`pinning[0]`"),
        ('architecture = "aarch64"', 'architecture = "armv7l"', "`architecture`"),
        ("memory_mib = 8192", "memory_mib = -1", "`memory_mib`"),
        ("memory_mib = 8192", "memory_mib = 3000", "`memory_mib`"),
        ("bandwidth_gb_s = 17.1", "bandwidth_gb_s = 0.0", "`memory_bandwidth_gb_s`"),
        ("bandwidth_gb_s = 17.1", "bandwidth_gb_s = nan", "`memory_bandwidth_gb_s`"),
        ("bandwidth_gb_s = 17.1", "bandwidth_gb_s = inf", "`memory_bandwidth_gb_s`"),
        ("count = 4", "count = 0", "`clusters[0].count`"),
        ("count = 4", "count = 1000000000", "`clusters[0].count`"),
        ("count = 4", "", "`clusters[0]`"),
        ("max_clock_mhz = 2400", "max_clock_mhz = 2.4", "`clusters[0].max_clock_mhz`"),
        ("max_clock_mhz = 2400", "max_clock_mhz = 2400000", "`clusters[0].max_clock_mhz`"),
        ("max_clock_mhz = 2400", "turbo = 1", "`turbo`"),
        ("memory_mib = 8192", "memory_mib = 8589934592", "`memory_mib`"),
        ("bandwidth_gb_s = 17.1", "bandwidth_gb_s = 17100.0", "`memory_bandwidth_gb_s`"),
        ("Raspberry Pi 5 Model B*", "*", "`reported_as`"),
        ("Raspberry Pi 5 Model B*", "?*[a-z]??", "`reported_as`"),
        ('soc = "Raspberry Pi 5 product brief"', "", "`soc`"),
        ('soc = "Raspberry Pi 5 product brief"', "soc = 5", "`sources[...]`"),
        ('soc = "Raspberry Pi 5 product brief"', 'socs = "a brief"', "`soc"),
        ("[sources]", '[sources]\nprice = "a shop"', "`price`"),
        (
            "[sources]",
            '[[clusters]]\ncore = "Cortex-A55"\ncount = 4\nfirst_cpu = 3\n[sources]',
            "`clusters`",
        ),
    ],
)
def test_a_bad_file_is_refused_with_the_field(board_file, old, new, named):
    with pytest.raises(DeviceError) as caught:
        load_device(board_file(old, new))
    assert caught.value.problem.startswith("my-board.toml: ")
    assert named in caught.value.problem
    assert "\n" not in caught.value.problem


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"threads = = 4", "my-board.toml is no TOML"),
        (b"\xff\xfe", "my-board.toml is no TOML"),
        (b"", "my-board.toml: object missing required field `name`"),
    ],
)
def test_a_file_that_is_no_profile_is_refused(tmp_path, content, said):
    file = tmp_path / "my-board.toml"
    file.write_bytes(content)
    with pytest.raises(DeviceError) as caught:
        load_device(str(file))
    assert said in caught.value.problem


def test_a_copied_file_must_take_the_name_of_its_own(board_file):
    Path(board_file()).rename("other.toml")
    with pytest.raises(DeviceError, match="`name` is `my-board`"):
        load_device("./other.toml")


@pytest.mark.parametrize("path", ["./missing.toml", "missing.toml", "no/folder", "."])
def test_a_path_that_leads_to_no_file_is_named(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DeviceError, match="cannot be read"):
        load_device(path)


# The probe


@pytest.fixture
def tree(tmp_path):
    """Makes files below a root, given as paths and texts."""

    def make(contents: dict[str, str]) -> Path:
        for name, text in contents.items():
            file = tmp_path / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return tmp_path

    return make


def arm_cpuinfo(*parts: str, features: str = A76_FEATURES) -> str:
    blocks = [
        f"processor\t: {cpu}\nBogoMIPS\t: 108.00\nFeatures\t: {features}\n"
        f"CPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: {part}\n"
        for cpu, part in enumerate(parts)
    ]
    return "\n".join(blocks) + "\nRevision\t: d04170\nModel\t\t: a board\n"


def x86_cpuinfo(model: str, cores: list[int], flags: str) -> str:
    blocks = [
        f"processor\t: {cpu}\nvendor_id\t: GenuineIntel\nmodel name\t: {model}\n"
        f"physical id\t: 0\ncore id\t\t: {core}\nflags\t\t: {flags}\n"
        for cpu, core in enumerate(cores)
    ]
    return "\n".join(blocks)


def clocks(*mhz: int) -> dict[str, str]:
    return {
        f"sys/devices/system/cpu/cpu{cpu}/cpufreq/cpuinfo_max_freq": f"{clock}000\n"
        for cpu, clock in enumerate(mhz)
    }


RPI5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/cpuinfo": arm_cpuinfo(*["0xd0b"] * 4),
    "proc/meminfo": "MemTotal:        8256000 kB\nMemFree:         100 kB\n",
    **clocks(*[2400] * 4),
}
RK3588 = {
    "proc/device-tree/model": "Xunlong Orange Pi 5\0",
    "proc/device-tree/compatible": "xunlong,orangepi-5\0rockchip,rk3588s\0",
    "proc/cpuinfo": arm_cpuinfo(*["0xd05"] * 4, *["0xd0b"] * 4),
    "proc/meminfo": "MemTotal:        8137000 kB\n",
    **clocks(*[1800] * 4, *[2352] * 2, *[2400] * 2),
    **{
        f"sys/devices/system/cpu/cpu{cpu}/cpu_capacity": "530\n" if cpu < 4 else "1024\n"
        for cpu in range(8)
    },
}
LAPTOP = {
    "proc/cpuinfo": x86_cpuinfo(
        "Intel(R) Core(TM) i5-8250U", [0, 1, 2, 3] * 2, "fpu sse4_2 avx avx2 fma f16c hypervisor"
    ),
    "proc/meminfo": "MemTotal:       16000000 kB\n",
    "sys/class/dmi/id/product_name": "A Laptop\n",
    **clocks(*[3400] * 8),
}


def test_a_raspberry_pi_5_is_recognised(tree):
    host = read_machine(tree(RPI5), "aarch64", set(range(4)))
    assert host.name == "host"
    assert host.title == "Raspberry Pi 5 Model B Rev 1.0"
    assert host.soc == "bcm2712"
    assert host.clusters == load_device("rpi5").clusters
    assert host.features == load_device("rpi5").features
    assert host.memory_mib == 8062
    assert host.memory_bandwidth_gb_s is None
    assert (host.threads, host.pinning) == (4, [])
    assert [board.name for board in list_devices() if matches(board, host)] == ["rpi5"]


def test_large_cores_are_kept_apart_and_pinned_to(tree):
    host = read_machine(tree(RK3588), "aarch64", set(range(8)))
    assert host.clusters == load_device("orange-pi-5").clusters
    assert (host.threads, host.pinning) == (4, [4, 5, 6, 7])
    assert [board.name for board in list_devices() if matches(board, host)] == ["orange-pi-5"]


def test_hyper_threads_share_a_core(tree):
    host = read_machine(tree(LAPTOP), "x86_64", set(range(8)))
    (only,) = host.clusters
    assert (only.count, only.threads_per_core, only.max_clock_mhz) == (4, 2, 3400)
    assert (host.cores, host.cpus, host.threads) == (4, list(range(8)), 4)
    assert host.features == ["avx", "avx2", "f16c", "fma", "sse4_2"]
    assert (host.title, host.soc) == ("A Laptop", "Intel(R) Core(TM) i5-8250U")
    assert not any(matches(board, host) for board in list_devices())


def test_sysfs_tells_hyper_threads_where_cpuinfo_does_not(tree):
    siblings = {
        f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 2},{cpu % 2 + 2}"
        for cpu in range(4)
    }
    cpuinfo = x86_cpuinfo("AMD EPYC", [0, 0, 0, 0], "avx2").replace("core id", "ignored")
    host = read_machine(tree({"proc/cpuinfo": cpuinfo, **siblings}), "x86_64", set(range(4)))
    assert (host.cores, host.threads) == (2, 2)


def test_an_intel_hybrid_has_two_clusters(tree):
    cpuinfo = x86_cpuinfo("Intel(R) Core(TM) i3-1215U", [0, 0, 1, 1, 2, 3, 4, 5], "avx2")
    kinds = {"sys/devices/cpu_core/cpus": "0-3\n", "sys/devices/cpu_atom/cpus": "4-6,7\n"}
    host = read_machine(tree({"proc/cpuinfo": cpuinfo, **kinds}), "x86_64", set(range(8)))
    assert [(c.core[-6:], c.count, c.threads_per_core) for c in host.clusters] == [
        ("P-core", 2, 2),
        ("E-core", 4, 1),
    ]


def test_an_n100_is_recognised_by_its_processor(tree):
    cpuinfo = x86_cpuinfo("Intel(R) N100", [0, 1, 2, 3], "avx avx2 avx_vnni")
    host = read_machine(tree({"proc/cpuinfo": cpuinfo}), "x86_64", set(range(4)))
    assert matches(load_device("n100"), host)


def test_a_virtual_machine_with_half_the_cores_is_not_the_board(tree):
    cpuinfo = x86_cpuinfo("Intel(R) N100", [0, 1], "avx avx2 avx_vnni")
    host = read_machine(tree({"proc/cpuinfo": cpuinfo}), "x86_64", {0, 1})
    assert not matches(load_device("n100"), host)


def test_another_board_with_the_same_cores_is_not_the_board(tree):
    other = RPI5 | {"proc/device-tree/model": "Raspberry Pi Compute Module 5 Rev 1.0\0"}
    host = read_machine(tree(other), "aarch64", set(range(4)))
    assert not matches(load_device("rpi5"), host)


def test_cores_decide_where_a_profile_does_not_say_how_linux_calls_it(tree, board_file):
    nameless = load_device(board_file('reported_as = ["Raspberry Pi 5 Model B*"]', ""))
    assert matches(nameless, read_machine(tree(RPI5), "aarch64", set(range(4))))
    assert not matches(nameless, read_machine(tree(RK3588), "aarch64", set(range(8))))


def test_affinity_and_quota_lower_the_threads(tree):
    quota = {
        "proc/self/cgroup": "0::/user.slice/job\n",
        "sys/fs/cgroup/user.slice/cpu.max": "250000 100000\n",
        "sys/fs/cgroup/user.slice/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/memory.max": f"{2 << 30}\n",
    }
    root = tree(RPI5 | quota)
    assert read_machine(root, "aarch64", {2}).threads == 1
    host = read_machine(root, "aarch64", set(range(4)))
    assert (host.threads, host.memory_mib, host.cores) == (2, 2048, 4)


def test_small_cores_are_used_where_no_large_one_is_allowed(tree):
    host = read_machine(tree(RK3588), "aarch64", {0, 1, 2})
    assert (host.threads, host.pinning) == (3, [])


def test_a_container_may_renumber_its_cpus(tree):
    host = read_machine(tree({"proc/cpuinfo": arm_cpuinfo("0xd0b", "0xd0b")}), "aarch64", {5, 7})
    assert host.cpus == [5, 7]
    assert (host.cores, host.threads) == (2, 2)


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_an_empty_tree_is_still_a_machine(tmp_path, machine):
    host = read_machine(tmp_path, machine, {0, 1})
    assert (host.cores, host.threads, host.architecture) == (2, 2, machine)
    assert host.features == []
    assert host.memory_mib > 0
    assert not any(matches(board, host) for board in list_devices())


def test_emulated_arm_does_not_take_the_name_of_the_machine_below(tree):
    host = read_machine(tree(LAPTOP), "aarch64", set(range(8)))
    assert host.clusters[0].core == "unknown"
    assert host.reported_as == []


def test_a_core_that_is_not_known_keeps_its_numbers(tree):
    host = read_machine(tree({"proc/cpuinfo": arm_cpuinfo("0xfff")}), "aarch64", {0})
    assert host.clusters[0].core == "implementer 0x41 part 0xfff"


def test_a_32_bit_system_is_refused(tmp_path):
    with pytest.raises(DeviceError, match="armv7l"):
        read_machine(tmp_path, "armv7l", {0})


def test_a_32_bit_system_on_a_64_bit_kernel_is_named(monkeypatch):
    monkeypatch.setattr(probe_module, "sys", SimpleNamespace(maxsize=2**31 - 1))
    with pytest.raises(DeviceError, match="This Python is a 32-bit program"):
        probe()


def test_this_machine_matches_itself():
    host = probe()
    assert host == load_device("host")
    assert matches(host, host)


# The command


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_list_is_what_comes_without_a_command():
    assert run() == run("list")
    assert all(board in run() for board in BOARDS)


def test_the_list_as_json_is_one_object():
    assert [device["name"] for device in json.loads(run("list", "--json"))["devices"]] == BOARDS


@pytest.mark.parametrize("command", [["list"], ["show", "rpi5"], ["probe"]])
def test_json_may_come_before_the_command(command):
    assert json.loads(run("--json", *command)) == json.loads(run(*command, "--json"))


@pytest.mark.parametrize("name", ["rpi5", "host"])
def test_a_shown_board_as_json_is_its_profile(name):
    shown = msgspec.json.decode(run("show", name, "--json"), type=DeviceProfile)
    assert shown == load_device(name)


def test_a_shown_board_has_its_sources():
    shown = run("show", "rpi-zero-2w")
    assert "RP3A0" in shown
    assert "512 MiB" in shown
    assert "product brief" in shown


def test_the_probe_says_which_board_it_is(monkeypatch, tree):
    host = read_machine(tree(RPI5), "aarch64", set(range(4)))
    monkeypatch.setattr("edgefuse_devices.probe.probe", lambda: host)
    assert "This machine is a Raspberry Pi 5 (rpi5)." in run("probe")
    assert json.loads(run("probe", "--json"))["soc"] == "bcm2712"
