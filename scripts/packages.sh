#!/usr/bin/env bash
# Installs the Debian packages that building, the demo and the tests need. Does nothing when all are there.
set -euo pipefail

# Further packages may be named as arguments.
packages=(
  "$@"
  build-essential pkg-config libseccomp-dev       # to build
  e2fsprogs                                        # to run: ephemeralStorage
  busybox-static mmdebstrap skopeo umoci jq        # to make images
  docker-registry apache2-utils openssl            # a registry to pull from
  iproute2 nftables util-linux procps python3-venv # to look from outside
)

missing=()
for package in "${packages[@]}"; do
  if [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)" != installed ]; then
    missing+=("$package")
  fi
done
[ ${#missing[@]} -eq 0 ] && exit 0

if [ "$(id -u)" != 0 ]; then
  echo "These Debian packages are missing and only root can install them: ${missing[*]}" >&2
  echo "Run: sudo apt-get install ${missing[*]}" >&2
  exit 1
fi
if ! command -v apt-get >/dev/null; then
  echo "These packages are missing, and this is no Debian or Ubuntu to install them on: ${missing[*]}" >&2
  exit 1
fi
echo "Installing ${missing[*]}"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
# docker-registry's package would start a service of its own; ours are started by hand on free ports.
policy=/usr/sbin/policy-rc.d
if [ ! -e "$policy" ]; then
  printf '#!/bin/sh\nexit 101\n' >"$policy"
  chmod 755 "$policy"
  trap 'rm -f "$log" "$policy"' EXIT
fi
if ! { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
  tail -n 30 "$log" >&2
  exit 1
fi
