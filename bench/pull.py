"""Pull of an image with nine layers from a registry on this host, the image removed after each round."""

import contextlib

import images
import peers
from timing import interleave, run


def measure(report, directory, cache, rounds, mebibytes):
    """Must be called where there is no hybrid cgroup mount."""
    layout = images.large(cache, mebibytes)
    layers = images.layer_files(layout)
    with contextlib.ExitStack() as stack:
        address = stack.enter_context(peers.registry(directory / "registry", directory / "storage"))
        reference = images.push(layout, "large", address)
        host = stack.enter_context(peers.neargate(directory / "neargate", address))
        docker = stack.enter_context(peers.docker(directory / "docker"))
        podman, policy = stack.enter_context(peers.podman(directory / "podman"))
        remove = {"neargate pull": host.command("rmi", reference), "docker pull": [*docker, "image", "rm", "--force", reference],
                  "podman pull": [*podman, "rmi", "--force", reference]}
        pulls = {"neargate pull": host.command("pull", reference), "docker pull": [*docker, "pull", reference],
                 "podman pull": [*podman, "pull", "--tls-verify=false", "--signature-policy", policy, reference]}

        def by(name):
            def once(_number):
                run(pulls[name])

            return once

        contenders = {name: by(name) for name in pulls}
        contenders["gzip -dc of the layers"] = lambda _number: images.decompress_all(layers)

        section = report.section(f"Pull of {mebibytes} MiB in {len(layers)} layers", "ms")
        series = {}
        # Removal is not timed and has to be done between rounds: one round at a time.
        for number in range(rounds):
            one = interleave(contenders, 1, warm_up=0)
            for name, command in remove.items():
                run(command)
            for name, taken in one.items():
                known = series.setdefault(name, taken)
                if known is not taken:
                    known.milliseconds += taken.milliseconds
                    known.cpu_milliseconds += taken.cpu_milliseconds
        section.table(series)
