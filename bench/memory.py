"""Proportional set sizes: the agent after fifty tasks and a pull, the monitor with one and fifty containers, conmon beside it."""

import contextlib
import json
import subprocess
import time

import images
import peers
from timing import run

TASKS = 50
# Long enough for a daemon to have given back what it will give back.
SETTLE_SECONDS = 10


def definition(reference):
    container = {"name": "idle", "image": reference, "command": ["-"], "memory": 16, "stopTimeout": 2}
    return {"family": "idle", "networkMode": "none", "containerDefinitions": [container]}


def measure(report, directory, idle_seconds):
    """Must be called where there is no hybrid cgroup mount."""
    layout, _ = images.clock(directory)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(peers.registry(directory / "registry", directory / "storage"))
        reference = images.push(layout, "clock", address)
        host = stack.enter_context(peers.neargate(directory / "neargate", address))
        podman, policy = stack.enter_context(peers.podman(directory / "podman"))
        run(host.command("pull", reference))
        run([*podman, "pull", "--tls-verify=false", "--signature-policy", policy, reference])
        file = directory / "idle.json"
        file.write_text(json.dumps(definition(reference)))
        section = report.section(f"Memory (PSS) with 1 and {TASKS} containers", "KiB")
        started = []
        try:
            for count in (1, TASKS):
                while len(started) < count:
                    run(host.command("run", file))
                    started.append(run([*podman, "run", "--detach", "--network", "none", *peers.PODMAN_LIMITS, "--memory", "16m", reference, "-"]).strip())
                peers.await_that(lambda: len(host.monitors()) == count, f"{count} monitors")
                time.sleep(SETTLE_SECONDS)
                inspected = json.loads(run([*podman, "container", "inspect", *started]))
                conmons = [int(open(container["ConmonPidFile"]).read()) for container in inspected]
                median = section.amounts(f"neargate monitor, {count}", [peers.pss_kib(pid) for pid in host.monitors()])
                section.amounts(f"conmon, {count}", [peers.pss_kib(pid) for pid in conmons])
                section.target(f"median of the monitors, {count} containers", median, 400)
            run(host.command("pull", reference))
            time.sleep(idle_seconds)
            agent = peers.pss_kib(host.pid)
            section.amounts("neargated", [agent])
            section.target("agent, MiB", agent / 1024, 20)
        finally:
            if started:
                subprocess.run([*podman, "rm", "--force", "--time", "0", *started], capture_output=True)
