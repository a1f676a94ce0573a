"""What the runs left: read, as a table, as a figure."""
import json
from pathlib import Path

import numpy as np

from vqlib.studies import rows

FOLDER = Path(__file__).resolve().parents[2] / "data" / "studies"
ROWS = {"vqvae": rows.VQVAE, "prior": rows.PRIOR, "transform": rows.TRANSFORM, "limits": rows.LIMITS,
        "codec": rows.CODEC}
FIGURES = {"vqvae": {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "codes_used": ("codes used", 0),
                     "perplexity": ("perplexity", 0)},
           "prior": {"nats": ("nats/code", 3), "bits": ("bits/code", 3), "train_nats": ("in training", 3),
                     "structure": ("structure, x real", 1)},
           "transform": {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "axes": ("axes coded", 0), "uncoded": ("uncoded, dB", 2)},
           "limits": {"psnr": ("PSNR, dB", 2), "ssim": ("SSIM", 3), "perplexity": ("perplexity", 0)},
           "codec": {"teaches": ("AUC taught, of real", 3), "low": ("from", 3), "high": ("to", 3), "keeps": ("AUC kept", 3),
                     "recognised": ("recognised, of real", 2), "bytes": ("bytes", 0), "psnr": ("PSNR, dB", 1)}}


def read(table: str, folder: Path = FOLDER) -> dict[str, dict[int, dict]]:
    """{key of the row: {seed: figures}}, rows in the table's order; rows without a result are left out."""
    found = {row.key: {} for row in ROWS[table]}
    for path in sorted(Path(folder).glob(f"{table}-*.json")):
        result = json.loads(path.read_text())
        found.get(result["key"], {})[result["seed"]] = result["figures"]
    return {key: seeds for key, seeds in found.items() if seeds}


def gain(results: dict, key: str, against: str | None, figure: str) -> list[float]:
    """Difference to the row compared with, seed by seed: what both share falls out."""
    a, b = results.get(key, {}), results.get(against, {})
    return [a[seed][figure] - b[seed][figure] for seed in sorted(a.keys() & b.keys())]


def cell(values: list[float], digits: int, sign="") -> str:
    """mean +- standard deviation over seeds."""
    if not values:
        return ""
    spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 else ""
    return f"{np.mean(values):{sign}.{digits}f}{spread}"


def table(name: str, folder: Path = FOLDER) -> str:
    """Markdown; mean and standard deviation over seeds, and the first figure's difference to the row compared with."""
    results, figures = read(name, folder), FIGURES[name]
    first, (title, digits) = next(iter(figures.items()))
    lines = [["", "seeds", *(title for title, _ in figures.values()), f"{title}: change", "against"]]
    lines.append(["---"] * len(lines[0]))
    for row in ROWS[name]:
        if seeds := results.get(row.key):
            cells = [cell([f[key] for f in seeds.values() if key in f], digits) for key, (_, digits) in figures.items()]
            change = cell(gain(results, row.key, row.against, first), digits, "+")
            lines.append([row.label, str(len(seeds)), *cells, change, row.against or ""])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def draw(ax, name: str, folder: Path = FOLDER):
    """A dot per seed and a bar at their mean; the path to ours in blue, swaps in grey, ours as a line."""
    results = read(name, folder)
    (figure, (title, _)), shown = next(iter(FIGURES[name].items())), [row for row in ROWS[name] if row.key in results]
    on_path = [row.key for row in ROWS[name]]
    on_path = on_path[: on_path.index("ours") + 1]
    for y, row in enumerate(shown):
        values, colour = [f[figure] for f in results[row.key].values()], "tab:blue" if row.key in on_path else "0.4"
        ax.plot(values, [y] * len(values), "o", ms=4, alpha=0.6, color=colour)
        ax.plot(np.mean(values), y, "|", ms=16, mew=2, color=colour)
        if row.key == "ours":
            ax.axvline(np.mean(values), color="0.8", lw=0.8, zorder=0)
    ax.set_yticks(range(len(shown)), [row.label for row in shown])
    ax.invert_yaxis()
    ax.set_xlabel(f"{title}, held out")
    return ax


def draw_teachers(ax, folder: Path = FOLDER):
    """What images teach after a codec, against their bytes: a line per image format, a dot per way to look at codes."""
    results, labels = read("codec", folder), {row.key: row.label for row in rows.CODEC}
    codecs = {row.codec: [] for row in rows.CODEC}
    for row in rows.CODEC:
        for f in results.get(row.key, {}).values():
            codecs[row.codec].append((f["bytes"], f["teaches"], f["teaches"] - f["low"], f["high"] - f["teaches"], row.key))
    for codec, points in codecs.items():
        ours = {"f8": "codes, f = 8", "f4": "codes, f = 4"}.get(codec)
        if points:
            x, y, *ends, keys = zip(*sorted(points))
            ax.errorbar(x, y, ends, marker="o", ms=4, lw=0 if ours else 1, elinewidth=0.8, label=ours or codec.upper())
            for place in zip(x, y, keys) if ours else ():
                ax.annotate(labels[place[2]], place[:2], xytext=(5, 4), textcoords="offset points", fontsize=8)
    ax.set(xscale="log", xlabel="bytes of an image, without headers", ylabel="AUC taught, of photographs' own")
    ax.legend(loc="lower right")
    return ax
