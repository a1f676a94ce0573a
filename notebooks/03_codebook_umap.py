# %% [markdown]
# # 3. What does a code mean?
#
# Reads `vqvae.safetensors` and `baseline.safetensors` (notebook 2). Writes `03.json`, `03_umap.csv`
# (the coordinates) and `figures/<preset>/03_*.png`. Half a minute.
#
# You will see the codebook from four sides: what each code paints, which codes lie close together,
# how often each is used, and which diagnosis uses it more than others do.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from umap import UMAP

from vqlib import explorers, plots
from vqlib.checkpoint import load_model
from vqlib.metrics import psnr
from vqlib.pipeline import Pipeline
from vqlib.train import encode_dataset
from vqlib.workspace import footer, open_workspace, save_results

# %%
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SPLIT = "validation"
SEED = 0

# %%
ws = open_workspace(PRESET, DATA)
dataset = ws.dataset
print(ws)
vqvae, _ = load_model(ws.folder / "vqvae.safetensors", "vqvae", made_by="notebook 02")
baseline, _ = load_model(ws.folder / "baseline.safetensors", "vqvae", made_by="notebook 02")

# %% [markdown]
# ## Does the place of a code matter, or only which codes there are?
#
# If an image were a bag of codes, shuffling its grid would change little. Predict what you will
# see, then run.

# %%
x = dataset[dataset.splits[SPLIT][:8]]
codes = vqvae.encode(x)                                             # (8, h, w)
shuffle = torch.randperm(codes[0].numel(), generator=torch.Generator().manual_seed(SEED))
shuffled = codes.flatten(1)[:, shuffle].view_as(codes)
x_hat, x_shuffled = vqvae.decode(codes), vqvae.decode(shuffled)
print(f"PSNR in order {psnr(x_hat, x).mean():.1f} dB, shuffled {psnr(x_shuffled, x).mean():.1f} dB")

# %%
fig, ax = plt.subplots(figsize=(8, 3.2))
plots.show_images(ax, torch.cat([x, x_hat, x_shuffled]),
                  title="original, from its codes, from its codes in random order")
plots.save(fig, ws, "03_shuffled")

# %% [markdown]
# The palette survives, the lesion does not. A prior that gets the *frequencies* of codes right but
# not their places paints exactly this: skin-coloured texture. Keep the third row in mind for
# notebook 5.
#
# ## What each code paints
#
# A code has no picture of its own: the decoder looks at its neighbours as well. The fairest
# portrait is the centre of a 5 x 5 patch made of that code alone. Sorted by brightness; each tile
# is one code.

# %%
patches = plots.code_patches(vqvae)                       # (K, 3, f, f)
colours = patches.mean((2, 3))                            # (K, 3)
K = vqvae.cfg.n_codes
held_out, _ = encode_dataset(vqvae, dataset, SPLIT)       # (m, 1, T)
counts = torch.bincount(held_out.flatten().long(), minlength=K)
fig, ax = plt.subplots(figsize=(8, 4.2))
plots.show_images(ax, patches[colours.mean(1).argsort()], per_row=32,
                  title=f"{K} codes, dark to light")
plots.save(fig, ws, "03_patches")

# %% [markdown]
# ## Which codes are neighbours?
#
# Two maps of the same code vectors from D dimensions to 2. PCA keeps the directions of largest
# variance: distances are true, but only in that plane. UMAP keeps *who is whose neighbour* and
# bends everything else. Seeded, one thread: the same versions on the same machine draw the same
# map; the coordinates are saved beside the figure. Area shows how often a code is picked on
# held-out lesions, colour is the colour it decodes to, and a grey cross is a code that is never
# picked.

# %%
vectors = vqvae.quantizer.codebook.numpy()                # (K, D)
neighbours = min(15, K - 1)
umap = UMAP(n_neighbors=neighbours, min_dist=0.1, random_state=SEED, n_jobs=1)
layout = umap.fit_transform(vectors)
centred = vectors - vectors.mean(0)
_, sizes, directions = np.linalg.svd(centred, full_matrices=False)
plane = centred @ directions[:2].T                        # (K, 2)
explained = (sizes[:2] ** 2).sum() / (sizes**2).sum()

# %%
fig, axs = plt.subplots(1, 2, figsize=(11, 5))
plots.scatter_codes(axs[0], layout, counts.numpy(), colours.numpy(),
                    f"UMAP, {neighbours} neighbours, seed {SEED}")
plots.scatter_codes(axs[1], plane, counts.numpy(), colours.numpy(),
                    f"PCA, {explained:.0%} of the variance")
plots.save(fig, ws, "03_umap")
np.savetxt(ws.folder / "03_umap.csv", layout, "%.5f", ",", header="umap_1,umap_2", comments="")

# %% [markdown]
# **What UMAP cannot say.** The size of a cluster, the empty space between two clusters and their
# left-right order mean nothing: another seed moves them. Nothing in the picture says how *often* a
# region is used, which is why the dots carry it. And an island need not be a discovery: in the
# report's UMAP the separate island was the set of codes in use and the large blob were dead codes,
# which had never been moved by data and were near to each other only in that. The next cell draws
# that case from measured numbers: the baseline's codebook with its dead codes.

