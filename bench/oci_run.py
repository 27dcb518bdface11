"""OCI `run` of a static /bin/true with an unmodified `runc spec`: neargate-runtime, crun, runc and the floor."""

import json
import os
import shutil

from images import compile_static
from peers import RELEASE
from timing import interleave, run


def bundle(directory):
    """As `runc spec` writes it, but for the program and the terminal."""
    rootfs = directory / "rootfs/bin"
    rootfs.mkdir(parents=True)
    source = directory / "true.c"
    source.write_text("int main(void) { return 0; }\n")
    run(["cc", "-O2", "-static", "-o", rootfs / "true", source])
    run(["runc", "spec", "--bundle", directory])
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(args=["/bin/true"], terminal=False)
    (directory / "config.json").write_text(json.dumps(config))


def measure(report, directory, rounds):
    """Must be called where there is no hybrid cgroup mount: crun refuses it."""
    bundle(directory)
    floor = directory / "floor"
    compile_static("floor.c", floor)

    def by(path):
        def once(number):
            run([path, "run", "--bundle", directory, f"bench-{os.getpid()}-{number}"])

        return once

    def bare(number):
        run([floor, directory / "rootfs", f"bench-{os.getpid()}-{number}", "/bin/true"])

    section = report.section("OCI run of /bin/true, runc spec", "ms")
    contenders = {"neargate-runtime": by(RELEASE / "neargate-runtime"), "crun": by(shutil.which("crun")),
                  "runc": by(shutil.which("runc")), "floor": bare}
    series = interleave(contenders, rounds)
    section.table(series)
    section.target("neargate-runtime / crun, minima", series["neargate-runtime"].minimum / series["crun"].minimum, 1.0)
