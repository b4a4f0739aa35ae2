"""Ctrl-C ends every command with a word and exit code 130, SIGTERM without one and with 143.

What cannot be printed is a sentence too.
"""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = """
import time
import edgefuse_devices.catalog as catalog

def load_device(name):
    print("begun", flush=True)
    time.sleep(60)

catalog.load_device = load_device
from edgefuse.cli import main
main()
"""


def test_ctrl_c_says_so_and_exits_with_130():
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "devices", "show", "host"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (130, "edgefuse: interrupted.\n")


HALF_WRITTEN = """
import sys, time
from pathlib import Path
import edgefuse_devices.catalog as catalog
from edgefuse_runtime.files.output import new_directory

output = Path(sys.argv.pop())

def load_device(name):
    with new_directory(output, marker="x") as folder:
        (folder / "half").write_text("written")
        print("begun", flush=True)
        time.sleep(60)

catalog.load_device = load_device
from edgefuse.cli import main
main()
"""


def test_sigterm_leaves_no_half_written_folder(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HALF_WRITTEN, "devices", "show", "host", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "begun\n"
    assert len(list(tmp_path.iterdir())) == 1
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143
    assert list(tmp_path.iterdir()) == []


STUCK = """
import hashlib, os
import edgefuse_devices.catalog as catalog

def load_device(name):
    os.write(1, b"begun\\n")
    hashlib.pbkdf2_hmac("sha256", b"", b"", 10**9)  # as a graph, it lets no handler run for minutes

catalog.load_device = load_device
from edgefuse.cli import main
main()
"""


def start(script, *arguments, **options):
    process = subprocess.Popen(
        [sys.executable, "-c", script, "devices", "show", "host", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout.readline() == "begun\n"
    return process


def test_a_second_ctrl_c_ends_what_hears_no_first_one():
    process = start(STUCK)
    for _ in range(2):
        time.sleep(0.5)
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (130, "edgefuse: ended at once.\n")


def test_a_lost_terminal_leaves_no_half_written_folder(tmp_path):
    process = start(HALF_WRITTEN, str(tmp_path / "out"))
    process.send_signal(signal.SIGHUP)
    process.communicate(timeout=30)
    assert process.returncode == 129
    assert list(tmp_path.iterdir()) == []


def test_what_nohup_starts_outlives_the_terminal(tmp_path):
    ignoring = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = start(HALF_WRITTEN, str(tmp_path / "out"), **ignoring)
    for _ in range(3):
        process.send_signal(signal.SIGHUP)
    time.sleep(0.3)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert process.returncode == 143


EDGEFUSE = [sys.executable, "-m", "edgefuse"]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (("devices", "list"), "No space left on device"),
        (("devices", "show", "rpi5", "--json"), "No space left on device"),
    ],
)
def test_a_full_standard_output_is_a_sentence(command, reason):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [*EDGEFUSE, *command], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert f"standard output cannot be written: {reason}" in done.stderr


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&-", "| true"])
def test_a_closed_standard_output_is_a_sentence(tmp_path, closed):
    command = f"{shlex.join(EDGEFUSE)} devices list"
    script = f"({command}; echo $? >{tmp_path}/code) {closed}" if "|" in closed else ""
    script = script or f"{command} {closed}; echo $? >{tmp_path}/code"
    done = subprocess.run(["bash", "-c", script], stderr=subprocess.PIPE, text=True, check=False)
    if "|" not in closed:  # else the other end may have read it before it ended
        assert (tmp_path / "code").read_text() == "2\n"
        assert "Traceback" not in done.stderr
        assert "2>&-" in closed or "standard output cannot be written" in done.stderr
    assert "Exception ignored" not in done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_locale_cannot_show_is_replaced(encoding):
    environment = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    done = subprocess.run(
        [*EDGEFUSE, "devices", "show", "café-☃"], capture_output=True, env=environment, check=False
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr.decode(encoding)
    assert {"ascii": b"caf?-?", "latin-1": b"caf\xe9-?"}.get(encoding, "café-☃".encode()) in (
        done.stderr
    )


def test_a_name_that_is_no_text_is_refused_before_anything_is_done(tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9"
    done = subprocess.run(
        [*map(os.fsencode, EDGEFUSE), b"predict", name], capture_output=True, check=False
    )
    assert done.returncode == 2
    assert b"caf\\udce9 is not UTF-8. Rename the file or folder" in done.stderr


def test_a_folder_that_is_gone_is_a_sentence(tmp_path):
    gone = tmp_path / "gone"
    script = f"mkdir {gone}; cd {gone}; rmdir {gone}; {shlex.join(EDGEFUSE)} devices list"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "the current folder is not there any more" in done.stderr
