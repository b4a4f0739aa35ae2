"""Ctrl-C ends every command with a word and exit code 130, SIGTERM without one and with 143."""

import signal
import subprocess
import sys

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
