#!/bin/sh
# Prints the address of the Python package index that this machine uses: its pip's setting, or pip's own default.
set -eu
if [ -n "${PIP_INDEX_URL:-}" ]; then
    echo "$PIP_INDEX_URL"
else
    python3 -m pip config get global.index-url 2>/dev/null ||
        python3 -c 'from pip._internal.models.index import PyPI; print(PyPI.simple_url)'
fi
