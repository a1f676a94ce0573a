# %% [markdown]
# # 2. How much of an image survives as 256 codes?
#
# **Reads** the data and `01.json` (notebook 1). **Writes** `vqvae.safetensors`,
# `baseline.safetensors`, `flow-decoder.safetensors`, `02.json`, `figures/<preset>/02_*.png`.
# **Takes** five minutes under `quick` on one core, two with weights that ship.
#
# You will train a VQ-VAE twice, with the report's codebook settings and with ours, find out why the
# report's codebook collapsed, and measure on held-out lesions what codes keep and lose.
#
# Numbers in the text are of the weights that ship, on HAM10000. Yours differ with preset and data:
# a table near the end has both.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown

from vqlib import explorers, metrics, plots
from vqlib.checkpoint import save_model
from vqlib.exercises import check, near
from vqlib.flow_decoder import FlowDecoder
from vqlib.pipeline import Pipeline
from vqlib.progress import watch
from vqlib.quantizer import as_rows, nearest
from vqlib.records import expected
from vqlib.studies import principal_axes, results
from vqlib.train import read_log, train_flow_decoder, train_vqvae
from vqlib.vqvae import VQVAE
from vqlib.workspace import footer, load_results, open_workspace, save_results

# %% tags=["parameters"]
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SEED = 0
SPLIT = "validation"

# %%
ws = open_workspace(PRESET, DATA)
preset, dataset, stats = ws.preset, ws.dataset, load_results(ws, "01")
print(ws)

# %% [markdown]
# These lines say which data and preset this run uses, and which weights are not trained here
# because they ship.
#
# ## The idea: nine bits for a patch
#
# An encoder turns each $f \times f$ patch into a vector $z$ of width $D$. The quantizer replaces
# $z$ by the nearest of $K$ code vectors $e_k$; a decoder paints the image from those. All that is
# kept of a patch is one number $k$, $\log_2 512 = 9$ bits.
#
# $$k = \arg\min_j \lVert z - e_j \rVert^2, \qquad
#   \mathcal L = \underbrace{\lVert x - \hat x \rVert^2 / \sigma^2}_{\text{reconstruction}}
#   + \beta \underbrace{\lVert z - \mathrm{sg}[e_k] \rVert^2}_{\text{commitment}}$$
#
# The gradient passes the quantizer as if it were not there. Each code vector follows the mean of
# the vectors that chose it, by exponential moving averages (`vqlib/quantizer.py`).

# %%
cfg, training = preset.vqvae, replace(preset.vqvae_training, seed=SEED)
values = 3 * cfg.image_size**2
bits = cfg.grid**2 * np.log2(cfg.n_codes)
print(f"{cfg.image_size} px, {cfg.n_down} halvings: "
      f"{cfg.grid} x {cfg.grid} = {cfg.grid**2} codes of {cfg.n_codes}")
print(f"{values} colour values of 8 bits -> {bits:.0f} bits, 1/{8 * values / bits:.0f} of them")

# %% [markdown]
# Under `flagship` an image keeps 2304 bits, 1/171 of what its pixels have. (Under `quick`, whose
# images are half as wide, 1/43.) The question of this notebook is what that costs.
#
# ## Two cheap checks before spending minutes
#
# The mean image must score 1 by the loss's own measure, or the loss has the wrong scale. And the
# quantizer's shortcut, $\lVert e \rVert^2/2 - z \cdot e$ instead of the whole distance ($\lVert z
# \rVert^2$ is the same for all codes), must choose the same codes as brute force.

# %%
model = VQVAE(cfg, stats["mean"], stats["std"], SEED).to(ws.device)
some = np.random.default_rng(SEED).choice(dataset.splits["train"], 256)
x = dataset[some].to(ws.device)                                     # (256, 3, H, W)
print(f"mean image: {model.normalise(x).pow(2).mean():.3f} on 256 images")
codebook = model.quantizer.codebook                                 # (K, D)
rows = as_rows(model.encoder(model.normalise(x[:8])).detach())      # (8*h*w, D)
brute_force = torch.cdist(rows.double(), codebook.double()).argmin(1)
same = (nearest(rows, codebook) == brute_force).float().mean()
print(f"same code as brute force: {same:.2%}")

