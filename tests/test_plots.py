"""Laws of the drawings: they show what they are given, and the same inputs give the same bytes."""
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import pytest
import torch
from matplotlib.text import Text

from vqlib import metrics, plots


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


@pytest.fixture
def workspace(home):
    return SimpleNamespace(dataset=SimpleNamespace(title="synthetic, n 40"),
                           preset=SimpleNamespace(name="smoke"),
                           source="synthetic, n 40, preset smoke")


def test_images_are_shown_in_reading_order_with_their_own_pixels(ax):
    x = torch.arange(6.0)[:, None, None, None].expand(6, 3, 4, 4) / 6
    shown = np.asarray(plots.show_images(ax, x, per_row=3).images[0].get_array())
    assert shown.shape[:2] == (2 * 6 + 2, 3 * 6 + 2)
    middles = [shown[4 + 6 * (i // 3), 4 + 6 * (i % 3), 0] for i in range(6)]
    assert middles == pytest.approx([i / 6 for i in range(6)])


def test_equal_codes_have_equal_colours_and_neighbours_differ(ax):
    codes = torch.arange(64).view(8, 8)
    shown = np.asarray(plots.show_codes(ax, codes, 64).images[0].get_array())          # (8, 8, 3)
    assert np.abs(np.diff(shown.reshape(64, 3), axis=0)).max(1).min() > 0.2
    flipped = np.asarray(plots.show_codes(ax, codes.flip(0), 64).images[-1].get_array())
    assert (flipped[::-1] == shown).all()


def test_a_curve_is_drawn_where_the_log_has_its_value(ax):
    log = [{"step": step, "loss": 1 / step} for step in (10, 20, 30)]
    log[1]["held_out"] = 2.0
    plots.curve(ax, log, "held_out")
    plots.curve(ax, log, "loss", smooth=2)
    held_out, loss = ax.lines
    assert held_out.get_xydata().tolist() == [[20, 2]]
    means = [[10, 1 / 10], [20, (1 / 10 + 1 / 20) / 2], [30, (1 / 20 + 1 / 30) / 2]]
    assert loss.get_xydata() == pytest.approx(np.array(means))


def test_codes_never_picked_are_crosses_apart_from_the_dots(ax):
    points, counts = np.random.default_rng(0).random((5, 2)), np.array([4, 0, 1, 0, 2])
    dots, crosses = plots.scatter_codes(ax, points, counts, np.zeros((5, 3))).collections
    assert (dots.get_offsets() == points[counts > 0]).all()
    assert (crosses.get_offsets() == points[counts == 0]).all()
    assert (np.argsort(dots.get_sizes()) == [1, 2, 0]).all()     # area by use


def test_the_same_drawing_gives_the_same_bytes_and_names_its_data(workspace, home):
    written = []
    for _ in range(2):
        fig, ax = plt.subplots(figsize=(2, 2))
        ax.plot([1, 2, 3])
        plots.save(fig, workspace, "02_curve")
        assert "synthetic, n 40, preset smoke" in [t.get_text() for t in fig.texts]
        plt.close(fig)
        written.append((home / "figures" / "smoke" / "02_curve.png").read_bytes())
    assert written[0] == written[1]


def test_a_dollar_in_a_name_is_shown_and_numbers_of_log_axes_stay_formulas(workspace, home):
    name = "$x_$ and $y^$"                                       # no formula that can be read
    fig, (ax, log) = plt.subplots(2)
    ax.plot([1, 2], label=name)
    ax.set_xticks([0, 1], [name, "b"])
    ax.set(title=name, ylabel=name)
    ax.legend()
    log.plot([1, 1000])
    log.set_yscale("log")
    plots.save(fig, workspace, "02_curve")
    assert not any(text.get_parse_math() for text in fig.findobj(Text) if text.get_text() == name)
    assert all(label.get_parse_math() for label in log.get_yticklabels())


@pytest.mark.parametrize(("suffix", "head"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_papers_get_vectors_with_the_same_bytes_each_time(
        workspace, home, monkeypatch, suffix, head):
    monkeypatch.setenv("VQLIB_FIGURES", suffix)
    written = []
    for _ in range(2):
        fig, ax = plt.subplots(figsize=(2, 2))
        ax.plot([1, 2, 3])
        plots.save(fig, workspace, "02_curve")
        plt.close(fig)
        written.append((home / "figures" / "smoke" / f"02_curve.{suffix}").read_bytes())
    assert written[0] == written[1]
    assert written[0].startswith(head)


def test_a_format_that_figures_do_not_have_is_named(workspace, monkeypatch):
    monkeypatch.setenv("VQLIB_FIGURES", "bmp")
    with pytest.raises(ValueError, match="bmp: figures are written as png, pdf, svg"):
        plots.save(None, workspace, "02_curve")


def test_only_the_flagship_of_ham10000_draws_into_the_figures_folder_itself(home):
    assert plots.figure_folder("flagship") == home / "figures"
    assert plots.figure_folder("flagship", "HAM10000 (CC BY-NC 4.0)") == home / "figures"
    assert plots.figure_folder("flagship", "synthetic, n 40") == home / "figures" / "flagship"
    assert plots.figure_folder("smoke") == home / "figures" / "smoke"


def test_the_patch_of_a_code_is_what_it_paints_among_its_own_kind(vqvae):
    patches = plots.code_patches(vqvae)
    assert patches.shape == (16, 3, 4, 4)
    whole = vqvae.decode(torch.full((1, 5, 5), 11))
    assert torch.allclose(patches[11], whole[0, :, 8:12, 8:12], atol=1e-6)


def test_a_reconstruction_is_drawn_with_its_name_and_its_decibels(vqvae, dataset):
    fig = plots.draw_reconstruction(vqvae, dataset, 5)
    x = dataset[[5]]
    decibels = float(metrics.psnr(vqvae.decode(vqvae.encode(x)), x))
    titles = [ax.get_title() for ax in fig.axes]
    assert titles[0] == f"{dataset.names[5]} ({dataset.label_names[5]})"
    assert titles[1] == f"from 16 codes: {decibels:.1f} dB"
    plt.close(fig)


def test_a_figure_that_ships_is_shown_whatever_the_home_is(home, tmp_path, monkeypatch, capsys):
    folder, shown = tmp_path / "no checkout" / "figures", []
    folder.mkdir(parents=True)
    PIL.Image.new("RGB", (4, 4)).save(folder / "05_psnr.png")
    monkeypatch.setattr(plots, "get_ipython", lambda: True)
    monkeypatch.setattr(plots, "show_jpeg", lambda jpeg, name, **size: shown.append(name))
    plots.show_committed("05_psnr")
    assert shown == ["05_psnr"]
    assert "figures/05_psnr.png" in capsys.readouterr().out
