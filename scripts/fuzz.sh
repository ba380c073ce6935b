#!/bin/sh
# Runs one fuzz target from its seeds and from what earlier runs found: fuzz.sh TARGET SECONDS
set -eu
cd "$(dirname "$0")/.."
target=$1
seconds=$2
corpus=fuzz/corpus/$target
mkdir -p "$corpus"
# Where grammars are refused a trace would be made each time, which takes a hundred times as long as to refuse.
export RUST_LIB_BACKTRACE=0
# Sanitizers are options of an unstable compiler; ours is stable, and has them all the same.
RUSTC_BOOTSTRAP=1 cargo fuzz run "$target" "$corpus" "fuzz/seeds/$target" -- \
    -max_total_time="$seconds" -timeout=20 -rss_limit_mb=4096 -max_len=4096 -print_final_stats=1
