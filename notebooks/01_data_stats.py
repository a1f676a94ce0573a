# %% [markdown]
# # 1. What is in the data, and what would fool us?
#
# **Reads** a data set: HAM10000, ISIC, MedMNIST, class folders, or the built-in synthetic lesions
# (`data/README.md`). **Writes** the decoded cache, `01.json` (channel statistics) and
# `figures/<preset>/01_*.png`. **Takes** half a minute on two cores.
#
# You will count the data by image *and* by lesion, see what a random split would leak, and take the
# mean, spread and variance that the next notebook divides by.
#
# Numbers in the text are of HAM10000 under `flagship`. Yours differ with preset and data: a table
# near the end has both.

# %% [markdown]
# ## Why five notebooks: the faults of a course report
#
# A [course report](https://github.com/KhadgaA/VQ-VAE) trained a VQ-VAE on dermoscopy and a
# transformer on its codes. It drew textures without lesions, at "a PSNR of 12.7". Each row below is
# one reason: how we know, what mends it, what adding the fix to those above it changed in equal
# trainings (where measured: HAM10000, validation split, three seeds), and which notebook shows it.
# Bold: the measure got worse. Words that may be new are explained at the end of this notebook.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown

from vqlib import explorers, plots
from vqlib.data.augment import augment, centre_crop, to_unit
from vqlib.data.dataset import SPLITS, assert_disjoint, split_of, statistics
from vqlib.data.records import listing
from vqlib.exercises import check, near
from vqlib.metrics import REPORT_MEAN, REPORT_STD
from vqlib.records import expected
from vqlib.studies import faults
from vqlib.workspace import footer, open_workspace, save_results

# %%
Markdown(faults.table())

# %% [markdown]
# Two fixes bring most of the VQ-VAE's gain: starting the codes on encoder outputs, and moving codes
# that no image picks. Two made the measure worse where they were added: the right variance, while
# few codes were in use, and a learning rate that falls along a cosine, in 900 updates.

# %% tags=["parameters"]
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SEED = 0

# %%
ws = open_workspace(PRESET, DATA)
dataset = ws.dataset
print(ws)

# %% [markdown]
# These lines say which images, splits and preset this run uses.
#
# ## What was left out?
#
# Every image is decoded once, in full: a truncated JPEG opens without complaint and fails at its
# last row. What cannot be used (damaged files, masks, thumbnails, second copies) is counted by
# reason here and listed in full in `skipped.csv` beside the weights. Nothing is replaced by a
# neighbour.

# %%
print(f"{len(dataset)} images used, {len(dataset.skipped)} skipped")
for line in listing(dataset.skipped, names=5):
    print(f"  {line}")

# %% [markdown]
# All 9,025 images of HAM10000 used here can be read.
#
# ## How many lesions are there?
#
# Many lesions are photographed more than once. Predict: if you shuffle images into train and test,
# what share of the test images shows a lesion that is also in train?

# %%
of_lesion = dict(zip(dataset.lesions, dataset.label_names))
by_lesion = list(of_lesion.values())
counts = {name: (dataset.label_names.count(name), by_lesion.count(name))
          for name in dataset.classes}
for name, (images, lesions) in counts.items():
    print(f"{name:20s} {images:6d} images  {lesions:6d} lesions")
largest = max(counts, key=lambda name: counts[name][0])
print(f"{counts[largest][0] / len(dataset):.0%} of the images are of class {largest}")

# %%
fig, ax = plt.subplots(figsize=(8, 3))
names, (images, lesions) = list(counts), np.array(list(counts.values())).T
place = np.arange(len(names))
ax.bar(place - 0.2, images, 0.4, label="images", color="0.35")
ax.bar(place + 0.2, lesions, 0.4, label="lesions", color="0.75")
ax.set_xticks(place, names, rotation=30 if len(names) > 7 else 0)
ax.set(ylabel="count", title="Images and lesions of each class")
ax.legend()
plots.save(fig, ws, "01_classes")

