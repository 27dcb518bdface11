#!/usr/bin/env bash
# The demo: real images from a real registry, real task definitions, what becomes of them, and nothing left behind.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root_and_rust demo

work=$(mktemp -d /tmp/neargate-demo.XXXXXX)
agent_pid='' registry_pid='' before=''
cleanup() {
  local status=$?
  # Another Ctrl-C must not leave half of it behind.
  trap - EXIT
  trap '' INT TERM HUP
  [ "$status" = 0 ] || echo "Cleaning up; a task may take its stopTimeout" >&2
  if [ -n "$agent_pid" ]; then stop_all || true; fi
  end "$agent_pid"
  end "$registry_pid"
  if [ "$status" != 0 ] && [ -f "$work/neargated.log" ]; then
    echo "The agent's last words:" >&2
    tail -n 20 "$work/neargated.log" >&2
  fi
  rm -rf --one-file-system "$work" "$work.before"
  exit "$status"
}
trap cleanup EXIT
trap 'exit 130' INT TERM HUP

# Runs examples/$1.json to its end and checks the exit code of `run --follow` against $2.
follow() {
  local code=0
  say "\$ neargate run examples/$1.json --follow"
  "$bin/neargate" run "examples/$1.json" --follow || code=$?
  echo "exit code of neargate run: $code"
  [ "$code" = "$2" ] || fail "examples/$1.json should have ended with $2, not $code"
}

limit_files() { # cgroup v1 and v2, whichever this host has
  local group=$1
  find /sys/fs/cgroup -type d -path "*/neargate-*/$group*" 2>/dev/null |
    while read -r dir; do
      for file in cpu.cfs_quota_us cpu.shares memory.limit_in_bytes cpu.max cpu.weight memory.max; do
        if [ -f "$dir/$file" ]; then
          printf '%s/%s = %s\n' "${dir#/sys/fs/cgroup/}" "$file" "$(cat "$dir/$file")"
        fi
      done
    done | sort -u
}

"$bin/leaks" snapshot "$work.before"
say "Making images and starting a registry"
scripts/images.sh >/dev/null
start_registry "$work"
scripts/images.sh "$registry" >/dev/null
echo "Debian's docker-registry at $registry holds busybox:latest and python:3-slim"

say "Starting neargated below $work/root"
start_agent "$work"
"$bin/neargate" host

for image in busybox python:3-slim; do
  say "\$ neargate pull $image"
  "$bin/neargate" pull "$image"
done
"$bin/neargate" images

follow hello 0

say "\$ neargate run examples/web.json    (a web server and a client share a volume; 0.25 vCPU, 128 MiB)"
web=$("$bin/neargate" run examples/web.json --json | jq -r '.tasks[0].taskArn')
served() { "$bin/neargate" logs --container client "$web" | grep -q 'Served from a shared volume'; }
await served || fail "the client did not get the page: $("$bin/neargate" logs "$web")"
"$bin/neargate" ps
say "\$ neargate logs ${web##*/}"
"$bin/neargate" logs "$web"
say "The limits of task ${web##*/}, read back from the kernel"
limits=$(limit_files "${web##*/}")
echo "$limits"
grep -qE 'cpu.cfs_quota_us = 25000|cpu.max = 25000 100000' <<<"$limits" || fail "the task's CPU limit is not in the kernel"
grep -qE 'memory.(limit_in_bytes|max) = 134217728' <<<"$limits" || fail "the task's memory limit is not in the kernel"
say "\$ neargate exec --container server ${web##*/} python3 -c 'import os; print(\"inside as user\", os.getuid())'"
"$bin/neargate" exec --container server "$web" python3 -c 'import os; print("inside as user", os.getuid())'
say "\$ neargate stop ${web##*/}"
"$bin/neargate" stop "$web"

follow job 42
follow out-of-memory 137
follow depends-on 0

await no_tasks || fail "tasks are left: $("$bin/neargate" ps)"
say "\$ neargate ps -a"
"$bin/neargate" ps -a

say "Cleaning up"
end "$agent_pid" && agent_pid=''
end "$registry_pid" && registry_pid=''
rm -rf "$work"
"$bin/leaks" compare "$work.before"
rm -f "$work.before"
echo "Nothing is left: no process, mount, cgroup, namespace, link or file."
