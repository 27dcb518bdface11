#!/usr/bin/env bash
# Makes the examples' images from Debian's packages: OCI layouts below the cache, remade when this recipe changes.
# Usage: images.sh            prints the directory that holds the layouts `busybox` and `python`
#        images.sh HOST:PORT  also pushes them to that registry as library/busybox:latest and library/python:3-slim
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cache=${CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/neargate}
recipe=$(sha256sum "$here/images.sh" | cut -c1-16)
images=$cache/images-$recipe

make_busybox() { # $1: directory for the layout
  local tree=$work/busybox
  mkdir -p "$tree"/{bin,etc,root,tmp,var,proc,sys,dev}
  chmod 1777 "$tree/tmp"
  install -m 755 /bin/busybox "$tree/bin/busybox"
  for applet in $(/bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "$tree/bin/$applet"
  done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$tree/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$tree/etc/group"
  tar --sort=name --owner=0 --group=0 --numeric-owner -C "$tree" -cf "$work/busybox.tar" .
  add_image "$1" "$work/busybox.tar" --config.cmd=sh --config.env=PATH=/bin
}

make_python() {
  mmdebstrap --quiet --variant=extract --include=python3 bookworm "$work/python-root.tar"
  # Documentation and package lists are of no use in an image.
  mkdir "$work/python"
  tar -C "$work/python" -xf "$work/python-root.tar" --exclude='./usr/share/doc/*' --exclude='./usr/share/man/*' \
    --exclude='./var/lib/apt/*' --exclude='./var/cache/*' --exclude='./dev/*'
  # Health checks with CMD-SHELL and people who look around want a shell.
  install -D -m 755 /bin/busybox "$work/python/usr/bin/busybox"
  [ -e "$work/python/bin" ] || ln -s usr/bin "$work/python/bin"
  [ -e "$work/python/bin/sh" ] || ln -s /usr/bin/busybox "$work/python/bin/sh"
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' >"$work/python/etc/passwd"
  printf 'root:x:0:\nnogroup:x:65534:\n' >"$work/python/etc/group"
  tar --sort=name --numeric-owner -C "$work/python" -cf "$work/python.tar" .
  add_image "$1" "$work/python.tar" --config.cmd=python3 --config.env=PATH=/usr/bin:/bin
}

add_image() { # $1: layout, $2: layer tar, the rest: configuration
  local layout=$1 layer=$2
  shift 2
  umoci init --layout "$layout"
  umoci new --image "$layout:latest"
  umoci raw add-layer --image "$layout:latest" "$layer"
  umoci config --image "$layout:latest" "$@"
}

if [ ! -d "$images" ]; then
  mkdir -p "$cache"
  work=$(mktemp -d "$cache/images.XXXXXX")
  trap 'rm -rf "$work"' EXIT
  mkdir "$work/done"
  echo "Making the images busybox and python from Debian's packages" >&2
  make_busybox "$work/done/busybox" >&2
  make_python "$work/done/python" >&2
  # Another run may have been faster; its result is the same.
  mv -T "$work/done" "$images" 2>/dev/null || [ -d "$images" ]
fi

if [ $# -eq 1 ]; then
  skopeo copy --quiet --dest-tls-verify=false "oci:$images/busybox:latest" "docker://$1/library/busybox:latest" >&2
  skopeo copy --quiet --dest-tls-verify=false "oci:$images/python:latest" "docker://$1/library/python:3-slim" >&2
fi
echo "$images"