# %% [markdown]
# Classes differ by a factor of sixty, and naevi (`nv`) make up 67 % of HAM10000. An average over
# images is mostly an average over naevi, so later notebooks give metrics per class, too.

# %%
shuffled = np.random.default_rng(SEED).permutation(len(dataset))


def leak_of(train_share):
    cut = int(train_share * len(dataset))
    in_train = {dataset.lesions[i] for i in shuffled[:cut]}
    return np.mean([dataset.lesions[i] in in_train for i in shuffled[cut:]])


leak = leak_of(0.8)
print(f"random 80/20 split by image: {leak:.1%} of the test images show a lesion "
      "that is also in train")

# %% [markdown]
# On HAM10000 it is 40.2 %. A score on such a test set rewards memory.
#
# ## A split that cannot leak
#
# A hash of its lesion id decides on which side an image is: 80 / 10 / 10, the same on every
# machine. Lesions joined by near-duplicate images stay together. An added image moves no other one,
# except lesions that it is a near-duplicate of. Disjointness is asserted whenever data is opened;
# the second cell plants a leak to see that the assertion bites.

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
# The shares are near 80 / 10 / 10 without being forced to it, and the planted lesion is named.
#
# ## What do the classes look like?
#
# Eight lesions of each class, one image each, drawn with a seed. Look for what is *not* the lesion.

# %%
first_images = np.unique(dataset.lesions, return_index=True)[1]       # one of each lesion
np.random.default_rng(SEED).shuffle(first_images)
fig, axs = plt.subplots(len(dataset.classes), 1, squeeze=False,
                        figsize=(7, 0.95 * len(dataset.classes)))
for k, (ax, name) in enumerate(zip(axs.flat, dataset.classes)):
    rows = first_images[dataset.labels[first_images] == k][:8]
    plots.show_images(ax, dataset[rows])
    ax.set_title(name, loc="left", fontsize=10)
plots.save(fig, ws, "01_samples")

# %% [markdown]
# Hairs and a dark frame are in these pictures, gel bubbles and ink in others. They belong to the
# data as much as lesions do, and a model that learns the data is asked to draw them, too.
#
# ## Augmentation, on whole batches
#
# A batch of tensors is flipped and turned at once, not image by image: under `quick` and `report` a
# flip with probability 0.4 and up to 10 degrees (the report's choice), under `flagship` the eight
# flips and quarter turns, which are exact.

# %%
squares = dataset.squares(dataset.splits["train"][:8])
draws = [to_unit(centre_crop(squares, dataset.geometry.crop))]         # in [0, 1]
for k in range(4):
    rng = torch.Generator().manual_seed(SEED + k)
    draws.append(augment(squares, ws.preset.augment, dataset.geometry.crop, rng))

# %%
fig, ax = plt.subplots(figsize=(8, 5.3))
plots.show_images(ax, torch.cat(draws), title="First row: as stored. Below: four random draws")
plots.save(fig, ws, "01_augmentation")

# %% [markdown]
# Flips and quarter turns move pixels and change none. (Under `quick`, whose turns are up to 10
# degrees, corners that have no pixels are filled with mirrored ones, not with black.)
#
# ## One number for the loss: the data variance
#
# A reconstruction error means little until it is divided by the variance of what is reconstructed:
# then the mean image scores 1. For channel means $\mu_c$ and standard deviations $\sigma_c$ the
# variance of all values has two parts. Which is larger on skin?
#
# $$\mathrm{Var}(x) \;=\; \underbrace{\tfrac13 \textstyle\sum_c \sigma_c^2}_{\text{within channels}}
#   \;+\; \underbrace{\tfrac13 \textstyle\sum_c (\mu_c - \bar\mu)^2}_{\text{between channels}}$$

