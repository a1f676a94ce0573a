"""Results of benchmarks: kept per machine, shown side by side.

results.json holds {machine: {benchmark: [row, ...]}}; each row keeps what it was measured on.
"""
import datetime
import json
import os
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from vqlib.backend.cpu import convolutions_pay
from vqlib.backend.files import write_atomically

from .timing import Row

NAMES = ("sampling", "quantizing", "priors", "images", "imports")
RESULTS, README = (Path(__file__).with_name(name) for name in ("results.json", "README.md"))
BEGIN, END = "<!-- tables: python -m tests.bench --table -->", "<!-- end of tables -->"
Results = dict[str, dict[str, list[Row]]]


def processor() -> tuple[str, str]:
    """Its name, and family/model where Linux tells: a virtual machine's name may be `AMD EPYC`."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().split("\n\n")[0].splitlines() if info.exists() else []
    found = {name.strip(): value.strip() for name, _, value in (s.partition(":") for s in lines)}
    numbers = [found[name] for name in ("cpu family", "model") if name in found]
    return found.get("model name", platform.machine()), "/".join(numbers)


def machine(device="cpu") -> dict:
    """What is measured on now."""
    cpu, model = processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"cpu": cpu, "model": model,
            "gpu": torch.cuda.get_device_name(device) if device == "cuda" else "",
            "avx512": torch.backends.cpu.get_cpu_capability() == "AVX512",
            "products": "convolution" if convolutions_pay() else "linear",
            "cores": cores, "threads": torch.get_num_threads(), "torch": torch.__version__,
            "load": round(os.getloadavg()[0], 1), "day": datetime.date.today().isoformat()}


def key(machine: dict) -> str:
    """The name under which results of a machine are kept: `AMD EPYC 25/1, 2 cores, no AVX-512`."""
    name = machine.get("gpu") or f"{machine['cpu']} {machine.get('model', '')}".strip()
    return f"{name}, {machine['cores']} cores, {'' if machine['avx512'] else 'no '}AVX-512"


def load(path: Path) -> Results:
    kept = json.loads(path.read_text()) if path.exists() else {}
    return {on: {name: [Row(**row) for row in rows] for name, rows in benchmarks.items()}
            for on, benchmarks in kept.items()}


def save(path: Path, results: Results) -> None:
    kept = {on: {name: [asdict(row) for row in rows] for name, rows in benchmarks.items()}
            for on, benchmarks in results.items()}
    write_atomically(path, (json.dumps(kept, indent=1) + "\n").encode())


def joined(results: Results) -> dict[tuple[str, str], dict[str, Row]]:
    """(what, against) -> the row of each machine that has it."""
    rows = {}
    for name in NAMES:
        for on, benchmarks in results.items():
            for row in benchmarks.get(name, []):
                rows.setdefault((row.what, row.against), {})[on] = row
    return rows


def table(results: Results, cell, targets: bool) -> str:
    """A line for each comparison, and in a column for each machine `cell` of its row."""
    lines = [["what", "against", *["to reach"] * targets, *results]]
    lines.append(["---"] * len(lines[0]))
    for names, rows in joined(results).items():
        goals = " or ".join(dict.fromkeys(row.target for row in rows.values()))
        cells = [cell(rows[on]) if on in rows else "–" for on in results]
        lines.append([*names, *[goals] * targets, *cells])
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def ratio(row: Row) -> str:
    return f"**{row.spread}**" if row.met is False else row.spread


def circumstances(benchmarks: dict[str, list[Row]]) -> str:
    """How a machine was set up when its rows were measured."""
    text = "{threads} threads, products by {products}, torch {torch}, {day}"
    found = [row.machine for rows in benchmarks.values() for row in rows]
    loads = [m["load"] for m in found]
    lines = dict.fromkeys(text.format(**m) for m in found)
    return f"{'; '.join(lines)}; load {min(loads)} to {max(loads)}"


def tables(results: Results) -> str:
    """All that results tell, as Markdown."""
    measured = [f"- {on}: {circumstances(benchmarks)}" for on, benchmarks in results.items()]
    return "\n\n".join([
        "Minimum / median / maximum; bold where the median misses what was to be reached.",
        table(results, ratio, targets=True), "Behind them, medians of both sides:",
        table(results, lambda row: row.note, targets=False),
        "Measured on:", "\n".join(measured)])


def refresh(readme: Path, text: str) -> None:
    """Put tables between the two markers of a file."""
    before, rest = readme.read_text().split(BEGIN)
    after = rest.split(END)[1]
    write_atomically(readme, f"{before}{BEGIN}\n\n{text}\n\n{END}{after}".encode())
