"""Laws of the explorers: they draw when a control moves, and they draw what the control says."""
import ipywidgets
import matplotlib.pyplot as plt
import pytest
from matplotlib.figure import Figure

from vqlib import metrics, widgets


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were displayed."""
    figures = []
    monkeypatch.setattr(widgets, "display", figures.append)
    yield figures
    plt.close("all")


def control(panel, description):
    """The control of an explorer that is labelled so."""
    box = next(child for child in panel.children if isinstance(child, ipywidgets.HBox))
    return next(widget for widget in box.children if widget.description == description)


def titles(fig):
    return [ax.get_title() for ax in fig.axes]


def test_a_reconstruction_is_drawn_with_its_name_and_its_decibels(vqvae, dataset):
    fig = widgets.draw_reconstruction(vqvae, dataset, 5)
    x = dataset[[5]]
    decibels = float(metrics.psnr(vqvae.decode(vqvae.encode(x)), x))
    assert isinstance(fig, Figure)
    assert titles(fig)[0] == f"{dataset.names[5]} ({dataset.label_names[5]})"
    assert titles(fig)[1] == f"from 16 codes: {decibels:.1f} dB"
    plt.close(fig)


def test_samples_are_drawn_with_their_settings(vqvae, gpt):
    fig = widgets.draw_samples(vqvae, gpt, 2, temperature=0.7, top_k=5, seed=3, n=4)
    assert isinstance(fig, Figure)
    assert titles(fig) == ["class 2, temperature 0.7, top-k 5, seed 3"]
    plt.close(fig)


def test_nothing_is_drawn_before_a_control_is_used(vqvae, gpt, dataset, drawn):
    widgets.reconstruction_explorer(vqvae, dataset)
    widgets.sample_explorer(vqvae, gpt, dataset.classes)
    assert drawn == []


def test_moving_the_slider_draws_that_image_of_the_split(vqvae, dataset, drawn):
    slider = control(widgets.reconstruction_explorer(vqvae, dataset, "test"), "image")
    rows = dataset.splits["test"]
    assert slider.max == len(rows) - 1
    slider.value = 2
    slider.value = len(rows) - 1
    names = [titles(fig)[0].split()[0] for fig in drawn]
    assert names == [dataset.names[rows[2]], dataset.names[rows[-1]]]


@pytest.mark.parametrize(("description", "value", "title"), [
    ("diagnosis", 3, "class 3, temperature 1.0, top-k 0, seed 0"),
    ("diagnosis", 7, "class 7, temperature 1.0, top-k 0, seed 0"),       # any
    ("temperature", 0.5, "class 0, temperature 0.5, top-k 0, seed 0"),
    ("top-k", 4, "class 0, temperature 1.0, top-k 4, seed 0"),
    ("seed", 9, "class 0, temperature 1.0, top-k 0, seed 9"),
])
def test_each_control_redraws_with_its_value(vqvae, gpt, dataset, drawn, description, value, title):
    explorer = widgets.sample_explorer(vqvae, gpt, dataset.classes)
    control(explorer, description).value = value
    assert [titles(f) for f in drawn] == [[title]]


def test_diagnoses_stand_for_their_label(vqvae, gpt, dataset):
    explorer = widgets.sample_explorer(vqvae, gpt, dataset.classes)
    options = control(explorer, "diagnosis").options
    assert options == (*zip(dataset.classes, range(7)), ("any", 7))


def test_drawn_figures_are_closed(vqvae, dataset, drawn):
    plt.close("all")
    control(widgets.reconstruction_explorer(vqvae, dataset), "image").value = 1
    assert len(drawn) == 1
    assert plt.get_fignums() == []
