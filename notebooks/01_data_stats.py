# %% [markdown]
# # 1. Look at the data before you model it
#
# Reads a data set: HAM10000, ISIC 2018 or 2019, images with a table, MedMNIST, class folders, or
# the built-in synthetic lesions (`data/README.md`; `python -m vqlib download list`).
# Writes the decoded cache, `01.json` (channel statistics) and `figures/<preset>/01_*.png`.
# Half a minute on two cores.
#
# You will count what is there by image *and* by lesion, see what a random split would leak,
# and take the mean, spread and variance that the next notebook divides by.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch

from vqlib import explorers, plots
from vqlib.data.augment import augment, centre_crop
from vqlib.data.dataset import SPLITS, assert_disjoint, split_of, statistics
from vqlib.data.records import listing
from vqlib.metrics import REPORT_MEAN, REPORT_STD
from vqlib.workspace import footer, open_workspace, save_results

# %%
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SEED = 0

# %%
ws = open_workspace(PRESET, DATA)
dataset = ws.dataset
print(ws)

# %% [markdown]
# ## What was left out?
#
# Every image of the source is decoded once, in full: a truncated JPEG opens without complaint and
# only fails when its last row is read. What cannot be used is counted by reason, masks, thumbnails
# and second copies too, and listed in full in `skipped.csv` beside the weights. Nothing is replaced
# by a neighbour.

# %%
print(f"{len(dataset)} images used, {len(dataset.skipped)} skipped")
for line in listing(dataset.skipped, names=5):
    print(f"  {line}")

# %% [markdown]
# ## How many lesions are there?
#
# HAM10000 photographs many lesions more than once. Before you run the cell: if you shuffle images
# into train and test, what share of the test images do you expect to show a lesion that is also in
# train?

# %%
of_lesion = dict(zip(dataset.lesions, dataset.label_names))
by_lesion = list(of_lesion.values())
counts = {name: (dataset.label_names.count(name), by_lesion.count(name))
          for name in dataset.classes}
for name, (images, lesions) in counts.items():
    print(f"{name:20s} {images:6d} images  {lesions:6d} lesions")

# %%
fig, ax = plt.subplots(figsize=(8, 3))
names, (images, lesions) = list(counts), np.array(list(counts.values())).T
place = np.arange(len(names))
ax.bar(place - 0.2, images, 0.4, label="images", color="0.35")
ax.bar(place + 0.2, lesions, 0.4, label="lesions", color="0.75")
ax.set_xticks(place, names, rotation=30 if len(names) > 7 else 0)
ax.set_ylabel("count")
ax.legend()
plots.save(fig, ws, "01_classes")

# %%
rng = np.random.default_rng(SEED)
shuffled = rng.permutation(len(dataset))
cut = int(0.8 * len(dataset))
in_train = {dataset.lesions[i] for i in shuffled[:cut]}
leak = np.mean([dataset.lesions[i] in in_train for i in shuffled[cut:]])
print(f"random 80/20 split by image: {leak:.1%} of the test images show a lesion "
      "that is also in train")

# %% [markdown]
# On the 9,025 images of HAM10000 used here, **40 %** of the randomly chosen test images show a
# lesion that the model has already seen, often from nearly the same angle. A score on such a test
# set rewards memory. And one class, naevi (nv), makes up two thirds of the images: any average over
# images is mostly an average over naevi, so later notebooks give metrics per class as well.
#
# ## A split that cannot leak
#
# The side of an image is decided by a hash of its lesion id: 80 / 10 / 10, the same on every
# machine. Lesions that are joined by near-duplicate images (difference hash of 256 bits, at most 16
# apart, counted where an image varies) are put on one side too: that of the first lesion id. An
# image that is added or lost moves no other one, with one exception: lesions that it is a
# near-duplicate of. A group of more than 2 % of the images, or shares off by more than 5 points,
# are named in a note above. Disjointness is asserted when the data is opened; the cell plants a
# leak to see that the assertion bites.

# %%
for name in SPLITS:
    rows = dataset.splits[name]
    print(f"{name:10s} {len(rows):5d} images, {len({dataset.lesions[i] for i in rows}):5d} lesions")
print(f"lesion {dataset.lesions[0]} -> {split_of(dataset.lesions[0])}")

# %%
planted = {**dataset.splits, "test": np.append(dataset.splits["test"], dataset.splits["train"][0])}
try:
    assert_disjoint(planted, dataset.lesions)
except ValueError as error:
    print("caught:", error)

# %% [markdown]
# ## What do the classes look like?
#
# Eight lesions of each class, one image of each, drawn with a seed, not picked. Watch for what is
# *not* the lesion: dark corners, hairs, gel bubbles, rulers. A generative model will learn those as
# well.

# %%
first_images = np.unique(dataset.lesions, return_index=True)[1]       # one of each lesion
rng.shuffle(first_images)
fig, axs = plt.subplots(len(dataset.classes), 1, squeeze=False,
                        figsize=(7, 0.95 * len(dataset.classes)))
