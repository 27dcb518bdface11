#!/usr/bin/env bash
# Runs the example client of another language against a real agent: register, run, watch, logs, reflection.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib.sh
need_root_and_rust test

cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/neargate}
venv=$cache/python-$(sha256sum examples/clients/python/requirements.txt | cut -c1-16)
if [ ! -x "$venv/bin/python" ]; then
  rm -rf "$venv.new"
  /usr/bin/python3 -m venv "$venv.new"
  # A venv moves badly: its scripts name their path, so only the interpreter is used from it.
  "$venv.new/bin/python" -m pip install --quiet --requirement examples/clients/python/requirements.txt
  mv "$venv.new" "$venv"
fi

work=$(mktemp -d /tmp/neargate-client.XXXXXX)
agent_pid='' registry_pid=''
cleanup() {
  local status=$?
  trap - EXIT
  if [ "$status" != 0 ] && [ -f "$work/neargated.log" ]; then tail -n 20 "$work/neargated.log" >&2; fi
  end "$agent_pid"
  end "$registry_pid"
  rm -rf "$work"
  exit "$status"
}
trap cleanup EXIT

start_registry "$work"
scripts/images.sh "$registry" >/dev/null
start_agent "$work"
output=$("$venv/bin/python" examples/clients/python/client.py "$NEARGATE_SOCKET" examples/hello.json)
echo "$output"
for part in 'neargate.v1.TaskService' 'registered hello:1' 'status: STOPPED' 'Hello from' 'hello exited with 0'; do
  grep -qF "$part" <<<"$output" || fail "the client's output lacks: $part"
done
code=0
"$venv/bin/python" examples/clients/python/client.py "$NEARGATE_SOCKET" examples/job.json >/dev/null || code=$?
[ "$code" = 42 ] || fail "the client should have told the job's exit code 42, not $code"
await no_tasks
echo "1 passed, 0 failed"
