#!/bin/sh
# Installs Debian packages whose program is missing: apt.sh PROGRAM:PACKAGE ... A path stands for a file instead.
# As root, or through sudo. Asks for nothing where everything is there.
set -eu
missing=
for pair in "$@"; do
    wanted=${pair%%:*}
    case $wanted in
        /*) [ -e "$wanted" ] ;;
        *) PATH="$PATH:/usr/sbin:/sbin" command -v "$wanted" >/dev/null 2>&1 ;;
    esac || missing="$missing ${pair#*:}"
done
[ -n "$missing" ] || exit 0
if ! command -v apt-get >/dev/null 2>&1; then
    echo "This machine has no apt-get. Please install yourself:$missing" >&2
    exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "Installing$missing" >&2
export DEBIAN_FRONTEND=noninteractive
$sudo apt-get update -qq
# shellcheck disable=SC2086 # the list is split on purpose
$sudo apt-get install -y -qq --no-install-recommends $missing >&2
