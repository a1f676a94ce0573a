# %% [markdown]
# # 3. What does a code mean?
#
# **Reads** `vqvae.safetensors` and `baseline.safetensors` (notebook 2). **Writes** `03.json`,
# `03_umap.csv` (the coordinates) and `figures/<preset>/03_*.png`. **Takes** two minutes.
#
# You will see the codebook from four sides: what each code paints, which codes lie close together,
# how often each is used, and which diagnosis uses it more than others do.
#
# Numbers in the text are of the weights that ship, on HAM10000. Yours differ with preset and data:
# a table near the end has both.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown
from umap import UMAP

from vqlib import explorers, plots
from vqlib.checkpoint import load_model
from vqlib.exercises import check
from vqlib.metrics import psnr
from vqlib.pipeline import Pipeline
from vqlib.records import expected
from vqlib.train import encode_dataset
from vqlib.workspace import footer, open_workspace, save_results

# %% tags=["parameters"]
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SEED = 0
SPLIT = "validation"

# %%
ws = open_workspace(PRESET, DATA)
dataset = ws.dataset
print(ws)
vqvae, _ = load_model(ws.folder / "vqvae.safetensors", "vqvae", made_by="notebook 02")
baseline, _ = load_model(ws.folder / "baseline.safetensors", "vqvae", made_by="notebook 02")

# %% [markdown]
# These lines say which data, preset and weights this run uses.
#
# ## Does the place of a code matter, or only which codes there are?
#
# If an image were a bag of codes, shuffling its grid would change little. Predict what you will
# see.

# %%
some = np.random.default_rng(SEED).permutation(dataset.splits[SPLIT])
x = dataset[some[:8]]                                               # (8, 3, H, W)
codes = vqvae.encode(x)                                             # (8, h, w)
shuffle = torch.randperm(codes[0].numel(), generator=torch.Generator().manual_seed(SEED))
shuffled = codes.flatten(1)[:, shuffle].view_as(codes)
x_hat, x_shuffled = vqvae.decode(codes), vqvae.decode(shuffled)
in_order, out_of_order = (psnr(images, x).mean() for images in (x_hat, x_shuffled))
print(f"PSNR in order {in_order:.1f} dB, shuffled {out_of_order:.1f} dB")

# %%
fig, ax = plt.subplots(figsize=(8, 3.4))
plots.show_images(ax, torch.cat([x, x_hat, x_shuffled]),
                  title="Rows: original, from its codes, from the same codes in random order")
plots.save(fig, ws, "03_shuffled")

# %% [markdown]
# In order the codes give 35.7 dB, shuffled 18.2 dB: the palette survives, the lesion does not. A
# prior that gets the *frequencies* of codes right but not their places paints exactly this. Keep
# the third row in mind for notebook 5.
#
# ## What does each code paint?
#
# A code has no picture of its own: the decoder looks at its neighbours as well. The fairest
# portrait is the centre of a 5 x 5 patch made of that code alone.

# %%
patches = plots.code_patches(vqvae)                       # (K, 3, f, f)
colours = patches.mean((2, 3))                            # (K, 3)
K = vqvae.cfg.n_codes
held_out, _ = encode_dataset(vqvae, dataset, SPLIT)       # (m, 1, T)
counts = torch.bincount(held_out.flatten().long(), minlength=K)
fig, ax = plt.subplots(figsize=(8, 4.2))
plots.show_images(ax, patches[colours.mean(1).argsort()], per_row=32,
                  title=f"What each of {K} codes paints, from dark to light")
plots.save(fig, ws, "03_patches")
print(f"{(counts > 0).sum()} of {K} codes are picked by held-out images")

# %% [markdown]
# All 512 codes are picked. Repeated over a patch each paints a plain colour, from the dark of a
# lesion to the light of skin. Such a portrait cannot show edges; exercise 3.1 measures what codes
# know of them.
#
# ## Which codes are neighbours?
#
# Two maps of the code vectors. PCA keeps the directions of largest variance: distances are true,
# but only in that plane. UMAP keeps *who is whose neighbour* and bends everything else. Area: how
# often held-out lesions pick a code; colour: what it paints; a grey cross: never picked.

# %%
vectors = vqvae.quantizer.codebook.numpy()                # (K, D)
neighbours = min(15, K - 1)
umap = UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=SEED, n_jobs=1)
layout = umap.fit_transform(vectors)
centred = vectors - vectors.mean(0)
_, sizes, directions = np.linalg.svd(centred, full_matrices=False)
plane = centred @ directions[:2].T                        # (K, 2)
explained = (sizes[:2] ** 2).sum() / (sizes**2).sum()
print(f"two principal axes hold {explained:.0%} of the variance of {vectors.shape[1]} dimensions")

# %%
fig, axs = plt.subplots(1, 2, figsize=(9, 4.4))
plots.scatter_codes(axs[0], layout, counts.numpy(), colours.numpy(),
                    f"UMAP, {neighbours} neighbours, seed {SEED}")
plots.scatter_codes(axs[1], plane, counts.numpy(), colours.numpy(),
                    f"PCA, {explained:.0%} of the variance")
