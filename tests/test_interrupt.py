"""Ctrl-C ends every command with a word and exit code 130."""

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
