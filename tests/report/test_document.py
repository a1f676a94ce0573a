"""Laws of the report's text: numbers come from data, are numbered in order, and lose honestly."""
import json
import re

import pytest
from made_up_run import made_up, make_run, write_results

from vqlib.report import course, document, studies
from vqlib.report.document import FILE, figures_named
from vqlib.report.saved import Missing
from vqlib.studies import results

PAGES = [{"title": "1. Look", "link": "01_data_stats.html"}]


@pytest.fixture
def run(home):
    return make_run(home)


def text_of(run) -> str:
    files = {name: f"{name}.png" for name in figures_named()}
    return document.report(run, PAGES, files)


def without(text: str, *patterns: str) -> str:
    for pattern in patterns:
        text = re.sub(pattern, " ", text, flags=re.S)
    return text


def test_the_template_types_no_number():
    typed = without(FILE.read_text(), r"<!--.*?-->", r"\{\{.*?\}\}", r"\{%.*?%\}", r"\$\$.*?\$\$",
                    r"\$.*?\$", r"`.*?`", r"\[@.*?\]", r"KID-Lite0")
    assert re.findall(r"\S*\d\S*", typed) == []


def leaves(saved, path=()):
    """Paths of all fractional numbers in what notebooks saved."""
    items = saved.items() if isinstance(saved, dict) else enumerate(saved)
    for key, value in items:
        if isinstance(value, dict | list):
            yield from leaves(value, (*path, key))
        elif isinstance(value, float):
            yield (*path, key)


# saved by the notebooks and shown nowhere: spreads and minima of what is compared by its mean
UNUSED = re.compile(r"02/report's settings/(classes|bits_per|.*/(std|min))|"
                    r"02/ours/(ssim/min|report_psnr/(std|min)|classes/.*/ssim/min)|"
                    r"05/reconstruction")


def test_every_metric_that_is_saved_changes_the_report(run, tmp_path, monkeypatch):
    models = run.models()
    monkeypatch.setattr(document.Run, "models", lambda run: models)
    monkeypatch.setattr(results, "FOLDER", tmp_path)             # no studies: a hundred reports
    before = text_of(run)
    for path in leaves(made_up()):
        changed = made_up()
        *parents, last = path
        holder = changed
        for key in parents:
            holder = holder[key]
        holder[last] += 400.0
        write_results(run, changed)
        name = "/".join(str(key) for key in path)
        assert (text_of(run) == before) == bool(UNUSED.match(name)), name


def test_two_runs_share_no_value_in_their_tables(run):
    def values(text):
        table = text.split("{#at-glance}")[1].split(":::")[0]
        return [row.split("|")[2] for row in table.splitlines() if row.startswith("| ")][1:]

    first = values(text_of(run))
    write_results(run, made_up(seed=50))
    pairs = [*zip(first, values(text_of(run)))]
    assert [a for a, b in pairs if a == b] == [" 11 of 16 "]      # the one that is the same in both


def test_figures_and_tables_are_numbered_in_their_order_and_each_is_referred_to(run):
    text = text_of(run)
    for kind in ("Figure", "Table"):
        numbers = [int(n) for n in re.findall(rf"\*\*{kind}\u00a0(\d+)\.\*\*", text)]
        assert numbers == list(range(1, len(numbers) + 1))
        assert len(numbers) > 10
    named = {*re.findall(r"\]\(#(at-[\w-]+)\)", text)}
    given = {*re.findall(r"\{#(at-[\w-]+)", text)}
    assert named <= given


def test_references_name_the_number_of_what_they_lead_to(run):
    text = text_of(run)
    [number] = re.findall(r"\*\*(Figure\u00a0\d+)\.\*\* The codebook by UMAP", text)
    assert {label for label in re.findall(r"\[([^\]]+)\]\(#at-03_umap\)", text)} == {number}


def test_results_of_another_version_are_said_to_be(run):
    changed = made_up()
    del changed["04"]["best"]
    write_results(run, changed)
    with pytest.raises(Missing, match=r"another version.*best"):
        text_of(run)


def test_under_the_report_preset_the_baseline_is_the_mended_one(home):
    for preset, faulty in (("quick", 3), ("report", 11)):
        run = make_run(home, preset)
        changed = made_up()
        changed["02"]["report's settings"]["codes_used"] = 3
        write_results(run, changed)
        assert f"In this run: {faulty} of 16 codes with the fault" in " ".join(text_of(run).split())


def test_every_value_of_the_course_report_has_its_source_and_is_shown(run):
    text = text_of(run)
    for name, value in course.read().items():
        assert len(value.source) > 5, name
        assert f"| {value.shown} |" in text, name


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A folder of made-up results of the VQ-VAE study."""
    monkeypatch.setattr(results, "FOLDER", tmp_path)

    def write(key, *psnrs):
        for seed, psnr in enumerate(psnrs):
            found = {"key": key, "seed": seed, "metrics": {"psnr": psnr, "ssim": 0.5},
                     "setup": {"data": "D", "updates": 900, "batch": 16}}
            (tmp_path / f"vqvae-{key}-{seed}.json").write_text(json.dumps(found))
    return write


def test_a_fix_that_loses_in_the_study_says_so_in_bold(study):
    study("report", 20.0, 21.0)
    study("scaled", 18.0, 18.8)
    study("init", 24.0, 25.0)
    assert studies.effect("vqvae", "scaled", "psnr").startswith("**PSNR \u22122.1 ± 0.1 dB")
    assert "loss" in studies.effect("vqvae", "scaled", "psnr")
    assert studies.effect("vqvae", "init", "psnr") == "PSNR +6.1 ± 0.1 dB (2 seeds: gain)"
    assert [row["label"] for row in studies.losing("vqvae")] == ["+ variance scaled right"]


def test_a_change_within_the_spread_of_seeds_is_no_gain(study):
    study("report", 20.0, 21.0)
    study("scaled", 21.0, 20.5)
    assert "no more than the seeds differ by" in studies.effect("vqvae", "scaled", "psnr")
    assert studies.losing("vqvae") == []


def test_what_no_study_has_measured_is_said_to_be_missing(study):
    assert studies.effect("vqvae", "scaled", "psnr") == "PSNR not measured"
    assert studies.setup("vqvae") == "not run"


def test_less_is_better_where_nats_are_counted(tmp_path, monkeypatch):
    monkeypatch.setattr(results, "FOLDER", tmp_path)
    for key, nats in (("window", 5.0), ("whole", 4.5)):
        found = {"key": key, "seed": 0, "metrics": {"nats": nats}}
        (tmp_path / f"prior-{key}-0.json").write_text(json.dumps(found))
    effect = studies.effect("prior", "whole", "nats")
    assert effect == "nats per code \u22120.500 (one seed: gain)"
