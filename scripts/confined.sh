#!/usr/bin/env bash
# Runs a command as root where it can change nothing of the machine but some directories and cgroups: mounts of its own
# in which all else is read-only, and an empty /tmp and /run. For programs that are broken on purpose: a mutant of the
# path confinement once gave /etc another mode.
# Usage: confined.sh DIR... -- COMMAND...
set -euo pipefail
if [ "${1:-}" != --inside ]; then
  exec unshare --mount --propagation private -- "$0" --inside "$@"
fi
shift

while [ $# -gt 0 ] && [ "$1" != -- ]; do
  mount --bind "$1" "$1"
  shift
done
shift
for dir in /tmp /run; do
  mount -t tmpfs -o mode=1777,size=4g tmpfs "$dir"
done
# A bind mount's flags are its own: the others who see these file systems can write to them as before.
mount -o remount,bind,ro /
exec "$@"
