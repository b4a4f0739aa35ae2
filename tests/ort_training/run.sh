#!/usr/bin/env bash
# Make an environment that has onnxruntime-training in onnxruntime's place, once, and test there.
#
# PYTHON: the environment that `make` installs; it trains the same models with the stock engine,
# whose losses are compared, and its Python makes the second environment.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root"
python=${PYTHON:-.venv/bin/python}
venv=.venv-ort-training
wanted=constraints-ort-training.txt
installed=$venv/installed.txt # the stamp: what was installed last

suits() {
    "$1" -c 'import platform, sys
sys.exit(not ((3, 11) <= sys.version_info[:2] <= (3, 12) and sys.platform == "linux"
              and platform.machine() == "x86_64"))' 2>/dev/null
}

if ! cmp --silent "$wanted" "$installed" || ! "$venv/bin/python" -c 'import onnxruntime' 2>/dev/null
then
    base=
    for candidate in "$python" python3.12 python3.11; do
        if suits "$candidate"; then
            base=$candidate
            break
        fi
    done
    if [ -z "$base" ]; then
        echo "Skipped: onnxruntime-training has wheels for Linux on x86-64, Python 3.11 and 3.12." >&2
        exit "${EDGEFUSE_REQUIRE_LANES:-0}"
    fi
    echo "Installing onnxruntime-training into $venv: this takes some minutes, once." >&2
    "$base" -m venv --clear "$venv"
    pip=("$venv/bin/python" -m pip --quiet --quiet --disable-pip-version-check --no-input)
    "${pip[@]}" install --constraint "$wanted" --upgrade pip
    "${pip[@]}" install --requirement "$wanted"
    cp "$wanted" "$installed"
fi

# On the path rather than installed: its extras name onnxruntime, and a moved checkout still works.
export PYTHONPATH="$root:$root/export:$root/runtime:$root/devices"
exchange=$(mktemp -d)
trap 'rm -rf "$exchange"' EXIT
"$python" -m tests.ort_training.losses onnxruntime "$exchange"
EDGEFUSE_STOCK_LOSSES=$exchange "$venv/bin/python" -m pytest -m ort_training tests/ort_training
