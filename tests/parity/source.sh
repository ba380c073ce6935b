#!/bin/sh
# Unpacks the sources of the llama-cpp-python that is compared with, for llama.cpp's test vocabularies: source.sh FOLDER PYTHON
set -eu
folder=$1
wanted=$(grep llama-cpp-python "$(dirname "$0")/requirements.txt")
[ "$(cat "$folder/.source" 2>/dev/null)" = "$wanted" ] && exit 0
mkdir -p "$folder"
"$2" -m pip download --quiet --disable-pip-version-check --no-deps --no-binary llama-cpp-python \
    --dest "$folder" "$wanted"
tar -xzf "$folder"/llama_cpp_python-*.tar.gz -C "$folder" --strip-components=1
echo "$wanted" > "$folder/.source"