# %% [markdown]
# Both hold: the mean image scores 1 up to the chance of 256 images, and every patch gets the code
# that brute force gives it.
#
# ## Train ours
#
# What differs from the report's codebook? *Data init*: the first batch's own vectors are the first
# codes. *Dead-code reset*: a code that is hardly ever chosen moves onto a vector of the current
# batch, together with its count and its sum. *A fast codebook*: averages over ten batches instead
# of a hundred (`decay`), which bears a three times larger learning rate; it falls along a cosine.
# And the error is divided by the variance of what it is an error of.
#
# A run that was stopped goes on where it was; a finished one returns at once.

# %%
variance = stats["variance"] if preset.divide_by_pixel_variance else 1.0
loop = train_vqvae(model, dataset, training, preset.augment, variance, ws.folder / "vqvae")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(ws.folder / "vqvae.safetensors", model, **ws.metadata, training=training)

# %% [markdown]
# ## Train the baseline: the report's codebook
#
# The same nets, data and batches, except that codes start at random and are not reset, the learning
# rate is constant, and the error is divided by the variance of raw pixels, as in the report. (Under
# the preset `report` it is the other way round.) It may stop early: the collapse comes in the first
# updates. Predict: how many of the codes will be in use, effectively?

# %%
other, counted = preset.baseline, replace(preset.baseline.vqvae_training, seed=SEED)
baseline = VQVAE(other.vqvae, stats["mean"], stats["std"], SEED).to(ws.device)
variance = stats["variance"] if other.divide_by_pixel_variance else 1.0
loop = train_vqvae(baseline, dataset, counted, other.augment, variance, ws.folder / "baseline")
for _step, _losses in watch(loop, counted.steps):
    pass
save_model(ws.folder / "baseline.safetensors", baseline, **ws.metadata, training=counted)

# %% [markdown]
# ## What happened in training?
#
# Both errors are shown in one unit: the mean image scores 1. (The report's loss is multiplied back
# by the variance it was divided by.) Perplexity is the number of codes that are effectively in use
# in a batch.

# %%
NAMES = ("ours", "report's settings")
if preset.divide_by_pixel_variance:
    NAMES = ("report's settings", "with data init and resets")
logs = {name: read_log(ws.folder / part) for name, part in zip(NAMES, ("vqvae", "baseline"))}
for name, p in zip(NAMES, (preset, other)):
    for line in logs[name]:                     # the same unit for both: the mean image scores 1
        line["nmse"] = line["recon"] * (stats["variance"] if p.divide_by_pixel_variance else 1.0)
    perplexity = np.array([line["perplexity"] for line in logs[name]])
    above = np.flatnonzero(perplexity > cfg.n_codes / 8)
    first = logs[name][above[0]]["step"] if len(above) else "never"
    print(f"{name:25s} perplexity above {cfg.n_codes // 8} from update: {first}; "
          f"highest {perplexity.max():.0f}, last {perplexity[-1]:.0f}")

# %%
fig, axs = plt.subplots(1, 2, figsize=(10, 3.4))
for (name, log), colour in zip(logs.items(), ("tab:blue", "tab:red")):
    plots.curve(axs[0], log, "nmse", name, smooth=10, color=colour)
    plots.curve(axs[1], log, "perplexity", name, smooth=10, color=colour)
axs[0].set(yscale="log", ylabel="squared error (mean image = 1)", title="Reconstruction error")
axs[1].set(ylabel="perplexity of a batch", title="Codes effectively in use")
axs[1].axhline(cfg.n_codes, color="0.6", lw=0.8)
axs[0].legend()
for ax in axs:
    ax.set_xscale("log")
