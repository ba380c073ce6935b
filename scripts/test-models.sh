#!/bin/sh
# Fetches the models that the tests run into a folder, with the product's own downloader: test-models.sh FOLDER
set -eu
cd "$(dirname "$0")/.."
folder=$1
set -- gemma-3-270m qwen2.5-coder-1.5b-instruct
for name in "$@"; do
    [ -f "$folder/$name-q4_k_m.gguf" ] && continue
    # Builds what the tests need next anyway: `cargo run` alone would build the library once more, without their features.
    cargo test --quiet --no-run
    "${SOVEREIGN_BINARY:-target/debug/sovereign}" model pull "$name" --yes --to "$folder" --python-index "$(scripts/python-index.sh)"
done
