#!/usr/bin/env bash
# Builds {{name}}.wasm. Needs Node.js 20 or later; runs from any directory.
# Ends with 3 when a tool is missing or can't be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

for tool in node npm; do
    if ! command -v "$tool" >/dev/null; then
        echo "build.sh: $tool is missing: install Node.js 20 or later (https://nodejs.org)" >&2
        exit 3
    fi
done

# What package.json names is installed once, and again when that changes.
if [ ! node_modules/.installed -nt package.json ]; then
    if [ -f package-lock.json ]; then
        npm ci --no-audit --no-fund --loglevel=error || exit 3
    else
        npm install --no-audit --no-fund --loglevel=error || exit 3
    fi
    touch node_modules/.installed
fi
node build.mjs
