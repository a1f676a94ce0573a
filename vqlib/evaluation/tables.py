"""python -m vqlib.evaluation.tables FILE: results of an evaluation as Markdown tables.

FILE is what `vqlib evaluate --generation --sweep --json FILE` wrote.
"""
import sys
from pathlib import Path

from vqlib.backend.files import read_json
from vqlib.backend.paths import pretrained

Row = tuple[str, str, str]              # measure, value, what it is compared with


def number(value: float | None, form: str) -> str:
    """A value that could not be measured is a dash."""
    return "-" if value is None else format(value, form)


def interval(value: float, ends: list[float], form: str = ".0f") -> str:
    low, high = ends
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def kid(distances: dict) -> str:
    return interval(distances["kid_x1000"], distances["kid_x1000_95"])


def frechet(distances: dict) -> str:
    return "FD-Lite0 " + interval(distances["fd"], distances["fd_95"])


def distance_rows(result: dict) -> list[Row]:
    rows = []
    for name, found in measured(result["reconstructions"]).items():
        size = f"{found['bytes']:.0f} bytes"
        if "payload" in found:
            size = f"{found['payload']:.0f} bytes without headers"
        rows.append((
            f"KID-Lite0 x 1000, reconstructions, {name}",
            kid(found),
            f"{frechet(found)}; {found['psnr']:.1f} dB, {size}",
        ))
    train = result["references"]["train"]
    real = "-" if "skipped" in train else f"{kid(train)}, {frechet(train)}"
    for name, found in measured(result["samples"].get("distances", {})).items():
        rows.append((
            f"KID-Lite0 x 1000, samples, {name}",
            kid(found),
            f"{frechet(found)}; real training images {real}",
        ))
    return rows


def measured(results: dict) -> dict:
    """The results that were not skipped."""
    return {name: found for name, found in results.items() if "skipped" not in found}


def layout_rows(result: dict) -> list[Row]:
    layout = result["samples"].get("layout", {})
    rows = []
    for name, ratio in layout.get("ratio", {}).items():
        distance = interval(layout["distance"][name], layout["distance_spread"][name], ".4f")
        reference = interval(layout["reference"][name], layout["reference_spread"][name], ".4f")
        beside = f"{distance} against {reference} of as many training images"
        rows.append((f"layout, {name}", f"{ratio:.1f} x", beside))
    return rows


def whole_rows(result: dict) -> list[Row]:
    share = result["samples"].get("whole")
    if share is None:
        return []
    sets = ", ".join(f"{value:.1%}" for value in share["samples"])
    return [("a whole lesion on skin", sets, f"held-out images {share['held_out']:.1%}")]


def by_class(names: list[str], recall: list) -> str:
    return ", ".join(f"{name} {number(value, '.2f')}" for name, value in zip(names, recall))


def probe_rows(result: dict) -> list[Row]:
    probe = result["probe"]
    if "skipped" in probe:
        return []
    held_out, classes = probe["held_out"], probe["classes"]
    rows = [(
        "probe trained on real images, AUC on held-out images",
        number(held_out["auc"], ".3f"),
        f"recall {held_out['balanced_accuracy']:.2f}; {by_class(classes, held_out['recall'])}",
    )]
    guidance = f", guidance {probe['guidance']}" if probe["guidance"] else ""
    for name, scores in probe.get("decoders", {}).items():
        recall, cas = scores["class_conditional_recall"], scores["cas"]
        rows.append((
            f"class-conditional recall / recall on real, {name}{guidance}",
            number(recall["ratio"], ".2f"),
            f"reconstructions {number(recall['ratio_reconstructions'], '.2f')}; "
            + by_class(classes, recall["recall"]),
        ))
        real, generated, both = (
            number(cas["auc"][key], ".3f") for key in ("real", "generated", "both")
        )
        rows.append((
            f"classification accuracy score, AUC ratio, {name}{guidance}",
            number(cas["ratio_generated"], ".3f"),
            f"reconstructions {number(cas['ratio_reconstructions'], '.3f')}; "
            f"AUC of real ones {real}, generated {generated}, both {both}",
        ))
        rows.append((
            "the same, features standardised for photographs and samples apart",
            number(cas["ratio_generated_standardised"], ".3f"),
            f"reconstructions {number(cas['ratio_reconstructions_standardised'], '.3f')}",
        ))
    return rows


def memorisation_rows(result: dict) -> list[Row]:
    found = result["samples"].get("memorisation", {})
    rows = []
    for name in ("pixels", "features"):
        if name in found:
            ratio, ends = found[name]["ratio"], found[name]["ratio_95"]
            rows.append((
                f"memorisation, {name}",
                "-" if ratio is None else interval(ratio, ends, ".1f"),
                f"times the share of new photographs, 1 %; {number(found[name]['share'], '.1%')}",
            ))
    return rows