plots.save(fig, ws, "03_umap")
np.savetxt(ws.folder / "03_umap.csv", layout, "%.5f", ",", header="umap_1,umap_2", comments="")

# %% [markdown]
# The codebook is a palette: two axes hold 95 % of the variance of 128 dimensions, and the painted
# colour changes smoothly across both maps, from light to dark one way and from bluish grey to red
# the other.
#
# ## What UMAP cannot say
#
# The size of a cluster, the gap between two and their order mean nothing: another seed moves them.
# And an island need not be a discovery. In the report's UMAP the island was the codes in use, and
# the large blob dead codes, near to each other only because no data had ever moved them. Below is
# that case: the baseline's codebook.

# %%
baseline_codes, _ = encode_dataset(baseline, dataset, SPLIT)
baseline_counts = torch.bincount(baseline_codes.flatten().long(), minlength=K)
baseline_layout = umap.fit_transform(baseline.quantizer.codebook.numpy())
baseline_colours = plots.code_patches(baseline).mean((2, 3))
used, baseline_used = int((counts > 0).sum()), int((baseline_counts > 0).sum())
fig, axs = plt.subplots(1, 2, figsize=(9, 4))
plots.scatter_codes(axs[0], layout, counts.numpy(), colours.numpy(),
                    f"this VQ-VAE: {used} of {K} codes in use")
plots.scatter_codes(axs[1], baseline_layout, baseline_counts.numpy(), baseline_colours.numpy(),
                    f"baseline: {baseline_used} of {K} codes in use")
plots.save(fig, ws, "03_umap_baseline")
print(f"{K - baseline_used} codes of the baseline are never picked")

# %% [markdown]
# The big cloud of crosses is 496 codes that no image picks, still where the random start put them.
# They say nothing about skin, however much they look like structure. Of the 16 codes in use most
# form two islands and two lie inside the cloud: not even a place in a UMAP tells use.
#
# ## How far apart are codes, in units that mean something?
#
# A distance in code space matters only through the picture. Replace every code of an image by its
# nearest other code, and measure.

# %%
codebook = vqvae.quantizer.codebook                       # (K, D)
neighbour = torch.cdist(codebook, codebook).fill_diagonal_(torch.inf).argmin(1)
any_other = torch.randperm(K, generator=torch.Generator().manual_seed(SEED))
for name, swap in (("its nearest neighbour", neighbour), ("any other", any_other)):
    swapped = psnr(vqvae.decode(swap[codes]), x).mean()
    print(f"each code replaced by {name}: {swapped:.1f} dB, {in_order - swapped:.1f} dB less")
print(f"unchanged: {in_order:.1f} dB")

# %% [markdown]
# The nearest other code costs 3.8 dB, any other 21.4 dB. What is near in code space looks alike, so
# a prior may confuse neighbours at little cost.
#
# ## Do diagnoses use different codes?
#
# Lift: how much more often a class picks a code than all images do; 1 means no preference. Counted
# over the training split, because rare classes need the numbers. A code with fewer than 20 picks in
# a class is left grey, so that one odd image cannot make a favourite.

# %%
train_codes, labels = encode_dataset(vqvae, dataset, "train")
by_class = torch.stack([torch.bincount(train_codes[labels == k].flatten().long(), minlength=K)
                        for k in range(len(dataset.classes))]).double()            # (classes, K)
share = by_class / by_class.sum(1, keepdim=True).clamp_min(1)
share_of_all = (by_class.sum(0) / by_class.sum()).clamp_min(1e-9)                  # (K,)
lift = torch.where(by_class >= 20, share / share_of_all, torch.nan)
top = lift.nan_to_num(0).topk(12, dim=1)
for k, (name, values, codes_of) in enumerate(zip(dataset.classes, *top)):
    owned = by_class[k, codes_of[0]] / by_class[:, codes_of[0]].sum()
    print(f"{name:20s} largest lifts " + " ".join(f"{v:.1f}" for v in values[:6])
          + f"; {owned:.0%} of the first one's picks")

# %%
rows = len(dataset.classes)
fig, axs = plt.subplots(2, 1, figsize=(8, 2.4 + 0.9 * rows), height_ratios=(0.35, 0.65))
axs[0].set_facecolor("0.85")
picture = axs[0].imshow(lift[:, colours.mean(1).argsort()].log2(), aspect="auto",
                        cmap="RdBu_r", vmin=-2, vmax=2, interpolation="nearest")
axs[0].set_yticks(range(rows), dataset.classes)
axs[0].set(xlabel="codes, from dark to light", title="log2 of the lift: red, more than all images")
fig.colorbar(picture, ax=axs[0])
plots.show_images(axs[1], patches[top.indices.flatten()], per_row=12,
                  title="Each row: what the 12 codes of a class's largest lift paint")
axs[1].set_axis_on()
axs[1].set_xticks([])
axs[1].set_yticks((np.arange(rows) + 0.5) * (patches.shape[-1] + 2), dataset.classes)
plots.save(fig, ws, "03_classes")

