"""The course report's faults as a table: evidence, fix, and what a fix alone changes.

Effects come from the studies' saved results: validation split, mean over seeds. What the evidence
is, and where it was read: `make report`, "Faults of the course report".
"""
from dataclasses import dataclass

import numpy as np

from vqlib.studies import results

UNITS = {"psnr": ("dB", 1, True), "nats": ("nats per code", 2, False)}  # digits, more is better


@dataclass(frozen=True)
class Fault:
    """A row. Effects are (study, key of its row, metric), or a sentence where none was measured."""

    fault: str
    evidence: str
    fix: str
    effects: tuple
    notebooks: str
    short: bool = False                      # also in README


APART = ("not measured apart",)
FAULTS = (
    Fault("PSNR of normalised pixels", "its formula assumes a range of 1", "PSNR on [0, 1]",
          ("its 12.7 dB are 27.85 dB",), "5", short=True),
    Fault("red's mean and deviation undo the normalisation of all channels",
          "its function reads the first entry of both", "each channel's own",
          ("colours of the data; metrics do not change",), "1"),
    Fault("the loss divides by the variance of other pixels",
          "0.0487 is the variance on [0, 1]; its loss is of normalised pixels",
          "the variance of what is compared", (("vqvae", "scaled", "psnr"),), "1, 2", short=True),
    Fault("codes start at random", "54 of its 512 codes are alive", "codes start on data",
          (("vqvae", "init", "psnr"), ("vqvae", "init", "codes_used")), "2", short=True),
    Fault("codes that no image picks stay dead", "its dead codes never moved",
          "dead codes are moved onto data",
          (("vqvae", "reset", "psnr"), ("vqvae", "reset", "codes_used")), "2", short=True),
    Fault("files of 600 x 450 px are cropped to 128", "6 % of the area, the inside of the lesion",
          "scale first, then crop", ("lesions have borders; not measured apart",), "1"),
    Fault("images of one lesion in training and in test", "nothing in its code looks at lesions",
          "split by a hash of the lesion",
          ("a random split leaks 40 % of HAM10000's test images",), "1", short=True),
    Fault("test images are not cropped", "150 x 112 codes against 32 x 32 in training",
          "one geometry for all splits", ("train and test loss can be compared",), "1"),
    Fault("the prior sees a window, and not where it is",
          "256 of 1,026 tokens; positions count from the window's first",
          "the whole grid in view", (("prior", "whole", "nats"), ("prior", "whole", "structure")),
          "4, 5", short=True),
    Fault("the prior's batch is one window", "the variable is overwritten by 1",
          "the batch is a setting, stored with the weights", APART, "4"),
    Fault("an update in every 500th pass only",
          "200,000 passes of its loop are 401 updates", "one update a pass",
          ('its 600,000 "iterations" were about 1,200 updates',), "4", short=True),
    Fault("6 heads of 21 on width 128", "6 x 21 = 126", "a width that heads divide", APART, "4"),
    Fault("a list of learning rates is handed to the optimiser", "the optimiser takes one number",
          "a schedule; here a cosine", (("vqvae", "ours", "psnr"),), "2"),
    Fault("an island in its UMAP is read as structure", "the island is its live codes",
          "use and colour of each code are drawn", ("dead codes are seen",), "3"),
)


def table(short=False) -> str:
    """Markdown; short: the rows that README has.

    In bold: the measure got worse when the fix was added to those above it.
    """
    lines = [["fault in the report", "how we know", "what mends it", "effect", "notebook"]]
    lines.append(["---"] * len(lines[0]))
    lines += [[fault.fault, fault.evidence, fault.fix, "; ".join(map(effect, fault.effects)),
               fault.notebooks] for fault in FAULTS if fault.short or not short]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def effect(of) -> str:
    """A measured change in words; a sentence as it is."""
    if isinstance(of, str):
        return of
    study, key, metric = of
    found = results.read(study, results.FOLDER)
    row = next(row for row in results.STUDIES[study].rows if row.key == key)
    if key not in found or row.against not in found:
        return "not measured"
    if metric not in UNITS:
        before, after = (np.mean([m[metric] for m in found[name].values() if metric in m])
                         for name in (row.against, key))
        name = {"codes_used": "codes in use", "structure": "times real photographs' structure"}
        digits = 0 if metric == "codes_used" else 1
        return f"{before:.{digits}f} -> {after:.{digits}f} {name[metric]}"
    unit, digits, more_is_better = UNITS[metric]
    change = np.mean(results.change(found, key, row.against, metric))
    text = f"{change:+.{digits}f} {unit}"
    return text if (change > 0) == more_is_better else f"**{text}**"
