#!/usr/bin/env bash
# The ARM64 lane of `make test`. It says why where it cannot run; EDGEFUSE_REQUIRE_LANES=1 makes
# that a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export PYTHON=${PYTHON:-.venv/bin/python}
status=0
tests/arm64/install.sh || status=$?
[ "$status" != 77 ] || [ -n "${EDGEFUSE_REQUIRE_LANES:-}" ] || exit 0
[ "$status" = 0 ] || exit "$status"
exec "$PYTHON" -m pytest -m arm64 tests/arm64
