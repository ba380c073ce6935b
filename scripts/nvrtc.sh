#!/bin/sh
# Fetches what the CUDA kernels are compiled with into a folder: nvrtc.sh FOLDER
# Without it a build has no kernels and says so; only a build server fails.
set -eu
cd "$(dirname "$0")/.."
folder=$1
wanted=$(sha256sum scripts/nvrtc.txt)
[ "$(cat "$folder/.requirements" 2>/dev/null)" = "$wanted" ] && exit 0
fail() {
    echo "The CUDA compiler could not be fetched: this build computes on the processor only." >&2
    [ "${CI:-}" != true ] || exit 1
    exit 0
}
[ "$(uname -m)" = x86_64 ] || fail
mkdir -p "$folder"
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT
python3 -m pip --version >/dev/null 2>&1 || scripts/apt.sh no-such-program:python3-pip
echo "Fetching the CUDA compiler (90 MB)" >&2
python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
    --dest "$wheels" --requirement scripts/nvrtc.txt || fail
for wheel in "$wheels"/*.whl; do
    python3 -m zipfile -e "$wheel" "$folder"
done
echo "$wanted" > "$folder/.requirements"
# The next build looks again.
touch build.rs