plots.save(fig, ws, "02_training")

# %% [markdown]
# Ours uses more than 64 codes from update 30 on. Perplexity dips once, where the error falls
# fastest, and then stays near 300 of 512: patches of plain skin share codes. (The numbers above are
# of single batches, the curves means of ten logged ones.) The baseline never gets above 13.
#
# ## How good is each on lesions never seen?
#
# Perplexity of one batch depends on the batch, so usage is counted over all held-out images. PSNR
# and SSIM are taken per image, on [0, 1], after rounding to 8 bits, and then averaged.

# %%
models = dict(zip(NAMES, (model, baseline)))
details = {name: metrics.reconstruct(m, dataset, SPLIT) for name, m in models.items()}
result = {name: metrics.summary(found, dataset.classes, cfg.n_codes)
          for name, found in details.items()}
for name, r in result.items():
    print(f"{name:25s} PSNR {r['psnr']['mean']:.1f} +- {r['psnr']['std']:.1f} dB  "
          f"SSIM {r['ssim']['mean']:.3f}  codes used {r['codes_used']}/{r['n_codes']}  "
          f"perplexity {r['perplexity']:.0f}")

# %% [markdown]
# With the weights that ship ours has 34.3 dB on HAM10000 with all 512 codes in use, the report's
# settings 26.6 dB with 16. (The baseline has fewer updates; the study below compares at equal
# length. The report's own weights had 54 codes alive.)
#
# Why the collapse? Codes that start as random vectors have a length of $\sqrt{128} \approx 11$, far
# from the first encoder outputs. The few nearest win every patch, move towards the outputs, and win
# again; the others never move.

# %%
print(f"{NAMES[0]}, {SPLIT}: mean and standard deviation over the images of a class")
for name, c in result[NAMES[0]]["classes"].items():
    print(f"{name:20s} {c['images']:4d} images  "
          f"PSNR {c['psnr']['mean']:.1f} +- {c['psnr']['std']:.1f} dB  "
          f"SSIM {c['ssim']['mean']:.3f} +- {c['ssim']['std']:.3f}")

# %%
fig, axs = plt.subplots(1, 2, figsize=(10, 3))
classes = result[NAMES[0]]["classes"]
for ax, key in zip(axs, ("psnr", "ssim")):
    means = [c[key]["mean"] for c in classes.values()]
    stds = [c[key]["std"] for c in classes.values()]
    ax.errorbar(list(classes), means, yerr=stds, fmt="o", color="0.3", capsize=3)
    ax.set(ylabel={"psnr": "PSNR, dB", "ssim": "SSIM"}[key],
           title=f"{key.upper()} of each class, mean and std of images")
plots.save(fig, ws, "02_classes")

# %% [markdown]
# `akiec`, `mel` and `bkl` are lowest (32.2 to 32.8 dB), `vasc` and naevi highest (35.3 and 35.0
# dB), each with a spread of nearly 3 dB. Rarity is not what costs: `df` has 13 images in this split
# and 33.9 dB.
#
# ## Which codes are used how often?
#
# Codes ranked by how often held-out images pick them: a healthy codebook is a long slope, a
# collapsed one a cliff.

# %%
fig, ax = plt.subplots(figsize=(8, 3))
for (name, r), colour in zip(details.items(), ("tab:blue", "tab:red")):
    picks = torch.bincount(r["codes"].flatten(), minlength=cfg.n_codes)     # (K,)
    shares = picks.sort(descending=True).values / picks.sum()
    ax.plot(shares, color=colour, label=f"{name}: {result[name]['codes_used']} used")
ax.set(yscale="log", xlabel="code, by rank", ylabel="share of picks", title="Codes by use")
ax.legend()
plots.save(fig, ws, "02_usage")

# %% [markdown]
# Ours is the slope: every code is picked, the most frequent a few times as often as the median. The
# baseline is the cliff: 16 codes do all the work.
#
# ## Reconstructions of lesions never seen, the worst included
#
# Eight held-out images drawn by seed, then the eight with the lowest PSNR of the whole split.