def size_of(codec: str, at_psnr: dict) -> str:
    end = " (end of its curve)" if at_psnr["outside"] else ""
    return f"{codec} {at_psnr['bytes']:.0f}{end}"


def rate_rows(result: dict) -> list[Row]:
    rates, rows = result["rates"], []
    for name, point in rates.get("codes", {}).items():
        if "coded" not in point:
            continue
        ours, at_psnr, prior = point["coded"]["bytes"], point["codecs_at_psnr"], point["prior"]
        best = min(
            (codec for codec in at_psnr if codec != "avif"),
            key=lambda codec: at_psnr[codec]["bytes"],
        )
        formats = ", ".join(size_of(codec, found) for codec, found in at_psnr.items())
        rows.append((
            f"bytes at {point['psnr']:.1f} dB, {name} / {best}",
            f"{ours / at_psnr[best]['bytes']:.2f}",
            f"ours {ours:.0f}, {formats}; {rates['images']} images",
        ))
        rows.append((
            f"NLL, bits per code, {name}",
            f"{prior['bits_per_code']:.2f}",
            f"{prior['bits_per_image']:.0f} bits/image",
        ))
    return rows


def rows(result: dict) -> list[Row]:
    """Rows of what `evaluate_generation` returned, without what was skipped there."""
    parts = (distance_rows, layout_rows, whole_rows, probe_rows, memorisation_rows, rate_rows)
    return [row for part in parts for row in part(result)]


def markdown(result: dict) -> str:
    """What `evaluate_generation` returned, as a table under a line that says how it was made."""
    settings = ", ".join(f"{name} {value}" for name, value in result["sampling"].items())
    head = (
        f"{result['data']}, {result['split']}, {result['images']} images, "
        f"seed {result['seed']}; {settings}"
    )
    table = [("measure", "value", "beside it"), ("---", "---", "---"), *rows(result)]
    return "\n".join([head, "", *(f"| {' | '.join(row)} |" for row in table)])


def mean_and_largest(ratio: dict) -> tuple[str, str]:
    """Of layout ratios, the largest with its name; dashes without training images."""
    if not ratio:
        return "-", "-"
    largest = max(ratio, key=ratio.get)
    return f"{sum(ratio.values()) / len(ratio):.1f}", f"{ratio[largest]:.1f}, {largest}"


def sweep(result: dict) -> str:
    """What `sweep_sampling` returned, a row for each setting, the least KID in bold.

    Layout distances are in multiples of the reference: their mean, and the largest with its name.
    """
    best = min(result["rows"], key=lambda row: row["kid_x1000"])
    lines = [
        f"{result['split']}, {result['images']} images, seed {result['seed']}",
        "",
        "| setting | KID-Lite0 x 1000 | layout, x reference: mean | largest |",
        "|---|---|---|---|",
    ]
    for row in result["rows"]:
        setting = ", ".join(f"{name} {value}" for name, value in row["setting"].items())
        setting = setting or "as trained"
        if row is best:
            setting = f"**{setting}**"
        cells = [setting, kid(row), *mean_and_largest(row["layout"].get("ratio", {}))]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def published(folder: Path, preset: str, split: str) -> dict | None:
    """Results of the weights that ship, if a folder's prior is one of them by its log."""
    shipped, log = pretrained(), folder / "prior" / "log.jsonl"
    path = shipped / f"{preset}-{split}.json"
    if not path.exists() or (folder != shipped and not log.exists()):
        return None
    logs = [shipped_log.read_bytes() for shipped_log in shipped.glob("prior-*.jsonl")]
    return read_json(path) if folder == shipped or log.read_bytes() in logs else None


TABLES = {"generation": markdown, "sweep": sweep}


def tables_of(path: Path) -> str:
    """The tables of a file that `evaluate` wrote. Raises FileError or ValueError that names it."""
    result = read_json(path)
    try:
        shown = [show(result[key]) for key, show in TABLES.items() if key in result]
    except (LookupError, TypeError, ValueError, AttributeError) as e:
        raise ValueError(f"{path.name} is no result of this version of evaluate ({e!r})") from e
    if not shown:
        raise ValueError(f"{path.name} has no tables: write it with python -m vqlib evaluate "
                         "--generation --json FILE")
    return "\n\n".join(shown)


def main(arguments: list[str]) -> int:
    """Print the tables of the file that is named; 1 after one line of error."""
    try:
        if len(arguments) != 1:
            raise ValueError("name one file: python -m vqlib.evaluation.tables FILE")
        print(tables_of(Path(arguments[0])))
    except (OSError, ValueError) as e:
        print(f"vqlib: {e}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
