"""From the client's exec to the user's first instruction, both on CLOCK_BOOTTIME: the same image, memory and cpu limits, log
driver json-file (podman: k8s-file), default isolation without a network, durable store."""

import contextlib
import json
import os
import shutil

import images
import peers
from timing import interleave, run

MEMORY_MIB, CPUS = 64, 1


def definition(reference):
    container = {"name": "clock", "image": reference, "essential": True, "logConfiguration": {"logDriver": "json-file"}}
    return {"family": "clock", "networkMode": "none", "cpu": str(CPUS * 1024), "memory": str(MEMORY_MIB), "containerDefinitions": [container]}


def crun_bundle(directory, program):
    """What a shell script would write: crun has neither images nor a store."""
    (directory / "rootfs").mkdir(parents=True)
    shutil.copy(program, directory / "rootfs/clock")
    run(["crun", "spec"], cwd=directory)
    config = json.loads((directory / "config.json").read_text())
    config["process"].update(args=["/clock"], terminal=False)
    config["linux"]["resources"] = {"memory": {"limit": MEMORY_MIB << 20}, "cpu": {"quota": 100_000 * CPUS, "period": 100_000}}
    (directory / "config.json").write_text(json.dumps(config))


def measure(report, directory, rounds):
    """Must be called where there is no hybrid cgroup mount."""
    layout, clock = images.clock(directory)
    started = directory / "started"

    def timed(command):
        """Milliseconds between the two ends."""
        told = run([clock, started, *command])
        return (int(told.split()[-1]) - int(started.read_text())) / 1e6

    with contextlib.ExitStack() as stack:
        address = stack.enter_context(peers.registry(directory / "registry", directory / "storage"))
        reference = images.push(layout, "clock", address)
        host = stack.enter_context(peers.neargate(directory / "neargate", address))
        docker = stack.enter_context(peers.docker(directory / "docker"))
        ctr = stack.enter_context(peers.containerd(directory / "containerd"))
        podman, policy = stack.enter_context(peers.podman(directory / "podman"))
        file = directory / "clock.json"
        file.write_text(json.dumps(definition(reference)))
        run(host.command("pull", reference))
        run([*docker, "pull", reference])
        run([*ctr, "image", "pull", "--plain-http", reference])
        run([*podman, "pull", "--tls-verify=false", "--signature-policy", policy, reference])
        bundle = directory / "bundle"
        crun_bundle(bundle, clock)
        limits = ["--memory", f"{MEMORY_MIB}m", "--cpus", CPUS, "--network", "none"]
        contenders = {
            "neargate run": lambda n: timed(host.command("run", file, "--follow")),
            "docker run": lambda n: timed([*docker, "run", "--rm", "--log-driver", "json-file", *limits, reference]),
            "podman run": lambda n: timed([*podman, "run", "--rm", "--log-driver", "k8s-file", *peers.PODMAN_LIMITS, *limits, reference]),
            "ctr run": lambda n: timed([*ctr, "run", "--rm", "--memory-limit", MEMORY_MIB << 20, "--cpu-period", 100_000, "--cpu-quota",
                                        100_000 * CPUS, reference, f"clock-{n}"]),
            "bare crun": lambda n: timed(["crun", "run", "--bundle", bundle, f"bench-{os.getpid()}-{n}"]),
        }
        section = report.section("Client executed to the user's first instruction", "ms")
        series = interleave(contenders, rounds)
        section.table(series)
        ours = series["neargate run"].minimum
        section.target("docker run / neargate run, minima", series["docker run"].minimum / ours, 15, at_least=True)
