"""Runs commands and keeps what they took: wall time, processor time of the whole machine, exit code checked. No targets."""

import os
import statistics
import subprocess
import time


class CommandFailed(SystemExit):
    """A figure of a failing command is worse than none: the whole run ends."""


def run(command, **options):
    """Runs a command to its end; ends the benchmark with its words where it fails."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    if ended.returncode != 0:
        words = (ended.stderr or ended.stdout).strip()[-2000:]
        raise CommandFailed(f"{' '.join(map(str, command))}\nexited with {ended.returncode}: {words}")
    return ended.stdout


def busy_seconds():
    """Processor time that the machine has spent so far on anything but waiting: daemons work for their clients."""
    with open("/proc/stat") as stat:
        user, nice, system, _idle, _iowait, irq, softirq, *_ = map(int, stat.readline().split()[1:])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")


class Series:
    """Durations of one contender, in milliseconds, in the order they were taken."""

    def __init__(self, name):
        self.name = name
        self.milliseconds = []
        self.cpu_milliseconds = []

    def take(self, work):
        """Does `work` once. What it returns is its duration in milliseconds; None stands for the time of the call."""
        busy, started = busy_seconds(), time.perf_counter()
        told = work()
        elapsed = (time.perf_counter() - started) * 1000
        self.milliseconds.append(elapsed if told is None else told)
        self.cpu_milliseconds.append((busy_seconds() - busy) * 1000)

    @property
    def minimum(self):
        return min(self.milliseconds)

    @property
    def median(self):
        return statistics.median(self.milliseconds)

    @property
    def cpu(self):
        """Mean: the kernel counts in hundredths of a second."""
        return statistics.fmean(self.cpu_milliseconds)


def interleave(contenders, rounds, warm_up=2):
    """`contenders`: name -> function of the round's number. Each round asks every contender once, in turn; the first rounds
    do not count. Answers name -> Series."""
    series = {name: Series(name) for name in contenders}
    for number in range(warm_up + rounds):
        for name, work in contenders.items():
            taken = series[name] if number >= warm_up else Series(name)
            taken.take(lambda: work(number))
    return series
