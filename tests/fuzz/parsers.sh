#!/bin/sh
# Gives every parser of outside bytes inputs that libFuzzer makes, each for SECONDS (60) or for INPUTS, and prints how many it took.
# A panic, a broken promise of a target, or an input that takes 10 s or 2 GB ends a target: it is kept in target/fuzz/artifacts.
# TARGETS="config names" runs these alone.
set -eu

here=$(cd "$(dirname "$0")/parsers" && pwd)
root=$(cd "$here/../../.." && pwd)
work=$root/target/fuzz
command -v c++ > /dev/null || { echo "fuzz-parsers: libFuzzer is built with a C++ compiler: apt-get install g++" >&2; exit 1; }
PATH=$root/target/cargo-fuzz/bin:$PATH
command -v cargo-fuzz > /dev/null || cargo install --quiet --locked cargo-fuzz --version 0.13.2 --root "$root/target/cargo-fuzz"

cd "$here"
# Without a sanitizer the compiler may be a stable one; the code has no `unsafe`.
build="--fuzz-dir . --sanitizer none --target-dir $work"
# shellcheck disable=SC2086
cargo fuzz build $build
# shellcheck disable=SC2086
targets=${TARGETS:-$(cargo fuzz list --fuzz-dir .)}

failed=0
for target in $targets; do
    mkdir -p "$work/corpus/$target" "$work/artifacts/$target"
    binary=$(find "$work" -path "*/release/$target" -type f -perm -u+x | head -n 1)
    if [ -n "${INPUTS:-}" ]; then limit="-runs=$INPUTS"; else limit="-max_total_time=${SECONDS:-60}"; fi
    log=$work/$target.log
    # New inputs go to the first directory; the second has the seeds.
    if "$binary" "$limit" -print_final_stats=1 -timeout=10 -rss_limit_mb=2048 -artifact_prefix="$work/artifacts/$target/" \
        "$work/corpus/$target" "seeds/$target" > "$log" 2>&1; then
        inputs=$(awk '/^stat::number_of_executed_units:/ {print $2}' "$log")
        echo "fuzz-parsers: $target: $inputs inputs, 0 panics"
    else
        echo "fuzz-parsers: $target: failed, see $log; the input is in $work/artifacts/$target" >&2
        grep -E "panicked|ERROR|SUMMARY" "$log" >&2 || tail -n 5 "$log" >&2
        failed=1
    fi
done
exit "$failed"
