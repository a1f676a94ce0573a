"""Laws of the kept metrics: each stands in the column of its setting, and none is lost."""
from types import SimpleNamespace

import pytest

from vqlib.backend.files import FileError
from vqlib.records import expected, file_of, record


def workspace(preset, title):
    return SimpleNamespace(preset=SimpleNamespace(name=preset),
                           dataset=SimpleNamespace(title=title))


QUICK = workspace("quick", "synthetic, n 3000, seed 0")
FLAGSHIP = workspace("flagship", "HAM10000 (CC BY-NC 4.0)")


def test_each_setting_has_a_column_and_what_one_lacks_is_a_dash(home):
    record(QUICK, {"02": {"PSNR, dB": "29.9"}})
    record(FLAGSHIP, {"02": {"PSNR, dB": "34.5", "codes used": "512"}})
    assert expected("02", {}).splitlines() == [
        "| measure | this run | `quick`, synthetic lesions | "
        "`flagship`, HAM10000, weights that ship |",
        "| --- | --- | --- | --- |",
        "| PSNR, dB | - | 29.9 | 34.5 |",
        "| codes used | - | - | 512 |"]


def test_a_run_of_another_setting_stands_first(home):
    record(QUICK, {"02": {"PSNR, dB": "29.9"}})
    lines = expected("02", {"PSNR, dB": "30.1"}).splitlines()
    assert lines[0].startswith("| measure | this run | `quick`")
    assert lines[2] == "| PSNR, dB | 30.1 | 29.9 |"


def test_a_run_in_one_of_the_settings_stands_beside_its_kept_column(home):
    record(FLAGSHIP, {"02": {"PSNR, dB": "34.5"}})
    lines = expected("02", {"PSNR, dB": "34.6"}).splitlines()
    assert lines[0] == "| measure | this run | `flagship`, HAM10000, weights that ship |"
    assert lines[2] == "| PSNR, dB | 34.6 | 34.5 |"


def test_recording_one_notebook_keeps_the_others(home):
    record(QUICK, {"02": {"a": "1"}, "03": {"b": "2"}})
    record(QUICK, {"02": {"a": "3"}})
    assert "| a | - | 3 |" in expected("02", {})
    assert "| b | - | 2 |" in expected("03", {})


def test_a_setting_without_records_has_no_column(home):
    assert expected("02", {"a": "1"}).splitlines()[0] == "| measure | this run |"


def test_another_home_still_shows_what_ships(home, tmp_path, monkeypatch):
    record(FLAGSHIP, {"02": {"PSNR, dB": "34.5"}, "03": {"b": "1"}})
    monkeypatch.setattr("vqlib.backend.paths.CHECKOUT", home)
    monkeypatch.setenv("VQLIB_HOME", str(tmp_path / "another"))
    record(FLAGSHIP, {"02": {"PSNR, dB": "34.6"}})
    assert "| PSNR, dB | - | 34.6 |" in expected("02", {})
    assert "| b | - | 1 |" in expected("03", {})


@pytest.mark.parametrize(("ws", "name"), [
    (QUICK, "quick-synthetic.json"), (FLAGSHIP, "flagship-ham10000.json"),
    (workspace("report", "ISIC 2018 task 3 (CC BY-NC 4.0)"), "report-isic.json")])
def test_a_record_is_named_after_preset_and_data(home, ws, name):
    assert file_of(ws.preset.name, ws.dataset.title).name == name


def test_a_damaged_file_is_named_and_not_replaced(home):
    path = file_of("quick", "synthetic")
    path.parent.mkdir(parents=True)
    path.write_text("{")
    for use in (lambda: record(QUICK, {"01": {}}), lambda: expected("01", {})):
        with pytest.raises(FileError, match=r"quick-synthetic\.json is damaged"):
            use()
    assert path.read_text() == "{"
