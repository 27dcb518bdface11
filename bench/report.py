"""Says, keeps and draws what was measured: lines that end `ok` or `MISSED`, one JSON file, one PNG. Measures nothing."""

import json
import os
import pathlib
import platform
import time

OUT = pathlib.Path(__file__).resolve().parents[1] / "target/bench"


class Report:
    """All sections of one run."""

    def __init__(self):
        self.sections = []
        self.missed = 0

    def section(self, title, unit):
        section = Section(self, title, unit)
        self.sections.append(section)
        print(f"\n{title} (load {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors)", flush=True)
        return section

    def write(self):
        """results.json and results.png below target/bench."""
        OUT.mkdir(parents=True, exist_ok=True)
        results = {
            "taken_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "kernel": platform.release(),
            "processors": os.cpu_count(),
            "sections": [section.as_json() for section in self.sections],
        }
        (OUT / "results.json").write_text(json.dumps(results, indent=2) + "\n")
        draw(self.sections, OUT / "results.png")
        print(f"\n{OUT / 'results.json'}\n{OUT / 'results.png'}")


class Section:
    """Figures that belong in one table and one picture."""

    def __init__(self, report, title, unit):
        self.report, self.title, self.unit = report, title, unit
        self.load = os.getloadavg()[0]
        self.rows, self.targets = [], []

    def table(self, series):
        """`series`: name -> timing.Series."""
        width = max(len(name) for name in series) + 2
        print(f"  {'':<{width}}{'min ' + self.unit:>10}{'median':>10}{'cpu':>10}{'rounds':>8}")
        for name, taken in series.items():
            print(f"  {name:<{width}}{taken.minimum:>10.2f}{taken.median:>10.2f}{taken.cpu:>10.2f}{len(taken.milliseconds):>8}")
            self.rows.append({"name": name, "min": taken.minimum, "median": taken.median, "cpu": taken.cpu,
                              "all": taken.milliseconds})

    def amounts(self, name, values):
        """Amounts that were not timed, such as memory of each of some processes."""
        ordered = sorted(values)
        median = ordered[len(ordered) // 2]
        print(f"  {name:<34}{ordered[0]:>10.0f}{median:>10.0f} {self.unit} (min, median of {len(values)})")
        self.rows.append({"name": name, "min": ordered[0], "median": median, "all": values})
        return median

    def target(self, text, value, bound, at_least=False):
        """One promise: told, and counted where it is not kept."""
        kept = value >= bound if at_least else value <= bound
        self.report.missed += not kept
        print(f"  {text}: {value:.2f} ({'at least' if at_least else 'at most'} {bound:g})  {'ok' if kept else 'MISSED'}", flush=True)
        self.targets.append({"text": text, "value": value, "bound": bound, "kept": kept})

    def as_json(self):
        return {"title": self.title, "unit": self.unit, "load": self.load, "rows": self.rows, "targets": self.targets}


def draw(sections, path):
    """A bar per contender: the minimum, with the median as a line on it."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(sections), 1, figsize=(9, 1.2 + 2.4 * len(sections)), squeeze=False)
    for section, axis in zip(sections, axes[:, 0]):
        names = [row["name"] for row in section.rows][::-1]
        minima = [row["min"] for row in section.rows][::-1]
        medians = [row["median"] for row in section.rows][::-1]
        ours = ["#1b7f5c" if "neargate" in name else "#9aa5b1" for name in names]
        axis.barh(names, minima, color=ours, height=0.6)
        axis.scatter(medians, names, marker="|", s=160, color="#20262e", zorder=3)
        for name, minimum, median in zip(names, minima, medians):
            axis.annotate(f"{minimum:.1f}", (max(minimum, median), name), xytext=(6, 0), textcoords="offset points", va="center")
        axis.set_title(f"{section.title}: minimum (bar) and median (line)", loc="left", fontsize=10)
        axis.set_xlabel(section.unit)
        axis.set_xlim(0, max(minima + medians) * 1.12)
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
