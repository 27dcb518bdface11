#!/usr/bin/env bash
# Breaks the code that confines, limits and drives containers in each of the ways that cargo-mutants knows, and runs the
# tests that should see it. Survivors are printed. Works on a copy, confined (confined.sh): broken code runs as root.
# Usage: mutants.sh [FILE...]
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root_and_rust mutants
root=$PWD
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/neargate}
work=$cache/mutants
export PATH=$cache/tools/bin:$PATH
export LIBSECCOMP_LINK_TYPE=${LIBSECCOMP_LINK_TYPE:-static}
export LIBSECCOMP_LIB_PATH=${LIBSECCOMP_LIB_PATH:-/usr/lib/x86_64-linux-gnu}

files=("$@")
if [ ${#files[@]} -eq 0 ]; then
  files=(runtime/src/{cgroup,mounts,namespaces}.rs rootfs/src/unpack.rs agent/src/task/lifecycle.rs)
fi

# The package, its test programs and the tests that look at a file, and no others: one mutant is to take seconds.
tests_of() {
  case $1 in
    runtime/src/cgroup.rs) echo runtime --lib --test=oci -- cgroup:: resources:: ;;
    runtime/src/mounts.rs) echo runtime --lib --test=oci -- mounts:: isolation:: hostile:: ;;
    runtime/src/namespaces.rs) echo runtime --lib --test=oci -- namespaces:: isolation:: user_namespace:: ;;
    rootfs/src/unpack.rs) echo rootfs --lib -- unpack:: ;;
    agent/src/task/lifecycle.rs) echo agent --lib -- lifecycle:: ;;
    *) fail "no tests are named here for $1" ;;
  esac
}

mkdir -p "$work/source" "$work/target" "$work/out"
# With their times, so that what did not change is not compiled again.
git ls-files -z | tar --null --files-from=- -cf - | tar -C "$work/source" -xf -
export CARGO_TARGET_DIR=$work/target CARGO_NET_OFFLINE=true CARGO_INCREMENTAL=1 CARGO_PROFILE_DEV_DEBUG=0
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER=$root/scripts/mutant-test.sh

status=0
for file in "${files[@]}"; do
  read -r package tests <<<"$(tests_of "$file")"
  programs=()
  # Named to the build as well, which would make all of the package's test programs for each mutant.
  for program in ${tests%%-- *}; do programs+=("--cargo-arg=$program"); done
  tests=${tests#*-- }
  out=$work/out/$(tr / - <<<"$file")
  mkdir -p "$out"
  say "$file"
  # shellcheck disable=SC2086 # words on purpose
  scripts/confined.sh "$work" -- cargo mutants --in-place --dir "$work/source" --output "$out" --file "$file" \
    --package "$package" --test-package "$package" --minimum-test-timeout 60 --build-timeout 600 \
    --no-shuffle --colors never "${programs[@]}" -- -- $tests || status=$?
  [ "$status" = 0 ] || [ "$status" = 2 ] || [ "$status" = 3 ] || fail "cargo mutants ended with $status"
  if [ -s "$out/mutants.out/missed.txt" ]; then
    echo "Survivors:"
    cat "$out/mutants.out/missed.txt"
  fi
done
[ "$status" = 0 ]
