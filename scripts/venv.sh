#!/bin/sh
# Makes a Python environment match a requirements file: venv.sh FOLDER REQUIREMENTS
set -eu
folder=$1
wanted=$(sha256sum "$2")
[ "$(cat "$folder/.requirements" 2>/dev/null)" = "$wanted" ] && exit 0
python3 -c 'import ensurepip' 2>/dev/null || "$(dirname "$0")/apt.sh" no-such-program:python3-venv
[ -x "$folder/bin/python" ] || python3 -m venv "$folder"
"$folder/bin/python" -m pip install --quiet --disable-pip-version-check --requirement "$2"
echo "$wanted" > "$folder/.requirements"