# %%
baseline_codes, _ = encode_dataset(baseline, dataset, SPLIT)
baseline_counts = torch.bincount(baseline_codes.flatten().long(), minlength=K)
baseline_layout = umap.fit_transform(baseline.quantizer.codebook.numpy())
baseline_colours = plots.code_patches(baseline).mean((2, 3))
fig, axs = plt.subplots(1, 2, figsize=(11, 4.6))
plots.scatter_codes(axs[0], layout, counts.numpy(), colours.numpy(),
                    f"ours: {(counts > 0).sum()} of {K} codes in use")
plots.scatter_codes(axs[1], baseline_layout, baseline_counts.numpy(), baseline_colours.numpy(),
                    f"baseline: {(baseline_counts > 0).sum()} of {K} codes in use")
plots.save(fig, ws, "03_umap_baseline")

# %% [markdown]
# ## How far apart are codes, in units that mean something?
#
# A distance in code space matters only through the picture. Replace every code of an image by its
# nearest other code, and measure: a small loss says that neighbours paint alike, so the prior may
# confuse them at little cost.

# %%
codebook = vqvae.quantizer.codebook                       # (K, D)
neighbour = torch.cdist(codebook, codebook).fill_diagonal_(torch.inf).argmin(1)
any_other = torch.randperm(K, generator=torch.Generator().manual_seed(SEED))
for name, swap in (("its nearest neighbour", neighbour), ("any other", any_other)):
    swapped = vqvae.decode(swap[codes])
    print(f"each code replaced by {name}: {psnr(swapped, x).mean():.1f} dB")
print(f"unchanged: {psnr(x_hat, x).mean():.1f} dB")

# %% [markdown]
# ## Do diagnoses use different codes?
#
# Lift: how much more often a class picks a code than all images do; 1 means no preference. Counted
# over the training split, because rare classes need the numbers; a code with fewer than 20 picks in
# a class is left grey, so that a single odd image cannot make a favourite.

# %%
train_codes, labels = encode_dataset(vqvae, dataset, "train")
by_class = torch.stack([torch.bincount(train_codes[labels == k].flatten().long(), minlength=K)
                        for k in range(len(dataset.classes))]).double()            # (classes, K)
share = by_class / by_class.sum(1, keepdim=True).clamp_min(1)
share_of_all = (by_class.sum(0) / by_class.sum()).clamp_min(1e-9)                  # (K,)
lift = torch.where(by_class >= 20, share / share_of_all, torch.nan)
top = lift.nan_to_num(0).topk(12, dim=1)
for name, values in zip(dataset.classes, top.values):
    print(f"{name:20s} largest lifts " + " ".join(f"{v:.1f}" for v in values[:6]))

# %%
fig, axs = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=(2, 1.2))
axs[0].set_facecolor("0.85")
picture = axs[0].imshow(lift[:, colours.mean(1).argsort()].log2(), aspect="auto",
                        cmap="RdBu_r", vmin=-2, vmax=2, interpolation="nearest")
axs[0].set_yticks(range(len(dataset.classes)), dataset.classes)
axs[0].set(xlabel="codes, dark to light", title="log2 lift (white: as often as everyone)")
fig.colorbar(picture, ax=axs[0])
plots.show_images(axs[1], patches[top.indices.flatten()], per_row=12,
                  title="the 12 codes of largest lift, per class")
plots.save(fig, ws, "03_classes")

# %% [markdown]
# ## Try it
#
# Point at a dot, or draw a line around some: their patches, the diagnoses that use them, and the
# images that consist of them most. Counted over 96 held-out images.

# %%
some = np.random.default_rng(SEED).permutation(dataset.splits[SPLIT])[:96]
explorers.show(explorers.Codebook(Pipeline(vqvae, dataset.geometry), dataset[some],
                                  dataset.labels[some], dataset.classes, {"UMAP": layout}))

# %% [markdown]
# **What we saw** (HAM10000, `flagship`, weights that ship). The codebook is above all a palette:
# two axes hold 94 % of the variance of 128 dimensions, and across the maps the decoded colour
# changes smoothly, from light to dark one way and from bluish grey to red the other. Neighbours
# with unlike colours are rare: what little is left in the third axis separates brown from pink.
# Swapping every code for its nearest neighbour costs 3.6 dB, for any other code 19.6 dB: what is
# near in code space is near on the skin, but no longer the same. Diagnoses do differ in their
# words: `vasc` uses a few crimsons up to 25 times as often as everyone, melanoma (`mel`) the
# darkest codes 3.7 times; `nv` never exceeds 1.4, because two thirds of "everyone" are naevi. Apart
# from those crimsons none of them owns a code: a diagnosis is in the arrangement, which is the
# prior's business.
#
# The baseline's map shows how to misread a UMAP: the big cloud is made of 491 codes that no image
# ever picked, still where the random start put them. The island is all that was learned.
#
# ## What we learned
#
# - Read a code by what it paints, by whom it is used, and by its neighbours; never by its place in
#   a UMAP alone.
# - The order of codes carries the lesion: shuffled, the same codes drop from 35.5 to 17.6 dB.
# - Notebook 4 learns that order.

# %%
used, baseline_used = int((counts > 0).sum()), int((baseline_counts > 0).sum())
largest_lift = {name: float(values[0]) for name, values in zip(dataset.classes, top.values)}
save_results(ws, "03", f"{used}/{K} codes in use, {baseline_used}/{K} in the baseline",
             codes_used=used, explained_by_two_axes=float(explained), largest_lift=largest_lift)
print(footer(ws, SEED))
