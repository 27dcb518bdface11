#!/usr/bin/env bash
# What cargo runs a test program by, when it tests mutants: in a pid and mount namespace of its own, as a mutant may kill
# every process that it sees, and with a pid that no earlier one had, as the tests name their cgroups by it. What it
# leaves there is removed: a later mutant must not be found by an earlier one's leftovers.
set -uo pipefail
if [ "${1:-}" != --inside ]; then
  exec unshare --mount --pid --fork --mount-proc --kill-child -- "$0" --inside "$@"
fi
shift

echo $((RANDOM * 100 + RANDOM % 100 + 1000)) >/proc/sys/kernel/ns_last_pid
"$@" &
pid=$!
wait "$pid"
status=$?

groups() { find /sys/fs/cgroup -depth -type d -path "*/neargate-*-$pid*" 2>/dev/null; }
# A frozen process does not even die.
groups | while read -r group; do
  if [ -e "$group/freezer.state" ]; then echo THAWED >"$group/freezer.state"; fi
  if [ -e "$group/cgroup.freeze" ]; then echo 0 >"$group/cgroup.freeze"; fi
done
# All but this shell, which is pid 1 here.
kill -KILL -1 2>/dev/null
wait
for _ in 1 2 3 4 5 6 7 8 9 10; do
  left=$(groups)
  [ -n "$left" ] || break
  # One that still has a zombie in it goes the next time.
  rmdir $left 2>/dev/null || sleep 0.1
done
exit "$status"
