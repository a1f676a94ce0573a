"""Two explorers. Each is a plain drawing function, and controls that call it.

Nothing is drawn until a control is used, so executed notebooks stay small; the notebook draws a
static figure beside, and tests call the functions directly.
"""
import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

from vqlib import metrics, plots


def code_colours(n_codes: int) -> np.ndarray:                    # -> (K, 3)
    """One colour per code: only equal colours mean anything, so neighbours differ in hue."""
    k = np.arange(n_codes)
    hue = k * 0.618 % 1
    saturation = 0.45 + 0.4 * (k % 3) / 2
    value = 0.55 + 0.4 * (k % 5) / 4
    return hsv_to_rgb(np.stack([hue, saturation, value], 1))


def show_codes(ax, codes: Tensor, n_codes: int, title=""):       # (h, w) indices
    """A map of codes in `code_colours`."""
    ax.imshow(code_colours(n_codes)[codes.cpu()], interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def draw_reconstruction(vqvae, dataset, row: int):
    """Original, reconstruction, absolute error (x 4) and code map of one image of the dataset."""
    x = dataset[[row]]                                           # (1, 3, H, W)
    codes = vqvae.encode(x.to(vqvae.mean.device))                # (1, h, w)
    x_hat = vqvae.decode(codes).cpu()
    decibels = metrics.psnr(x_hat, x)[0]
    fig, axs = plt.subplots(1, 4, figsize=(11, 3))
    plots.show_images(axs[0], x, title=f"{dataset.names[row]} ({dataset.label_names[row]})")
    plots.show_images(axs[1], x_hat, title=f"from {codes[0].numel()} codes: {decibels:.1f} dB")
    plots.show_images(axs[2], 4 * (x_hat - x).abs(), title="error x 4")
    show_codes(axs[3], codes[0], vqvae.cfg.n_codes, title="codes")
    return fig


def draw_samples(decoder, gpt, label: int, seed=0, n=8, title="", **sampling):
    """A row of n images of one class, drawn by the prior; `sampling` see GPT.generate.

    decoder: the VQ-VAE or a `StochasticDecoder`.
    """
    codes = gpt.generate(torch.full((n,), label), seed=seed, **sampling)        # (n, T)
    images = decoder.decode(codes.view(n, gpt.cfg.grid, gpt.cfg.grid))
    if not title:
        settings = {"class": label, **sampling, "seed": seed}
        parts = [f"{name.replace('_', '-')} {value}" for name, value in settings.items()]
        title = ", ".join(parts)
    fig, ax = plt.subplots(figsize=(11, 1.9))
    plots.show_images(ax, images, n, title)
    return fig


def _panel(draw, **controls):
    """Controls above an output that is redrawn at each change."""
    out = w.Output()

    def redraw(_=None):
        out.clear_output(wait=True)
        with out:
            fig = draw(**{name: control.value for name, control in controls.items()})
            display(fig)
            plt.close(fig)

    for control in controls.values():
        control.observe(redraw, "value")
    return w.VBox([w.HTML("Move a control to draw."), w.HBox(list(controls.values())), out])


def reconstruction_explorer(vqvae, dataset, split="validation"):
    """Choose an image of a split; see what its codes keep and lose."""
    rows = dataset.splits[split]

    def draw(image):
        return draw_reconstruction(vqvae, dataset, int(rows[image]))

    slider = w.IntSlider(0, 0, len(rows) - 1, description="image", continuous_update=False)
    return _panel(draw, image=slider)


def sample_explorer(decoder, gpt, classes: list[str]):
    """Choose diagnosis, temperature, top-k and seed; see eight samples."""
    labels = [(name, label) for label, name in enumerate(classes)] + [("any", len(classes))]

    def draw(**chosen):
        return draw_samples(decoder, gpt, **chosen)

    return _panel(
        draw,
        label=w.Dropdown(options=labels, description="diagnosis"),
        temperature=w.FloatSlider(1.0, min=0.1, max=1.5, step=0.05, description="temperature",
                                  continuous_update=False),
        top_k=w.IntSlider(0, 0, gpt.cfg.n_codes, description="top-k", continuous_update=False),
        seed=w.IntText(0, description="seed"))
