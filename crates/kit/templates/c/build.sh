#!/usr/bin/env bash
# Builds {{name}}.wasm. Needs clang and wasm-ld; runs from any directory.
# Ends with 3 when a tool is missing or can't be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

need() {
    command -v "$1" >/dev/null && return
    echo "build.sh: $1 is missing; on Debian and Ubuntu: apt-get install clang lld" >&2
    exit 3
}
need clang
need wasm-ld

mkdir -p build
flags=(--target=wasm32 -O2 -std=c11 -ffreestanding -nostdlib -Ibindings -Ilibc)
clang "${flags[@]}" -Wall -Wextra -c policy.c -o build/policy.o
clang "${flags[@]}" -c libc/libc.c -o build/libc.o
clang "${flags[@]}" -c bindings/sync_policy.c -o build/bindings.o
# --stack-first: a stack that overflows traps, and does not run into the data.
wasm-ld --no-entry --stack-first -z stack-size=65536 --strip-all \
    build/policy.o build/libc.o build/bindings.o bindings/sync_policy_component_type.o \
    -o build/policy.wasm
"${EDGESTORE_HOST:-edgestore-host}" policy pack build/policy.wasm -o {{name}}.wasm
