#!/usr/bin/env bash
# Builds {{name}}.wasm. Needs Rust, with rustup; runs from any directory.
# Ends with 3 when a tool is missing or can't be installed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

target=wasm32-unknown-unknown
if ! command -v cargo >/dev/null; then
    echo "build.sh: cargo is missing: install Rust by rustup (https://rustup.rs)" >&2
    exit 3
fi
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    if ! command -v rustup >/dev/null; then
        echo "build.sh: this Rust has no $target, and there is no rustup to add it" >&2
        exit 3
    fi
    rustup target add "$target" || exit 3
fi

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
cargo build --quiet --release --target "$target"
"${EDGESTORE_HOST:-edgestore-host}" policy pack "$CARGO_TARGET_DIR/$target/release/policy.wasm" \
    -o {{name}}.wasm