# %%
stats = statistics(dataset, "train")
mean, std = np.array(stats["mean"]), np.array(stats["std"])
within, between = (std**2).mean(), mean.var()
print("mean", mean.round(4), " std", std.round(4))
print(f"within {within:.4f} + between {between:.4f} = {within + between:.4f}; "
      f"measured {stats['variance']:.4f}")
assert abs(within + between - stats["variance"]) < 1e-6
report_mean, report_std = np.array(REPORT_MEAN), np.array(REPORT_STD)
within, between = (report_std**2).mean(), report_mean.var()
print(f"the report: {within:.4f} + {between:.4f} = {within + between:.4f}, "
      f"mean red {report_mean[0]:.2f}")

# %% [markdown]
# The part within channels is larger. The report's 0.0487 follows from its own means and standard
# deviations, so it is the variance of pixels in [0, 1]. Its network, however, is trained on
# *normalised* pixels, whose variance is 1: its reconstruction term weighs 20 times too much.
#
# Its mean red of 0.66, against 0.76 here, suggests what it looked at: a raw centre crop of 128 px
# is the inside of a lesion. What was never in the data cannot be drawn.

# %%
n_shown = min(512, len(dataset.splits["train"]))
some = np.random.default_rng(SEED).choice(dataset.splits["train"], n_shown, replace=False)
x = dataset[some]                                                   # (512, 3, H, W)
mean_c, std_c = (torch.tensor(v).float().view(3, 1, 1) for v in (mean, std))
normalised = (x - mean_c) / std_c
print(f"variance of normalised pixels of {len(x)} images: {normalised.var():.3f}")
fig, axs = plt.subplots(1, 2, figsize=(8, 2.8))
for c, colour in enumerate(("tab:red", "tab:green", "tab:blue")):
    for ax, values in zip(axs, (x, normalised)):
        ax.hist(values[:, c].flatten()[::97], 60, color=colour, histtype="step")
axs[0].set(xlabel="pixel value in [0, 1]", ylabel="pixels", title="Each channel, as stored")
axs[1].set(xlabel="standard deviations from the mean", ylabel="pixels", title="Normalised")
plots.save(fig, ws, "01_channels")

# %% [markdown]
# Normalised channels have one mean and one spread, not one shape: red has the longest tail. The
# variance of all is near 1 (1.012 on these 512 images).
#
# ## Try it
#
# Choose a class, a split and an augmentation. Choose an image to see what is known of it, and which
# images look almost the same.

# %%
explorers.show(explorers.Data(dataset, ws.preset.augment))

# %% [markdown]
# ## What we learned
#
# - Count lesions, not images, and split by lesion: a random split of HAM10000 leaks.
# - One class has two thirds of the images, so metrics are given per class.
# - Each channel is normalised by its own mean and spread, and denormalised by the same.
# - Divide an error by the variance of exactly what it is an error of.

# %%
rows = {"images": f"{len(dataset):,}", "lesions": f"{len(of_lesion):,}",
        "test images of a random split whose lesion is in train": f"{leak:.0%}",
        "share of the largest class": f"{counts[largest][0] / len(dataset):.0%}",
        "variance of pixels in [0, 1]": f"{stats['variance']:.4f}"}
save_results(ws, "01", f"{leak:.0%} of a random test split would leak", **stats, leak=leak,
             skipped=len(dataset.skipped), counts=counts,
             rows=rows)
print(footer(ws, SEED))

# %% [markdown]
# This run, beside three that are kept; compare yours with the one of its preset and data:

# %%
Markdown(expected("01", rows))

# %% [markdown]
# ## Exercises
#
# Change one thing, predict, run, explain. Put your answer in place of `None`; the last line of a
# cell says whether it is right.
#
# **1.1** A smaller training share: does a random 50/50 split leak more than 80/20, less, or as
# much?
#
# <details><summary>Solution</summary>Less. With fewer images in train it is less likely that
# another photograph of a test image's lesion is among them. Leaking less is not the same as not
# leaking: the cure is to split by lesion.</details>

