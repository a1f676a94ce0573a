"""python -m vqlib.evaluation.tables FILE: what `vqlib evaluate --judge --sweep --json FILE` found, as tables for people (Markdown)."""
import json
import sys
from pathlib import Path

from vqlib.backend.paths import home


def kid(d: dict) -> str:
    low, high = d["kid_x1000_95"]
    return f"{d['kid_x1000']:.0f} ({low:.0f} to {high:.0f})"


def distances(r: dict) -> list[tuple[str, str, str]]:
    floor = kid(r["floors"]["train"]) if "kid_x1000" in r["floors"]["train"] else "-"
    rows = []
    for name, d in r["reconstructions"].items():
        size = f"{d['bytes']:.0f} bytes" if "payload" not in d else f"{d['payload']:.0f} bytes without headers"
        rows.append((f"KID-Lite0 x 1000, reconstructions, {name}", kid(d), f"{d['psnr']:.1f} dB, {size}"))
    return rows + [(f"KID-Lite0 x 1000, samples, {name}", kid(d), f"real training images {floor}")
                   for name, d in r["samples"].get("distances", {}).items()]


def shapes(r: dict) -> list[tuple[str, str, str]]:
    s = r["samples"].get("structure", {})
    if "floor" not in s:
        return []
    text = "{:.4f} ({:.4f} to {:.4f}) against {:.4f} ({:.4f} to {:.4f}) of as many real ones"
    return [(f"structure, {k}", f"{s['ratio'][k]:.1f} x", text.format(
        s["distance"][k], *s["distance_spread"][k], s["floor"][k], *s["spread"][k])) for k in s["ratio"]]


def whole(r: dict) -> list[tuple[str, str, str]]:
    share = r["samples"].get("whole")
    return [("a whole lesion on skin", ", ".join(f"{v:.1%}" for v in share["samples"]),
             f"held-out images {share['held_out']:.1%}")] if share else []


def lessons(r: dict) -> list[tuple[str, str, str]]:
    probe, rows = r["probe"], []
    guided = f", guidance {probe['guidance']}" if probe.get("guidance") else ""
    for name, said in probe.get("looks", {}).items():
        control, cas = said["class_control"], said["cas"]
        rows.append((f"requested class recognised / recall on real, {name}{guided}", f"{control['ratio']:.2f}",
                     f"reconstructions {said['reconstructions']:.2f}; "
                     + ", ".join(f"{k} {v:.2f}" for k, v in zip(probe["classes"], control["recall"]))))
        rows.append((f"classification accuracy score, AUC ratio, {name}{guided}", f"{cas['ratio_generated']:.3f}",
                     f"reconstructions {cas['ratio_reconstructions']:.3f}; AUC of real ones {cas['auc']['real']:.3f}, "
                     f"generated {cas['auc']['generated']:.3f}, both {cas['auc']['both']:.3f}"))
    copies = r["samples"].get("memorised", {})
    return rows + [(f"memorised, {k}", f"{copies[k]['share']:.1%}", f"held-out images {copies[k]['floor']:.1%}")
                   for k in ("pixels", "features") if k in copies]


def rates(r: dict) -> list[tuple[str, str, str]]:
    rows = []
    for name, d in r["rates"].get("codes", {}).items():
        if "coded" not in d:
            continue
        ours, at = d["coded"]["bytes"], {c: v["payload"]["bytes"] for c, v in d["codecs_at_psnr"].items()}
        best = min((c for c in at if c in ("jpeg", "webp")), key=at.get)
        rows += [(f"bytes at {d['psnr']:.1f} dB, {name} / {best}", f"{ours / at[best]:.2f}",
                  f"ours {ours:.0f}, " + ", ".join(f"{c} {v:.0f}" for c, v in at.items())),
                 (f"NLL, bits per code, {name}", f"{d['prior']['bits_per_code']:.2f}",
                  f"{d['prior']['bits_per_image']:.0f} bits/image")]
    return rows


def rows(r: dict) -> list[tuple[str, str, str]]:
    """(measure, figure, beside it) of what `judge` returned; what was skipped there is left out here."""
    return [row for part in (distances, shapes, whole, lessons, rates) for row in part(r)]


def markdown(r: dict) -> str:
    settings = ", ".join(f"{k} {v}" for k, v in r["sampling"].items())
    head = f"{r['data']}, {r['split']}, {r['images']} images, seed {r['seed']}; {settings}\n\n"
    return head + "\n".join(f"| {' | '.join(row)} |" for row in [("measure", "figure", "beside it"), ("---",) * 3, *rows(r)])


def sweep(result: dict) -> str:
    """A line for each sampling setting, least KID in bold; structure: its measures, each over its floor, mean and largest."""
    best = min(result["rows"], key=lambda row: row["kid_x1000"])
    lines = [f"{result['split']}, {result['images']} images, seed {result['seed']}", "",
             "| setting | KID-Lite0 x 1000 | structure, x real: mean | largest |", "|---|---|---|---|"]
    for row in result["rows"]:
        name = ", ".join(f"{k} {v}" for k, v in row["setting"].items()) or "as trained"
        ratio = row["structure"]["ratio"]
        most = max(ratio, key=ratio.get)
        lines.append(f"| {f'**{name}**' if row is best else name} | {kid(row)} | {sum(ratio.values()) / len(ratio):.1f} "
                     f"| {ratio[most]:.1f}, {most} |")
    return "\n".join(lines)


def published(workspace, split: str) -> dict | None:
    """What `evaluate` said of the weights that ship, if the workspace's prior is one of them: its log is theirs."""
    shipped, log = home() / "data" / "pretrained", workspace.folder / "gpt" / "log.jsonl"
    path = shipped / f"{workspace.preset.name}-{split}.json"
    same = log.exists() and log.read_bytes() in [p.read_bytes() for p in shipped.glob("gpt-*.jsonl")]
    return json.loads(path.read_text()) if same and path.exists() else None


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    print("\n\n".join(show(found[key]) for key, show in (("judged", markdown), ("sweep", sweep)) if key in found))