# %% [markdown]
# Diagnoses differ in their codes: `mel` picks the darkest and the very lightest, `vasc` a crimson
# up to 33.1 times as often as everyone. On HAM10000 `nv` never exceeds 1.5, because two thirds of
# "everyone" are naevi. Still, codes are shared: of that crimson's picks 45 % are by `vasc`, and
# only naevi, being so many, own a code nearly (97 %). So a diagnosis is mostly in the arrangement,
# which is the prior's business.
#
# ## Try it
#
# Point at a dot, or draw a line around some: their patches, the diagnoses that use them, and the
# images that consist of them most. Counted over 96 held-out images.

# %%
explorers.show(explorers.Codebook(Pipeline(vqvae, dataset.geometry), dataset[some[:96]],
                                  dataset.labels[some[:96]], dataset.classes, {"UMAP": layout}))

# %% [markdown]
# ## What we learned
#
# - A code is mostly a colour; the lesion is in the arrangement.
# - Read a code by what it paints, by who uses it and by its neighbours, never by its place in a
#   UMAP alone.
# - A codebook with dead codes makes islands that mean nothing.

# %%
largest_lift = {name: float(values[0]) for name, values in zip(dataset.classes, top.values)}
rows = {"codes in use": f"{used} of {K}",
        "codes in use, baseline": f"{baseline_used} of {K}",
        "variance on two principal axes": f"{explained:.0%}",
        "PSNR of 8 images, codes in order": f"{in_order:.1f} dB",
        "PSNR of 8 images, codes shuffled": f"{out_of_order:.1f} dB"}
save_results(ws, "03", f"{used}/{K} codes in use, {baseline_used}/{K} in the baseline",
             codes_used=used, explained_by_two_axes=float(explained), largest_lift=largest_lift,
             rows=rows)
print(footer(ws, SEED))

# %% [markdown]
# This run, beside three that are kept (validation split); compare yours with the one of its preset
# and data:

# %%
Markdown(expected("03", rows))

# %% [markdown]
# ## Exercises
#
# **3.1** Turn the grid of codes by half a turn and decode it. Against the turned photograph, will
# the PSNR be as good as in order ("in order"), as bad as shuffled ("shuffled"), or in between?
#
# <details><summary>Solution</summary>In between. Colours land in the right places, so it is better
# than shuffled. But a code also says a little of how its patch looks inside, and turning the grid
# does not turn the patches.</details>

# %% tags=["exercise"]
ANSWER = None                                # "in order", "shuffled" or "in between"
turned = psnr(vqvae.decode(codes.rot90(2, (1, 2))), x.rot90(2, (2, 3))).mean()
measured = f"in order {in_order:.1f} dB, turned {turned:.1f} dB, shuffled {out_of_order:.1f} dB"
check("3.1", ANSWER, lambda answer: answer == "in between" and out_of_order < turned < in_order,
      why="colours are in place, the insides of patches are not turned",
      hint="compare with both numbers", measured=measured)

# %% [markdown]
# **3.2** Replace a tenth of the cells by any other code. Are fewer dB lost than a tenth of those
# lost when all are replaced, a tenth, or more?
#
# <details><summary>Solution</summary>More. PSNR is logarithmic: the first errors in a clean image
# cost most, and once an image is full of errors, more of them hardly count.</details>

# %% tags=["exercise"]
ANSWER = None                                # "fewer", "a tenth" or "more"
SHARE = 0.1                                  # try others
hit = torch.rand(codes.shape, generator=torch.Generator().manual_seed(SEED)) < SHARE
some_lost = in_order - psnr(vqvae.decode(torch.where(hit, any_other[codes], codes)), x).mean()
all_lost = in_order - psnr(vqvae.decode(any_other[codes]), x).mean()
measured = f"{SHARE:.0%} replaced: {some_lost:.1f} dB lost; all: {all_lost:.1f} dB"
check("3.2", ANSWER, lambda answer: answer == "more" and some_lost > SHARE * all_lost,
      why="decibels count ratios", hint="does the first error count most?", measured=measured)

# %% [markdown]
# **3.3** Draw the UMAP with another seed. What stays: the codes' positions, or who is whose
# neighbour?
#
# <details><summary>Solution</summary>Neighbours. Each seed may turn, mirror and tear the map, but
# far more of a code's ten nearest codes stay near it than by chance. So only closeness may be read
# from a UMAP.</details>

# %% tags=["exercise"]
ANSWER = None                                # "positions" or "neighbours"
again = UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=SEED + 1, n_jobs=1)
maps = [torch.tensor(points) for points in (layout, again.fit_transform(vectors))]    # (K, 2)
near = [torch.cdist(points, points).topk(11, largest=False).indices[:, 1:] for points in maps]
kept = (near[0][:, :, None] == near[1][:, None]).any(2).float().mean()
moved = (maps[0] - maps[1]).norm(dim=1).mean() / maps[0].std()
measured = (f"{kept:.0%} of the ten nearest codes are kept, by chance {10 / (K - 1):.0%}; "
            f"codes move by {moved:.1f} times the map's spread")
check("3.3", ANSWER, lambda answer: answer == "neighbours" and kept > 30 / (K - 1),
      why="UMAP is made to keep neighbours, and nothing else",
      hint="how much would be kept by chance?", measured=measured)