# %%
worst = details[NAMES[0]]["psnr"].argsort()[:8].numpy()
chosen = np.random.default_rng(SEED).choice(len(dataset.splits[SPLIT]), len(worst), replace=False)
fig, axs = plt.subplots(2, 1, figsize=(8.5, 7.2))
for ax, picks, title in zip(axs, (chosen, worst), ("Drawn by seed", "The worst of the split")):
    x = dataset[dataset.splits[SPLIT][picks]]
    x_hat = [m.decode(m.encode(x.to(ws.device))).cpu() for m in models.values()]
    plots.show_images(ax, torch.cat([x, *x_hat]), per_row=len(x),
                      title=f"{title}. Rows: original, {NAMES[0]}, {NAMES[1]}")
plots.save(fig, ws, "02_reconstructions")
print(f"worst of {len(dataset.splits[SPLIT])}: {details[NAMES[0]]['psnr'].min():.1f} dB")

# %% [markdown]
# The worst image has 20.2 dB. Averages hide such images: hairs that cross the lesion, dark frames,
# markings and colours that few photographs have.
#
# ## From the report to here, one fix at a time
#
# Two runs that differ in several settings do not say which one mattered. In this study each row of
# the path changes one thing more, and each row below `ours` changes one thing alone: small nets,
# 900 updates on 64 px images, decay 0.99 (`python -m vqlib.studies vqvae`). Order the fixes by what
# you expect of them.

# %%
Markdown(results.table("vqvae"))

# %%
fig, ax = plt.subplots(figsize=(8, 3.8))
results.draw(ax, "vqvae")
ax.set_title("Blue: from the report's settings to ours; grey: one change of ours")
plots.save(fig, ws, "02_ablations", results.setup("vqvae"))

# %% [markdown]
# Starting codes on data brings 4.94 dB over the collapsed codebook of the row above, and resetting
# dead codes 1.31 dB (139 to 509 codes). Two steps lose at this length: the right variance, while
# few codes are in use (-3.32 dB), and the cosine (-0.66 dB), which we keep for longer trainings,
# where it was not measured apart. Of the swaps, codes of unit length and the rotation trick differ
# from ours by less than seeds do, and a code width of 16 is as good as 128. Half as many codes per
# side cost 3.00 dB.
#
# ## A second decoder for the same codes
#
# Least squares paints the mean of all images that fit the codes, and a mean is blurred. What it
# leaves out can be drawn: a flow learns to carry noise to the residuals of training images, given
# the codes and the least-squares image (`vqlib/flow_decoder.py`). Encoder, codebook and decoder
# stay as they are. Notebook 5 shows what it invents.

# %%
ws.require("flow_decoder")
learning = replace(preset.flow_decoder_training, seed=SEED)
flow_decoder = FlowDecoder(preset.flow_decoder).to(ws.device)
loop = train_flow_decoder(flow_decoder, model, dataset, learning, preset.augment,
                          ws.folder / "flow-decoder")
for _step, _losses in watch(loop, learning.steps):
    pass
save_model(ws.folder / "flow-decoder.safetensors", flow_decoder, **ws.metadata, training=learning)

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
log = read_log(ws.folder / "flow-decoder")
plots.curve(ax, log, "loss", smooth=20)
ax.set(ylabel="squared error of the velocity", title="Training of the flow decoder")
plots.save(fig, ws, "02_flow_decoder_training")
print(f"first tenth {np.mean([line['loss'] for line in log[: max(1, len(log) // 10)]]):.2f}, "
      f"last tenth {np.mean([line['loss'] for line in log[-max(1, len(log) // 10) :]]):.2f}")

