"""Everything that is measured or that images come from, each below a directory of its own and ended with it: a registry, the
agent, dockerd, containerd, podman. Nothing of an installed one is touched. Times nothing."""

import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

from timing import CommandFailed, run

RELEASE = pathlib.Path(__file__).resolve().parents[1] / "target/release"
PATIENCE_SECONDS = 60
# podman's own defaults are more than a confined host may raise.
PODMAN_LIMITS = ["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"]
# crun refuses a hybrid cgroup mount; whoever uses it runs in a private mount namespace that lacks the cgroup2 one.
WITHOUT_UNIFIED = ["unshare", "-m", "--propagation", "private", "sh", "-c", 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"', "_"]


def await_that(true, what):
    """Polls until `true()`."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not true():
        if time.monotonic() > deadline:
            raise CommandFailed(f"{what} did not come within {PATIENCE_SECONDS} s")
        time.sleep(0.05)


@contextlib.contextmanager
def daemon(command, directory, ready, what):
    """A daemon that lives as long as the block; its words are in `directory`/log."""
    directory.mkdir(parents=True, exist_ok=True)
    with open(directory / "log", "w") as log:
        process = subprocess.Popen([str(part) for part in command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def is_ready():
        if process.poll() is not None:
            raise CommandFailed(f"{what} ended: {(directory / 'log').read_text()[-2000:]}")
        return ready()

    try:
        await_that(is_ready, what)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def registry(directory, storage):
    """Debian's docker-registry over `storage`; yields its address."""
    directory.mkdir(parents=True)
    config = directory / "config.yml"
    config.write_text(f"version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {storage}}}, delete: {{enabled: true}}}}\n"
                      "http: {addr: '127.0.0.1:0'}\n")
    found = lambda: re.search(r"listening on (127\.0\.0\.1:\d+)", (directory / "log").read_text())
    with daemon(["docker-registry", "serve", config], directory, found, "the registry"):
        yield found().group(1)


class Neargate:
    """An agent of its own, release build."""

    def __init__(self, directory):
        self.root, self.socket = directory / "root", directory / "root/run/neargated.sock"

    def command(self, *arguments):
        return [RELEASE / "neargate", "--socket", self.socket, *arguments]

    def tasks(self):
        """ARNs of those that have not stopped."""
        return [task["taskArn"] for task in json.loads(run(self.command("ps", "--json")))["tasks"]]

    def stop_all(self):
        for task in self.tasks():
            run(self.command("stop", task))
        await_that(lambda: not self.tasks(), "the end of all tasks")

    def monitors(self):
        """Pids of the monitors that live."""
        records = (self.root / "run").glob("*/*/monitor.json")
        return [json.loads(record.read_text())["monitor"]["pid"] for record in records]


@contextlib.contextmanager
def neargate(directory, address):
    host = Neargate(directory)
    host.root.mkdir(parents=True)
    config = directory / "neargated.toml"
    # As the peers: what is here is not asked for again.
    config.write_text(f'[images]\npull_behavior = "once"\n[registries."{address}"]\nplain_http = true\n')
    command = [RELEASE / "neargated", "--root", host.root, "--config", config]
    ready = lambda: host.socket.exists() and subprocess.run(host.command("host"), capture_output=True).returncode == 0
    with daemon(command, directory, ready, "neargated") as process:
        host.pid = process.pid
        try:
            yield host
        finally:
            host.stop_all()


@contextlib.contextmanager
def docker(directory):
    """dockerd with a containerd of its own; yields the client's command."""
    socket = directory / "docker.sock"
    directory.mkdir(parents=True)
    (directory / "daemon.json").write_text("{}\n")
    command = ["dockerd", "--config-file", directory / "daemon.json", "--host", f"unix://{socket}", "--data-root", directory / "data",
               "--exec-root", directory / "exec", "--pidfile", directory / "pid", "--bridge", "none", "--iptables=false",
               "--ip6tables=false", "--storage-driver", "overlay2"]
    client = ["docker", "--host", f"unix://{socket}"]
    ready = lambda: subprocess.run([*client, "version"], capture_output=True).returncode == 0
    with daemon(command, directory, ready, "dockerd"):
        yield client


@contextlib.contextmanager
def containerd(directory):
    """containerd; yields ctr's command."""
    socket = directory / "containerd.sock"
    directory.mkdir(parents=True)
    config = directory / "config.toml"
    config.write_text(f'version = 2\nroot = "{directory}/root"\nstate = "{directory}/state"\n'
                      f'disabled_plugins = ["io.containerd.grpc.v1.cri"]\n[grpc]\naddress = "{socket}"\n')
    client = ["ctr", "--address", str(socket)]
    ready = lambda: subprocess.run([*client, "version"], capture_output=True).returncode == 0
    with daemon(["containerd", "--config", config], directory, ready, "containerd"):
        yield client


@contextlib.contextmanager
def podman(directory):
    """Yields podman's command, with a store of its own, and the signature policy that its pulls need."""
    directory.mkdir(parents=True)
    policy = directory / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}\n')
    os.environ["CONTAINERS_STORAGE_CONF"] = str(directory / "storage.conf")
    (directory / "storage.conf").write_text(f'[storage]\ndriver = "overlay"\nrunroot = "{directory}/run"\ngraphroot = "{directory}/data"\n')
    try:
        yield ["podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--runtime", shutil.which("crun"),
               "--tmpdir", str(directory / "tmp")], policy
    finally:
        # What conmon runs when a container has ended comes late, and mounts the store on itself as every command does.
        await_that(lambda: not naming(directory), "podman's own commands end")
        while subprocess.run(["umount", "--lazy", directory / "data/overlay"], capture_output=True).returncode == 0:
            pass


def naming(path):
    """Pids of processes that have the path on their command line."""
    found = []
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if os.fsencode(path) in (entry / "cmdline").read_bytes():
                    found.append(int(entry.name))
    return found


def pss_kib(pid):
    """Proportional set size of a process, KiB (proc(5), smaps_rollup)."""
    with open(f"/proc/{pid}/smaps_rollup") as rollup:
        return next(int(line.split()[1]) for line in rollup if line.startswith("Pss:"))
