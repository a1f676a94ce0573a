"""Results of the studies: read from JSON, as a table, as a figure."""
from pathlib import Path

import numpy as np

from vqlib.backend.files import FileError, read_json
from vqlib.studies.runner import STUDIES
from vqlib.studies.study import FOLDER


def read(name: str, folder: Path = FOLDER) -> dict[str, dict[int, dict]]:
    """{key of the row: {seed: metrics}} of a study, rows in the table's order.

    Rows without a result are left out.
    """
    found = {row.key: {} for row in STUDIES[name].rows}
    for path in sorted(Path(folder).glob(f"{name}-*.json")):
        result = read_json(path)
        if not {"key", "seed", "metrics"} <= result.keys():
            raise FileError(f"{path.name} is no result of a study: delete it, and run the study")
        if result["key"] in found:
            found[result["key"]][result["seed"]] = result["metrics"]
    return {key: seeds for key, seeds in found.items() if seeds}


def setup(name: str, folder: Path = FOLDER) -> str:
    """On what, and for how long, a study's rows were trained; "not run" without results."""
    path = next(iter(sorted(Path(folder).glob(f"{name}-*.json"))), None)
    if path is None:
        return "not run"
    found = read_json(path)["setup"]
    has = "updates" in found
    trained = f", {found['updates']:,} updates of {found['batch']} images" if has else ""
    return found["data"] + trained


def change(results: dict, key: str, against: str | None, metric: str) -> list[float]:
    """Difference to the row compared with, seed by seed: what both share cancels."""
    ours, theirs = results.get(key, {}), results.get(against, {})
    return [ours[seed][metric] - theirs[seed][metric]
            for seed in sorted(ours.keys() & theirs.keys())]


def cell(values: list[float], digits: int, sign="") -> str:
    """Mean ± standard deviation over seeds."""
    if not values:
        return ""
    text = f"{np.mean(values):{sign}.{digits}f}"
    if len(values) > 1:
        text += f" ± {np.std(values, ddof=1):.{digits}f}"
    return text


def table(name: str, folder: Path = FOLDER) -> str:
    """Markdown: each metric's mean and standard deviation over seeds.

    The last columns have the first metric's difference to the row compared with.
    """
    results, columns = read(name, folder), STUDIES[name].columns
    first = next(iter(columns))
    first_title, first_digits = columns[first]
    titles = [title for title, _ in columns.values()]
    lines = [["", "seeds", *titles, f"{first_title}: change", "against"]]
    lines.append(["---"] * len(lines[0]))
    for row in STUDIES[name].rows:
        if row.key not in results:
            continue
        of_seeds = results[row.key].values()
        cells = [cell([metrics[key] for metrics in of_seeds if key in metrics], digits)
                 for key, (_, digits) in columns.items()]
        changes = change(results, row.key, row.against, first)
        lines.append([row.label, str(len(of_seeds)), *cells, cell(changes, first_digits, "+"),
                      row.against or ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(ax, name: str, folder: Path = FOLDER):
    """The first metric of each row: a dot per seed and a bar at their mean.

    The path from the report to ours is blue, swaps are grey, and ours is a vertical line.
    """
    results, rows = read(name, folder), STUDIES[name].rows
    metric, (title, _) = next(iter(STUDIES[name].columns.items()))
    keys = [row.key for row in rows]
    path = keys[: keys.index("ours") + 1]
    shown = [row for row in rows if row.key in results]
    for y, row in enumerate(shown):
        values = [metrics[metric] for metrics in results[row.key].values()]
        colour = "tab:blue" if row.key in path else "0.4"
        ax.plot(values, [y] * len(values), "o", ms=4, alpha=0.6, color=colour)
        ax.plot(np.mean(values), y, "|", ms=16, mew=2, color=colour)
        if row.key == "ours":
            ax.axvline(np.mean(values), color="0.8", lw=0.8, zorder=0)
    ax.set_yticks(range(len(shown)), [row.label for row in shown])
    ax.invert_yaxis()
    ax.set_xlabel(f"{title}, held out")
    return ax


def draw_cas(ax, folder: Path = FOLDER):
    """CAS after each codec against bytes, with 95 % intervals.

    Points of an image format are joined by a line; points of codes name their decoder.
    """
    results, points = read("codec", folder), {}
    for row in STUDIES["codec"].rows:
        for metrics in results.get(row.key, {}).values():
            points.setdefault(row.codec, []).append((row, metrics))
    for codec, measured in points.items():
        measured.sort(key=lambda point: (point[1]["bytes"], point[1]["cas"]))
        bytes_, cas, low, high = (np.array([metrics[key] for _, metrics in measured])
                                  for key in ("bytes", "cas", "cas_low", "cas_high"))
        codes = {"f8": "codes, f = 8", "f4": "codes, f = 4"}.get(codec)
        ax.errorbar(bytes_, cas, [cas - low, high - cas], marker="o", ms=4, elinewidth=0.8,
                    lw=0 if codes else 1, label=codes or codec.upper())
        if codes:
            for (row, _), x, y in zip(measured, bytes_, cas):
                ax.annotate(row.label, (x, y), xytext=(5, 4), textcoords="offset points",
                            fontsize=8)
    ax.set(xscale="log", xlabel="bytes per image, without headers",
           ylabel="CAS: AUC over that of photographs")
    ax.legend(loc="lower right")
    return ax
