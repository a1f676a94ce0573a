"""What the studies say of single changes, and which of them lose."""
import numpy as np

from vqlib.report.text import MINUS, Markdown, escape
from vqlib.studies import results
from vqlib.studies.runner import STUDIES

# metric -> (name, digits, unit, whether more is better)
METRICS = {"psnr": ("PSNR", 1, "dB", True), "nats": ("nats per code", 3, "", False),
           "structure": ("structure", 1, "", False), "codes_used": ("codes in use", 0, "", True)}


def verdict(values: list[float], metric: str) -> str:
    """gain, loss, or that the seeds differ by more than the change."""
    mean = np.mean(values)
    if len(values) > 1 and abs(mean) <= np.std(values, ddof=1):
        return "no more than the seeds differ by"
    return "gain" if (mean > 0) == METRICS[metric][3] else "loss"


def effect(study: str, key: str, metric: str) -> Markdown:
    """What a row changes against the row before it: mean ± standard deviation over seeds."""
    name, digits, unit, _ = METRICS[metric]
    row = next(row for row in STUDIES[study].rows if row.key == key)
    values = results.change(with_metric(study, metric), key, row.against, metric)
    if not values:
        return Markdown(f"{name} not measured")
    judged = verdict(values, metric)
    change = results.cell(values, digits, "+").replace("-", MINUS)
    seeds = f"{len(values)} seeds" if len(values) > 1 else "one seed"
    text = f"{name} {change} {unit}".strip() + f" ({seeds}: {judged})"
    return Markdown(f"**{text}**" if judged == "loss" else text)


def with_metric(study: str, metric: str) -> dict:
    """Results of the study's rows, without seeds that lack the metric."""
    return {key: {seed: found for seed, found in seeds.items() if metric in found}
            for key, seeds in results.read(study, results.FOLDER).items()}


def losing(study: str) -> list[dict]:
    """Rows of the path to ours whose first metric is worse than in the row before."""
    metric, found = next(iter(STUDIES[study].columns)), results.read(study, results.FOLDER)
    keys = [row.key for row in STUDIES[study].rows]
    rows = []
    for row in STUDIES[study].rows[1 : keys.index("ours") + 1]:
        values = results.change(found, row.key, row.against, metric)
        if values and verdict(values, metric) == "loss":
            rows.append({"label": row.label, "change": effect(study, row.key, metric)})
    return rows


def setup(study: str) -> Markdown:
    """On what, and for how long, the rows of a study were trained."""
    return escape(results.setup(study, results.FOLDER))
