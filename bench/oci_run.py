#!/usr/bin/env python3
"""Times `run` of a static /bin/true by OCI runtimes on the same unmodified `runc spec`, in turn within one run.

Prints minimum and median of the wall time in milliseconds and the ratio to crun, checks every exit code, and says the
machine's load. A runtime that fails once has no figure. Needs root, runc and crun.
"""

import json
import os
import pathlib
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

ROUNDS = int(os.environ.get("ROUNDS", "40"))
NEARGATE = pathlib.Path(__file__).resolve().parents[1] / "target/release/neargate-runtime"

# crun refuses a hybrid cgroup mount; it is timed in a private mount namespace that lacks the cgroup2 one.
WITHOUT_UNIFIED = "umount /sys/fs/cgroup/unified 2>/dev/null; exec \"$@\""


def make_bundle(directory):
    """A bundle as `runc spec` writes it, with a static program that only exits."""
    rootfs = directory / "rootfs/bin"
    rootfs.mkdir(parents=True)
    source = directory / "true.c"
    source.write_text("int main(void) { return 0; }\n")
    subprocess.run(["cc", "-O2", "-static", "-o", rootfs / "true", source], check=True)
    subprocess.run(["runc", "spec", "--bundle", directory], check=True)
    config = json.loads((directory / "config.json").read_text())
    config["process"]["args"] = ["/bin/true"]
    config["process"]["terminal"] = False
    (directory / "config.json").write_text(json.dumps(config))


def main():
    runtimes = {"neargate-runtime": str(NEARGATE), "crun": shutil.which("crun"), "runc": shutil.which("runc")}
    missing = [name for name, path in runtimes.items() if not path or not os.path.exists(path)]
    if missing:
        raise SystemExit(f"missing: {', '.join(missing)} (apt-get install crun runc; make release)")
    with tempfile.TemporaryDirectory(prefix="neargate-bench.") as name:
        directory = pathlib.Path(name)
        make_bundle(directory)
        times = {runtime: [] for runtime in runtimes}
        for round_number in range(-3, ROUNDS):
            for runtime, path in runtimes.items():
                command = [path, "run", "--bundle", str(directory), f"bench-{os.getpid()}-{round_number + 3}"]
                started = time.perf_counter()
                ended = subprocess.run(command, capture_output=True)
                elapsed = (time.perf_counter() - started) * 1000
                if ended.returncode != 0:
                    raise SystemExit(f"{runtime} exited with {ended.returncode}: {ended.stderr.decode()}")
                if round_number >= 0:
                    times[runtime].append(elapsed)
    crun = min(times["crun"])
    print(f"{ROUNDS} rounds, in turn; load {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors")
    print(f"{'runtime':<18}{'min ms':>9}{'median ms':>11}{'min / crun':>12}")
    for runtime, values in times.items():
        print(f"{runtime:<18}{min(values):>9.2f}{statistics.median(values):>11.2f}{min(values) / crun:>12.2f}")


if __name__ == "__main__":
    if "--inside" not in sys.argv:
        os.execvp("unshare", ["unshare", "-m", "--propagation", "private", "sh", "-c", WITHOUT_UNIFIED, "_",
                              sys.executable, __file__, "--inside"])
    main()