# %% tags=["exercise"]
ANSWER = None                                # "more", "less" or "as much"
TRAIN_SHARE = 0.5                            # try others
measured = f"{TRAIN_SHARE:.0%} in train: {leak_of(TRAIN_SHARE):.1%} leak; 80%: {leak:.1%}"
check("1.1", ANSWER, lambda answer: answer == "less",
      why="fewer images in train hold fewer sisters of a test image",
      hint="how likely is it that a second photograph of the lesion is in train?",
      measured=measured)

# %% [markdown]
# **1.2** The report undid the normalisation of all channels with *red's* mean and standard
# deviation. Do so with the statistics of the data above: how many levels of 255 is average green
# too bright?
#
# <details><summary>Solution</summary>A pixel of average green is 0 once it is normalised, and red's
# statistics turn 0 into red's mean. The difference of the means, times 255, is the answer. Blue is
# too bright as well, so average skin loses its red and turns grey.</details>

# %% tags=["exercise"]
ANSWER = None                                # levels of 255
green_as_shown = 0 * std[0] + mean[0]        # red's statistics on a normalised 0
check("1.2", ANSWER, near(255 * (green_as_shown - mean[1]), within=2),
      why="normalised average green is 0, and red's mean comes back",
      hint="what is the normalised value of a pixel of average green?")

# %% [markdown]
# **1.3** What share of the area of a 600 x 450 file does a centre crop of 128 px show, in percent,
# if the file is not scaled? And if its shorter side is first scaled to 128 px? Answer with the
# second minus the first.
#
# <details><summary>Solution</summary>128 x 128 of 600 x 450 pixels are 6.1 %. Scaled to 171 x 128,
# the crop shows 128 of 171 columns: 75 %. The difference is 69 points: the border of the lesion and
# the skin around it.</details>

# %% tags=["exercise"]
ANSWER = None                                # percentage points
unscaled, scaled = 128**2 / (600 * 450), 128 / (600 * 128 / 450)
check("1.3", ANSWER, near(100 * (scaled - unscaled), within=1.5),
      why="scaling keeps three quarters of the file, the raw crop a sixteenth",
      hint="compute both areas as shares of the whole file")

# %% [markdown]
# ## Glossary
#
# | word | meaning |
# |---|---|
# | letters | n or B images, T codes an image, K codes in all, D their width, h x w the grid |
# | VQ-VAE | a net that turns an image into a grid of *codes* and back |
# | code, codebook | a number 0..K-1; the table of K vectors that it points into |
# | f | pixels per side of a code's cell: f = 8 makes 16 x 16 codes of 128 px |
# | dead code | one that no image picks; a *reset* moves it onto data |
# | collapse | few codes are picked, the others are dead |
# | perplexity | codes effectively in use: K if all are used alike, 1 if one is |
# | commitment | the term of the loss that pulls the encoder towards its codes |
# | PSNR, SSIM | decibels of squared error on [0, 1]; similarity of local structure, 1 is equal |
# | prior | a model of which codes follow which; a GPT here |
# | nats per code | -ln of the probability that the prior gave; 1 nat = 1/ln 2 bits |
# | unigram | a prior that knows only how often each code occurs |
# | logits | a net's outputs, which softmax turns into probabilities |
# | temperature | below 1, likely codes are drawn more often than the prior says |
# | top-p | draw only from the likeliest codes that together hold probability p |
# | guidance | a step from "any class" towards a class, taken more than once |
# | flow decoder | a second decoder that adds a draw of the details which codes do not say |
# | segmenter | a rule that finds a lesion's outline by its darkness (`vqlib.evaluation`) |
# | KID-Lite0 | squared distance of two sets of images, features of EfficientNet-Lite0; 0: alike |
# | probe | a linear classifier of the diagnosis on such features |
# | class-conditional recall | how often the probe sees the class that was asked for |
# | AUC | area under a classifier's ROC curve: 0.5 is guessing, 1 is perfect |
# | CAS | AUC of a classifier trained on generated images, over that of one trained on photographs |