# %% [markdown]
# From the first tenth of the training to the last the loss falls from 2.79 to 0.92, and not to
# zero: what a detail looks like stays open, which is why it is drawn.
#
# ## Try it
#
# Choose a held-out image, or a picture of your own. Point at a cell to see its code, what that code
# paints alone, and where else it stands. Choose a cell and then another code, and see the picture
# change: codes are what the prior of notebook 4 will learn to write.

# %%
fig = plots.draw_reconstruction(model, dataset, int(dataset.splits[SPLIT][worst[0]]))
plots.save(fig, ws, "02_explorer")

# %%
pipeline = Pipeline(model, dataset.geometry, flow_decoder=flow_decoder)
explorers.show(explorers.Reconstruction(pipeline, dataset, SPLIT, first=int(worst[0])))

# %% [markdown]
# ## What we learned
#
# - At 256 codes of nine bits a 128 px image of HAM10000 keeps 34.3 dB, with 1/171 of its bits.
# - The same nets use the whole codebook once codes start on data and are reset when dead.
# - A collapsed codebook may have a PSNR that sounds good, so codes in use are counted as well.
# - Count codes over a whole split; look at PSNR image by image, at the worst, too.
# - Least squares blurs, and paints wrong lines where codes say too little. What is lost can be
#   drawn, not recovered.

# %%
r, b = (result[name] for name in NAMES)
key_metric = f"PSNR {r['psnr']['mean']:.1f} dB, {r['codes_used']}/{r['n_codes']} codes used"
measured = {f"PSNR, {NAMES[0]}": f"{r['psnr']['mean']:.1f} dB",
            f"SSIM, {NAMES[0]}": f"{r['ssim']['mean']:.3f}",
            f"codes in use, {NAMES[0]}": f"{r['codes_used']} of {r['n_codes']}",
            f"perplexity, {NAMES[0]}": f"{r['perplexity']:.0f}",
            f"PSNR, {NAMES[1]}": f"{b['psnr']['mean']:.1f} dB",
            f"codes in use, {NAMES[1]}": f"{b['codes_used']} of {b['n_codes']}"}
save_results(ws, "02", key_metric, **result,
             rows=measured)
print(footer(ws, SEED))

# %% [markdown]
# This run, beside three that are kept (validation split); compare yours with the one of its preset
# and data:

# %%
Markdown(expected("02", measured))

# %% [markdown]
# ## Exercises
#
# **2.1** Double the codebook, `replace(cfg, n_codes=2 * cfg.n_codes)`, and halve the side of a
# cell, `n_down=cfg.n_down - 1`. By what factor does the number of bits per image grow?
#
# <details><summary>Solution</summary>Half the side makes four times as many codes, and twice the
# codebook costs one bit more for each: 4 x 10/9 = 4.4 with 512 codes. Resolution of the grid is far
# dearer than size of the codebook.</details>

# %% tags=["exercise"]
ANSWER = None                                # a factor
larger = replace(cfg, n_codes=2 * cfg.n_codes, n_down=cfg.n_down - 1)
grown = larger.grid**2 * np.log2(larger.n_codes) / bits
check("2.1", ANSWER, near(grown, within=0.1),
      why=f"four times as many codes of one bit more: {grown:.2f}",
      hint="count codes and bits per code apart")

# %% [markdown]
# **2.2** PSNR is logarithmic. If every pixel's error is halved, by how many dB does PSNR rise?
#
# <details><summary>Solution</summary>A quarter of the squared error: 10 log10(4) = 6.0 dB. Between
# 34 and 35 dB lies a fifth of the squared error.</details>

# %% tags=["exercise"]
ANSWER = None                                # dB
noise = 0.1 * torch.randn(8, 3, 64, 64, generator=torch.Generator().manual_seed(SEED))
grey = torch.full_like(noise, 128 / 255)
whole, half = (metrics.psnr(grey + scale * noise, grey).mean() for scale in (1, 0.5))
measured = f"{whole:.1f} dB, with half the error {half:.1f} dB"
check("2.2", ANSWER, near(float(half - whole), within=0.3),
      why="half the error is a quarter of its square", hint="10 log10 of what?",
      measured=measured)

