"""Drawing helpers: each draws on an `ax` and returns it.

The notebook owns layout, titles and saving. Letters: n images, K codes, p pixels per patch side.
"""
import io
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import PIL.Image
import torch
from IPython import get_ipython
from IPython.display import Image, display
from matplotlib.text import Text
from torch import Tensor

from vqlib import metrics
from vqlib.alt_texts import ALT_TEXTS, PICTURE
from vqlib.backend import paths
from vqlib.backend.paths import home
from vqlib.pictures import code_colours, sheet

plt.rcParams.update({
    "figure.dpi": 100,
    "savefig.dpi": 120,
    "figure.constrained_layout.use": True,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 11,
    "legend.frameon": False,
    "svg.hashsalt": "vqlib",            # else ids in an SVG differ from run to run
})

# format of a figure -> what makes its bytes differ from run to run
UNDATED = {"png": "Software", "pdf": "CreationDate", "svg": "Date"}


def figure_folder(preset: str, data="HAM10000") -> Path:
    """figures/ holds the flagship's of HAM10000, figures/<preset>/ all others. data: its title."""
    committed = preset == "flagship" and data.startswith("HAM10000")
    return home() / "figures" / ("" if committed else preset)


def save(fig, workspace, name: str, source="") -> None:
    """Write figures/<preset>/<name>.png with the data's name on it, and show it in a notebook.

    source: of what is shown, if it is not the workspace's data, such as a study's setup. The same
    inputs give the same bytes. `$VQLIB_FIGURES`, pdf or svg, writes papers' formats instead; raises
    ValueError for others.
    """
    suffix = os.environ.get("VQLIB_FIGURES") or "png"
    if suffix not in UNDATED:
        raise ValueError(f"VQLIB_FIGURES={suffix}: figures are written as {', '.join(UNDATED)}")
    fig.text(1, -0.005, source or workspace.source, ha="right", va="top", fontsize=9, color="0.4")
    show_dollars(fig)
    folder = figure_folder(workspace.preset.name, workspace.dataset.title)
    path = folder / f"{name}.{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    fig.savefig(path, metadata={UNDATED[suffix]: None}, bbox_inches="tight")
    if get_ipython():
        # as PNG, photographs would take a notebook past 1 MB
        jpeg = io.BytesIO()
        fig.savefig(jpeg, format="jpeg", dpi="figure", bbox_inches="tight",
                    pil_kwargs={"quality": 80})
        show_jpeg(jpeg, name)
    plt.close(fig)


def show_committed(name: str) -> None:
    """Show a figure that ships, where a notebook has no photographs to draw it from."""
    path = paths.CHECKOUT / "figures" / f"{name}.png"
    print(f"without the photographs that the weights learnt from (VQLIB_DATA=folder) here is "
          f"{path.parent.name}/{path.name}, drawn on HAM10000")
    if path.exists() and get_ipython():
        jpeg = io.BytesIO()
        PIL.Image.open(path).convert("RGB").save(jpeg, "JPEG", quality=80)
        show_jpeg(jpeg, name, width=800)


def show_jpeg(jpeg: io.BytesIO, name: str, **size) -> None:
    """Show a figure in a notebook, with its alt text."""
    display(Image(jpeg.getvalue(), format="jpeg", alt=ALT_TEXTS.get(name, PICTURE), **size))


def show_images(ax, images: Tensor, per_row=8, title=""):        # (n, 3, H, W) in [0, 1]
    """Images in reading order, white lines of two pixels between them."""
    ax.imshow(sheet(images, per_row).movedim(0, -1).numpy(), interpolation="nearest")
    ax.set_axis_off()
    ax.set_title(title)
    return ax


def show_dollars(fig) -> None:
    """Show a $ in the name of a class or folder as it is: to matplotlib it begins a formula.

    The numbers on log axes are formulas, and remain so.
    """
    axes = [axis for ax in fig.axes for axis in (ax.xaxis, ax.yaxis)]
    formulas = [label for axis in axes if axis.get_scale() == "log"
                for label in axis.get_ticklabels(which="both")]
    for text in set(fig.findobj(Text)).difference(formulas):
        text.set_parse_math(False)


def curve(ax, log: list[dict], key: str, label="", smooth=1, **style):
    """One value of a JSONL log against updates, as the mean of the last `smooth` lines.

    The first lines have fewer before them, so a curve begins where the log does.
    """
    points = [(line["step"], line[key]) for line in log if key in line]
    steps, values = np.array(points).T
    values = [values[max(0, end - smooth) : end].mean() for end in range(1, len(values) + 1)]
    ax.plot(steps, values, label=label or key, **style)
    ax.set_xlabel("updates")
    return ax


def scatter_codes(ax, points: np.ndarray, counts: np.ndarray, colours: np.ndarray, title=""):
    """A dot per code: area by use, colour as decoded; codes never picked are grey crosses.

    points: (K, 2); counts: (K,) picks; colours: (K, 3) in [0, 1].
    """
    used = counts > 0
    area = 8 + 20 * len(counts) * counts[used] / counts.sum()    # 28 if all are used equally
    ax.scatter(*points[used].T, s=area, c=colours[used], edgecolors="k", linewidths=0.3)
    ax.scatter(*points[~used].T, s=18, c="0.6", marker="x", linewidths=0.8)
    ax.set_xticks([])
    ax.set_yticks([])
    ax.set_title(title)
    return ax


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
    show_images(axs[0], x, title=f"{dataset.names[row]} ({dataset.label_names[row]})")
    show_images(axs[1], x_hat, title=f"from {codes[0].numel()} codes: {decibels:.1f} dB")
    show_images(axs[2], 4 * (x_hat - x).abs(), title="error x 4")
    show_codes(axs[3], codes[0], vqvae.cfg.n_codes, title="codes")
    return fig


def code_patches(vqvae) -> Tensor:                               # -> (K, 3, p, p)
    """What each code paints: the centre cell of a 5 x 5 grid filled with that code, decoded."""
    K, p = vqvae.cfg.n_codes, 2**vqvae.cfg.n_down
    codes = torch.arange(K, device=vqvae.mean.device)[:, None, None].expand(K, 5, 5)
    images = torch.cat([vqvae.decode(some) for some in codes.split(128)])       # (K, 3, 5p, 5p)
    centre = slice(2 * p, 3 * p)
    return images[..., centre, centre]
