"""Two explorers. Each is a plain drawing function, and controls that call it; the notebook draws a static figure beside.

Nothing is drawn until a control is used, so executed notebooks stay small and tests call the functions directly.
"""
import ipywidgets as w
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import display
from matplotlib.colors import hsv_to_rgb
from torch import Tensor

from vqlib import metrics, plots


def show_codes(ax, codes: Tensor, n_codes: int, title=""):           # (h, w) indices
    """One colour per code, neighbouring indices far apart in hue: only equal colours mean anything."""
    k = np.arange(n_codes)
    palette = hsv_to_rgb(np.stack([k * 0.618 % 1, 0.45 + 0.4 * (k % 3) / 2, 0.55 + 0.4 * (k % 5) / 4], 1))
    ax.imshow(palette[codes.cpu()], interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def draw_reconstruction(vqvae, dataset, row: int):
    """Original, reconstruction, absolute error (x 4) and code map of one image of the dataset."""
    x = dataset[[row]]
    codes = vqvae.encode(x.to(vqvae.mean.device))
    x_hat = vqvae.decode(codes).cpu()
    fig, axs = plt.subplots(1, 4, figsize=(11, 3))
    plots.show_images(axs[0], x, title=f"{dataset.names[row]} ({dataset.label_names[row]})")
    plots.show_images(axs[1], x_hat, title=f"from {codes[0].numel()} codes: {metrics.psnr(x_hat, x)[0]:.1f} dB")
    plots.show_images(axs[2], 4 * (x_hat - x).abs(), title="error x 4")
    show_codes(axs[3], codes[0], vqvae.cfg.n_codes, title="codes")
    return fig


def draw_samples(vqvae, gpt, label: int, seed=0, n=8, title="", **sampling):
    """A row of images of one class, drawn by the prior; `sampling` see GPT.generate."""
    codes = gpt.generate(torch.full((n,), label), seed=seed, **sampling)
    said = ", ".join(f"{k.replace('_', '-')} {v}" for k, v in {"class": label, **sampling, "seed": seed}.items())
    fig, ax = plt.subplots(figsize=(11, 1.9))
    plots.show_images(ax, vqvae.decode(codes.view(n, gpt.cfg.grid, gpt.cfg.grid)), n, title or said)
    return fig


def _panel(draw, **controls):
    """Controls above an output that is redrawn at each change."""
    out = w.Output()

    def redraw(_=None):
        out.clear_output(wait=True)
        with out:
            fig = draw(**{name: c.value for name, c in controls.items()})
            display(fig)
            plt.close(fig)

    for c in controls.values():
        c.observe(redraw, "value")
    return w.VBox([w.HTML("Move a control to draw."), w.HBox(list(controls.values())), out])


def reconstruction_explorer(vqvae, dataset, split="validation"):
    """Choose an image of a split; see what its codes keep and lose."""
    rows = dataset.splits[split]
    slider = w.IntSlider(0, 0, len(rows) - 1, description="image", continuous_update=False)
    return _panel(lambda image: draw_reconstruction(vqvae, dataset, int(rows[image])), image=slider)


def sample_explorer(vqvae, gpt, classes: list[str]):
    """Choose diagnosis, temperature, top-k and seed; see eight samples."""
    options = [(c, i) for i, c in enumerate(classes)] + [("any", len(classes))]
    return _panel(
        lambda **chosen: draw_samples(vqvae, gpt, **chosen),
        label=w.Dropdown(options=options, description="diagnosis"),
        temperature=w.FloatSlider(1.0, min=0.1, max=1.5, step=0.05, description="temperature", continuous_update=False),
        top_k=w.IntSlider(0, 0, gpt.cfg.n_codes, description="top-k", continuous_update=False),
        seed=w.IntText(0, description="seed"))
