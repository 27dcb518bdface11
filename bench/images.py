"""The images that the benchmarks run and pull, made from this host's own files. Nothing is fetched."""

import json
import os
import pathlib
import subprocess

from timing import run

HERE = pathlib.Path(__file__).resolve().parent
LAYERS = 9


def compile_static(source, target):
    run(["cc", "-O2", "-static", "-o", target, HERE / source])


def clock(directory):
    """An OCI layout with one image: the static program `clock` and nothing else. Answers layout and program."""
    program, layout = directory / "clock", directory / "clock-layout"
    compile_static("clock.c", program)
    name = f"{layout}:clock"
    run(["umoci", "init", "--layout", layout])
    run(["umoci", "new", "--image", name])
    run(["umoci", "insert", "--image", name, program, "/clock"])
    run(["umoci", "config", "--image", name, "--config.entrypoint", "/clock"])
    return layout, program


def large(cache, mebibytes):
    """An OCI layout with nine gzipped layers of this host's /usr, `mebibytes` in all before compression; kept in `cache`."""
    layout = cache / f"large-{mebibytes}"
    if (layout / "done").exists():
        return layout
    run(["rm", "-rf", layout])
    cache.mkdir(parents=True, exist_ok=True)
    name = f"{layout}:large"
    run(["umoci", "init", "--layout", layout])
    run(["umoci", "new", "--image", name])
    for number, files in enumerate(slices(mebibytes << 20)):
        layer, listing = cache / f"layer-{number}.tar", cache / "files"
        listing.write_bytes(b"\0".join(files))
        run(["tar", "--create", "--file", layer, "--null", "--no-recursion", "--files-from", listing])
        run(["umoci", "raw", "add-layer", "--image", name, layer])
        layer.unlink()
        listing.unlink()
    (layout / "done").touch()
    return layout


def slices(total):
    """Regular files below /usr in nine lists of about the same size, `total` bytes in all."""
    lists, sizes, share = [[]], [0], total // LAYERS
    for directory, _, names in sorted(os.walk("/usr")):
        for name in sorted(names):
            path = os.path.join(directory, name)
            # One huge archive would be a layer of its own.
            if os.path.islink(path) or not os.path.isfile(path) or os.path.getsize(path) > share // 4:
                continue
            if sizes[-1] >= share:
                if len(lists) == LAYERS:
                    return lists
                lists.append([])
                sizes.append(0)
            lists[-1].append(os.fsencode(path))
            sizes[-1] += os.path.getsize(path)
    return lists


def push(layout, tag, address):
    """Copies a layout's image into the registry; answers its reference there."""
    reference = f"{address}/bench/{tag}:1"
    run(["skopeo", "copy", "--quiet", "--dest-tls-verify=false", f"oci:{layout}:{tag}", f"docker://{reference}"])
    return reference


def layer_files(layout):
    """The gzipped layers of a layout with one image."""
    blob = lambda digest: layout / "blobs" / digest.replace(":", "/")
    index = json.loads((layout / "index.json").read_text())
    manifest = json.loads(blob(index["manifests"][0]["digest"]).read_text())
    return [blob(layer["digest"]) for layer in manifest["layers"]]


def decompress_all(files):
    """What inflating alone costs."""
    for path in files:
        with open(path, "rb") as blob:
            subprocess.run(["gzip", "-dc"], stdin=blob, stdout=subprocess.DEVNULL, check=True)
