#!/usr/bin/env bash
# `make try` leaves an agent and a registry up; `make try-stop` ends them and removes what they made.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root_and_rust try
work=/tmp/neargate-try

start() {
  if [ -e "$work/pids" ]; then
    fail "an agent is up already (or was not stopped): run make try-stop first"
  fi
  mkdir -p "$work"
  chmod 700 "$work"
  start_registry "$work"
  scripts/images.sh "$registry" >/dev/null
  start_agent "$work"
  # A pid alone may come to name another process: its start time goes with it.
  for pid in "$agent_pid" "$registry_pid"; do
    echo "$pid $(start_time "$pid")"
  done >"$work/pids"
  cat <<TEXT

An agent is up, and a registry with the images busybox and python:3-slim.
Its socket is $NEARGATE_SOCKET. Type:

  export NEARGATE_SOCKET=$NEARGATE_SOCKET PATH=$bin:\$PATH
  neargate run examples/hello.json --follow
  neargate run examples/web.json && neargate ps
  neargate images

To end it: make try-stop
TEXT
}

start_time() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }

stop() {
  [ -e "$work/pids" ] || fail "nothing to stop: make try was not run"
  export NEARGATE_SOCKET=$work/root/run/neargated.sock
  if [ -d "$work/root/run" ] && ! "$bin/neargate" host >/dev/null 2>&1; then
    echo "The agent is gone and its tasks may run on: an agent is started again to stop them."
    launch_agent "$work"
    echo "$agent_pid $(start_time "$agent_pid")" >>"$work/pids"
  fi
  if "$bin/neargate" host >/dev/null 2>&1; then
    echo "Stopping the tasks; one that ignores SIGTERM takes its stopTimeout (30 s unless it says otherwise)."
    stop_all
  fi
  while read -r pid started; do
    [ "$(start_time "$pid")" = "$started" ] && [ -n "$started" ] || continue
    kill "$pid"
    await gone "$pid" "$started" || fail "process $pid does not end"
  done <"$work/pids"
  rm -rf --one-file-system "$work"
  echo "The agent and the registry have ended; no task and no file of theirs is left."
}

gone() { [ "$(start_time "$1")" != "$2" ]; }

case ${1:-} in
  start) start ;;
  stop) stop ;;
  *) fail "usage: try.sh start|stop" ;;
esac
