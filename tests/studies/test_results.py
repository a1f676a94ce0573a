"""Laws of tables and figures: means, spreads and changes are those of the files."""
import json

import matplotlib.pyplot as plt
import pytest

from vqlib.backend.files import FileError
from vqlib.studies import results


@pytest.fixture
def folder(tmp_path):
    """Two rows by hand, PSNR 20, 22 and 25, 25 dB."""
    for key, values in {"report": (20, 22), "scaled": (25, 25)}.items():
        for seed, psnr in enumerate(values):
            metrics = {"psnr": psnr, "ssim": 0.5, "codes_used": 7, "perplexity": 3.5}
            text = json.dumps({"key": key, "seed": seed, "metrics": metrics})
            (tmp_path / f"vqvae-{key}-{seed}.json").write_text(text)
    return tmp_path


def test_a_table_has_means_spreads_and_the_gain_of_each_change(folder):
    lines = [[cell.strip() for cell in line.strip("|").split("|")]
             for line in results.table("vqvae", folder).splitlines()]
    assert lines[0][1:3] == ["seeds", "PSNR, dB"]
    assert lines[2][1:4] == ["2", "21.00 ± 1.41", "0.500 ± 0.000"]
    assert lines[2][-2:] == ["", ""]
    assert lines[3][2] == "25.00 ± 0.00"
    assert lines[3][-2:] == ["+4.00 ± 1.41", "report"]
    assert len(lines) == 4


def test_a_figure_shows_each_row_that_has_results(folder):
    fig, ax = plt.subplots()
    results.draw(ax, "vqvae", folder)
    labels = [t.get_text() for t in ax.get_yticklabels()]
    assert labels == ["the report's settings", "+ variance scaled right"]
    plt.close(fig)


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_file_that_holds_no_result_is_named(tmp_path, text):
    (tmp_path / "vqvae-ours-0.json").write_text(text)
    with pytest.raises(FileError, match=r"vqvae-ours-0\.json"):
        results.read("vqvae", tmp_path)