for k, (ax, name) in enumerate(zip(axs.flat, dataset.classes)):
    rows = first_images[dataset.labels[first_images] == k][:8]
    plots.show_images(ax, dataset[rows])
    ax.set_title(name, loc="left", fontsize=9)
plots.save(fig, ws, "01_samples")

# %% [markdown]
# ## Augmentation, on whole batches
#
# Left-right flip with probability 0.4, rotation by up to 10 degrees, centre crop: the report's
# choices, applied to a batch of tensors at once instead of image by image. First row: as stored.
# Below: four draws of the same eight images. After resizing there is no margin outside the crop, so
# the corners of a rotated image are mirrored, never black. Under `report`, which keeps the raw
# pixels and crops 128 of them, a margin is kept in the cache and the corners are real.

# %%
squares = dataset.squares(dataset.splits["train"][:8])
draws = [centre_crop(squares, dataset.geometry.crop)]
for k in range(4):
    rng = torch.Generator().manual_seed(SEED + k)
    draws.append(augment(squares, ws.preset.augment, dataset.geometry.crop, rng))

# %%
fig, ax = plt.subplots(figsize=(8, 5))
plots.show_images(ax, torch.cat(draws), title="stored, then four random draws")
plots.save(fig, ws, "01_augmentation")

# %% [markdown]
# ## One number for the loss: the data variance
#
# A reconstruction error means nothing until it is divided by the variance of what is reconstructed:
# then the mean image scores 1. For three channels with means $\mu_c$ and standard deviations
# $\sigma_c$, the variance of *all* values together splits exactly into two parts:
#
# $$\mathrm{Var}(x) \;=\; \underbrace{\tfrac13 \textstyle\sum_c \sigma_c^2}_{\text{within channels}}
#   \;+\; \underbrace{\tfrac13 \textstyle\sum_c (\mu_c - \bar\mu)^2}_{\text{between channels}}$$
#
# Which part would you expect to be larger on skin?

# %%
stats = statistics(dataset, "train")
mean, std = np.array(stats["mean"]), np.array(stats["std"])
within, between = (std**2).mean(), mean.var()
print("mean", mean.round(4), " std", std.round(4))
print(f"within {within:.4f} + between {between:.4f} = {within + between:.4f}; "
      f"measured {stats['variance']:.4f}")
assert abs(within + between - stats["variance"]) < 1e-6

# %%
report_mean, report_std = np.array(REPORT_MEAN), np.array(REPORT_STD)
within, between = (report_std**2).mean(), report_mean.var()
print(f"the report: {within:.4f} + {between:.4f} = {within + between:.4f}")

# %% [markdown]
# The report's 0.0487 is reproduced from its own mean and standard deviation, so it is the variance
# of pixels in [0, 1]. But its network is trained on *normalised* pixels, whose variance is 1 by
# construction (there is no between-channel part left, and the within part is divided out). Dividing
# a normalised error by 0.0487 makes the reconstruction term 20 times heavier than intended, and the
# commitment weight of 0.25 acts like 0.012. Here the loss divides by the variance of exactly the
# tensor that it is computed on.
#
# Its mean also tells what it looked at: a red of 0.66 against the 0.76 of whole images. A raw
# centre crop of 128 pixels out of 600 x 450 is 6 % of the picture, the inside of the lesion. What
# was never in the data cannot be drawn.

# %%
x = dataset[dataset.splits["train"][:512]]                          # (512, 3, H, W)
mean_c, std_c = (torch.tensor(v).float().view(3, 1, 1) for v in (mean, std))
normalised = (x - mean_c) / std_c
print(f"variance of normalised pixels: {normalised.var():.3f}")
fig, axs = plt.subplots(1, 2, figsize=(8, 2.6))
for c, colour in enumerate(("tab:red", "tab:green", "tab:blue")):
    axs[0].hist(x[:, c].flatten()[::97], 60, color=colour, histtype="step")
    axs[1].hist(normalised[:, c].flatten()[::97], 60, color=colour, histtype="step")
axs[0].set_xlabel("pixel value in [0, 1]")
axs[1].set_xlabel("normalised per channel")
plots.save(fig, ws, "01_channels")

# %% [markdown]
# ## Try it
#
# Choose a class, a split and an augmentation. Choose an image to see what is known of it, and which
# images look almost the same: the difference hash that keeps near-duplicates on one side.

# %%
explorers.show(explorers.Data(dataset, ws.preset.augment))

# %% [markdown]
# ## What we learned
#
# - Count lesions, not images; split by lesion. A random split of HAM10000 leaks: 40 % of its test
#   images show a lesion known from training.
# - One class has two thirds of the images: report metrics per class.
# - Normalise each channel with its own mean and spread, and denormalise with the same ones.
# - Notebook 2 takes the channel statistics saved here.

# %%
save_results(ws, "01", f"{leak:.0%} of a random test split would leak", **stats, leak=leak,
             skipped=len(dataset.skipped), counts=counts)
print(footer(ws, SEED))