# %% [markdown]
# **2.3** Train twenty updates without resets, once with data init and once without, `replace(cfg,
# data_init=False)`. Without it, do held-out images pick more codes, fewer, or as many?
#
# <details><summary>Solution</summary>Fewer. Random codes lie far from all outputs, so a few win
# every patch. With data init the first codes are outputs of the encoder, and each has neighbours
# from the start.</details>

# %% tags=["exercise"]
ANSWER = None                                # "more", "fewer" or "as many"
used = {}
no_resets = replace(cfg, data_init=True, reset_threshold=0.0)
for name, c in {"with": no_resets, "without": replace(no_resets, data_init=False)}.items():
    short = VQVAE(c, stats["mean"], stats["std"], SEED).to(ws.device)
    list(train_vqvae(short, dataset, replace(training, steps=20), preset.augment))
    rows = dataset.splits[SPLIT][:64]
    used[name] = len(short.encode(dataset[rows].to(ws.device)).unique())
measured = used
check("2.3", ANSWER, lambda answer: answer == "fewer" and used["without"] < used["with"],
      why="codes far from all outputs win nothing", hint="which codes are nearest to an output?",
      measured=measured)

# %% [markdown]
# ## Optional: what no net at all can do
#
# How much of its decibels does a net earn? The oldest codec there is takes three steps:
#
# 1. rotate blocks of pixels to uncorrelated axes (cosines, then principal axes); 2. split the axes
# into groups of equal variance, one for each 8 x 8 px cell of the block; 3. quantize each group
# with a k-means codebook of its own, 512 entries or nine bits.
#
# No gradient, few images, as many bits as `flagship` (`python -m vqlib.studies transform`).

# %%
Markdown(results.table("transform"))

# %% [markdown]
# Each 8 x 8 px cell coded by itself: 30.13 dB. Sixteen cells coded together have 34.03 dB without
# any net, 64 have 34.37, as much as the net (34.3). So the net is not short of bits: each of its
# codes speaks of its own patch, and much of what it says its neighbours say, too.

# %% [markdown]
# ## Optional: where nine bits go
#
# A code is 128 numbers wide and has nine bits. On how many of the 128 axes does it spend them? The
# cell takes the axes along which encoder outputs vary most, and the error that is left along each
# once they are codes.

# %%
x = dataset[dataset.splits[SPLIT][::4]].to(ws.device)
axes = principal_axes.measure(model, x)
for k, (spread, error, explained, of_axis) in enumerate(zip(*axes, axes.bits), 1):
    print(f"axis {k}: variance {spread:6.2f}, error {error:.2f}: {of_axis:.1f} bits; "
          f"neighbours explain {explained:.0%} of the variance")

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
principal_axes.draw(ax, axes)
ax.set_title("Encoder outputs: variance, and error as codes")
plots.save(fig, ws, "02_axes")

# %% [markdown]
# Nearly all nine bits are spent on three axes, 3.8, 2.3 and 1.5, which end at errors of 0.42 to
# 0.48, nearly equal, as theory has it for bits well dealt out (*reverse water-filling*). What
# varies along the later ones follows from these: their errors are smaller, and their bits are not
# to be added. The four cells around know 73 and 51 % of the first two: a code says above all a
# colour, and much of it its neighbours say, too.

# %% [markdown]
# ## Optional: bits, channels or minutes?
#
# What would more of each buy? Short trainings at 128 px, with a slower codebook than `flagship`'s
# (`python -m vqlib.studies limits`, one seed).

# %%
Markdown(results.table("limits"))

# %% [markdown]
# Four times the updates bring 1.7 dB (29.23 to 30.97). In 625 updates nets twice as wide change
# -0.10 dB, four times the codes -0.43, and nets half as wide lose 2.63. So minutes were what was
# short; steps of 0.1 dB of one seed say nothing.
