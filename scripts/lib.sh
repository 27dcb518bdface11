# Sourced by demo.sh and try.sh: a registry and an agent below one directory. Owns the processes it starts.

bin=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)/target/debug

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '\n%s\n' "$*"; }

fail() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

need_root_and_rust() {
  [ "$(id -u)" = 0 ] || fail "namespaces and cgroups need root: run this as root (sudo make $1)"
  command -v cargo >/dev/null || fail "a Rust toolchain is missing: see https://rustup.rs, then run this again"
}

# Waits until "$@" succeeds, ${patience:-30} seconds at most.
await() {
  local deadline=$((SECONDS + ${patience:-30}))
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.05
  done
}

free_port() {
  python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# Starts Debian's docker-registry with its data in $1/registry; sets registry (HOST:PORT) and registry_pid.
start_registry() {
  local port
  port=$(free_port)
  mkdir -p "$1/registry"
  cat >"$1/registry.yml" <<YML
version: 0.1
storage: {filesystem: {rootdirectory: $1/registry}}
http: {addr: 127.0.0.1:$port}
YML
  setsid docker-registry serve "$1/registry.yml" >"$1/registry.log" 2>&1 </dev/null &
  registry_pid=$!
  registry=127.0.0.1:$port
  await answers "$port" || fail "the registry did not start: $(tail -n 5 "$1/registry.log")"
}

# Starts an agent below $1/root that finds docker.io's images in $registry.
start_agent() {
  mkdir -p "$1/root"
  cat >"$1/neargated.toml" <<TOML
# docker.io's images come from the registry on loopback.
[registries."docker.io"]
mirrors = ["$registry"]
TOML
  launch_agent "$1"
}

# Starts an agent with the configuration that is there; sets agent_pid and NEARGATE_SOCKET.
launch_agent() {
  setsid "$bin/neargated" --root "$1/root" --config "$1/neargated.toml" >"$1/neargated.log" 2>&1 </dev/null &
  agent_pid=$!
  export NEARGATE_SOCKET=$1/root/run/neargated.sock
  await "$bin/neargate" host || fail "the agent did not start: $(tail -n 5 "$1/neargated.log")"
}

# Ends a process that this shell started.
end() {
  [ -n "${1:-}" ] || return 0
  kill "$1" 2>/dev/null || return 0
  wait "$1" 2>/dev/null || true
}

# Stops every task of the agent and waits until none is left.
stop_all() {
  local ids
  ids=$("$bin/neargate" ps --json | jq -r '.tasks[].taskArn')
  [ -n "$ids" ] || return 0
  "$bin/neargate" stop $ids >/dev/null
  # A container may take up to its stopTimeout, 30 s unless it says otherwise.
  patience=600 await no_tasks || fail "some tasks do not stop: $("$bin/neargate" ps)"
}

no_tasks() { [ "$("$bin/neargate" ps --json | jq '.tasks | length')" = 0 ]; }
