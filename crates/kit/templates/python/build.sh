#!/usr/bin/env bash
# Builds {{name}}.wasm. Needs Python 3.10 or later; runs from any directory.
# Ends with 3 when a tool is missing or can't be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

python=${PYTHON:-python3}
if ! command -v "$python" >/dev/null; then
    echo "build.sh: $python is missing: install Python 3.10 or later" >&2
    exit 3
fi

# What requirements.txt names is installed once, and again when that changes.
if [ ! .venv/.installed -nt requirements.txt ]; then
    if ! "$python" -m venv .venv; then
        echo "build.sh: no venv; on Debian and Ubuntu: apt-get install python3-venv" >&2
        exit 3
    fi
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt ||
        exit 3
    touch .venv/.installed
fi

rm -rf bindings
.venv/bin/componentize-py --quiet --wit-path wit --world sync-policy bindings bindings
# --stub-wasi: a policy has no WASI. Files, sockets and the system's clock trap; use the contract's
# clock and random.
.venv/bin/componentize-py --quiet --wit-path wit --world sync-policy \
    componentize --stub-wasi policy -o {{name}}.wasm
