# %% [markdown]
# # 2. Train the VQ-VAE, and see why the report's codebook collapsed
#
# Reads the data and `01.json` (notebook 1). Writes `vqvae.safetensors`, `baseline.safetensors`,
# `flow-decoder.safetensors`, `02.json` and `figures/<preset>/02_*.png`. Two to three minutes under
# `quick` on two cores; a minute and a half with weights that ship.
#
# You will compress each image into a grid of codes, once with the report's codebook settings and
# once with ours, the same nets for the same number of updates, and measure on held-out lesions what
# the codes keep and lose.

# %%
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown

from vqlib import explorers, metrics, plots
from vqlib.checkpoint import save_model
from vqlib.flow_decoder import FlowDecoder
from vqlib.pipeline import Pipeline
from vqlib.progress import watch
from vqlib.quantizer import as_rows, nearest
from vqlib.studies import principal_axes, results
from vqlib.train import read_log, train_flow_decoder, train_vqvae
from vqlib.vqvae import VQVAE
from vqlib.workspace import footer, load_results, open_workspace, save_results

# %%
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SPLIT = "validation"

# %%
ws = open_workspace(PRESET, DATA)
dataset, stats = ws.dataset, load_results(ws, "01")
print(ws)

# %% [markdown]
# ## The idea
#
# An encoder turns each $f \times f$ patch into a vector $z$ of width $D$; the quantizer replaces it
# by the nearest of $K$ code vectors $e_k$, and a decoder paints the image from those. What is kept
# of the patch is one number, $k \in \{0..K-1\}$: $\log_2 512 = 9$ bits.
#
# $$k = \arg\min_j \lVert z - e_j \rVert^2, \qquad
#   \mathcal L = \underbrace{\lVert x - \hat x \rVert^2 / \sigma^2}_{\text{reconstruction}}
#   + \beta \underbrace{\lVert z - \mathrm{sg}[e_k] \rVert^2}_{\text{commitment}}$$
#
# The gradient passes the quantizer as if it were not there. The codes themselves are no parameters:
# each follows the mean of the vectors that chose it, by exponential moving averages
# (`vqlib/quantizer.py`).

# %%
preset = ws.preset
cfg, training = preset.vqvae, preset.vqvae_training
values = 3 * cfg.image_size**2
bits = cfg.grid**2 * np.log2(cfg.n_codes)
print(f"{cfg.image_size} px, {cfg.n_down} halvings: "
      f"{cfg.grid} x {cfg.grid} = {cfg.grid**2} codes of {cfg.n_codes}")
print(f"{values} colour values -> {bits:.0f} bits: "
      f"{bits / values:.3f} bits per value, 8 / {8 * values / bits:.0f}")

# %% [markdown]
# ## Cheap checks before spending minutes
#
# The mean image must score 1.0 by the loss's own measure. And the quantizer must agree with brute
# force on real encoder outputs: if its shortcut $\lVert c \rVert^2/2 - r \cdot c$ is right, no row
# may prefer another code.

# %%
model = VQVAE(cfg, stats["mean"], stats["std"], training.seed).to(ws.device)
some = np.random.default_rng(training.seed).choice(dataset.splits["train"], 256)
x = dataset[some].to(ws.device)                                     # (256, 3, H, W)
print(f"mean image: {model.normalise(x).pow(2).mean():.3f} on 256 images")
codebook = model.quantizer.codebook                                 # (K, D)
rows = as_rows(model.encoder(model.normalise(x[:8])).detach())      # (8*h*w, D)
brute_force = torch.cdist(rows.double(), codebook.double()).argmin(1)
same = (nearest(rows, codebook) == brute_force).float().mean()
print(f"same code as brute force: {same:.2%}")

# %% [markdown]
# ## Run: ours
#
# Two lines make the difference to come. *Data init*: the first batch's own vectors are the first
# codes. *Dead-code reset*: a code that is hardly ever chosen is moved onto a vector of the current
# batch, together with its count and its sum (moving the vector alone would be undone by the next
# update). And the learning rate falls along a cosine. A run that was stopped goes on where it was;
# a finished one returns at once.

# %%
variance = stats["variance"] if preset.divide_by_pixel_variance else 1.0
loop = train_vqvae(model, dataset, training, preset.augment, variance, ws.folder / "vqvae")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(ws.folder / "vqvae.safetensors", model, **ws.metadata, training=training)

# %% [markdown]
# ## Run: the baseline
#
# The same nets, data and batches with the other codebook settings: under `quick` and `flagship` the
# report's (codes start as random numbers, dead codes are not reset, constant learning rate, error
# divided by the variance of raw pixels). Under `report` it is the other way round. Under `flagship`
# it stops after 1,500 updates: its codebook has long collapsed by then. One thing is not copied:
# the report's counts start at zero, which blows unpicked codes up by orders of magnitude; here they
# start at one, so an unpicked code stays where it is. What do you expect of the baseline's
# perplexity, the number of codes that are effectively in use?

# %%
other = preset.baseline
baseline = VQVAE(other.vqvae, stats["mean"], stats["std"], training.seed).to(ws.device)
variance = stats["variance"] if other.divide_by_pixel_variance else 1.0
loop = train_vqvae(baseline, dataset, other.vqvae_training, other.augment, variance,
                   ws.folder / "baseline")
for _step, _losses in watch(loop, other.vqvae_training.steps):
    pass
save_model(ws.folder / "baseline.safetensors", baseline, **ws.metadata,
           training=other.vqvae_training)

# %% [markdown]
# ## Read the curves
#
# Both errors in one unit, so that 1 is the mean image: the report's loss is multiplied back by the
# variance it was divided by. Find the moment at which the blue curves leave the red ones, and say
# what happened there.

# %%
NAMES = ("ours", "report's settings")
if preset.divide_by_pixel_variance:
    NAMES = ("report's settings", "with data init and resets")
logs = {name: read_log(ws.folder / part) for name, part in zip(NAMES, ("vqvae", "baseline"))}
for name, p in zip(NAMES, (preset, other)):
    for line in logs[name]:                     # the same unit for both: the mean image scores 1
        line["nmse"] = line["recon"] * (stats["variance"] if p.divide_by_pixel_variance else 1.0)

# %%
fig, axs = plt.subplots(1, 2, figsize=(10, 3.4))
for (name, log), colour in zip(logs.items(), ("tab:blue", "tab:red")):
    plots.curve(axs[0], log, "nmse", name, smooth=10, color=colour)
    plots.curve(axs[1], log, "perplexity", name, smooth=10, color=colour)
axs[0].set(yscale="log", ylabel="reconstruction error (mean image = 1)")
axs[1].set(ylabel="perplexity of a batch")
axs[1].axhline(cfg.n_codes, color="0.6", lw=0.8)
axs[0].legend()
for ax in axs:
    ax.set_xlim(0, 1.02 * other.vqvae_training.steps)               # as far as both go
plots.save(fig, ws, "02_training")

# %% [markdown]
# ## Held-out metrics, over the whole split
#
# Perplexity of one batch depends on the batch, so usage is counted over all held-out images. PSNR
# and SSIM are taken per image, on [0, 1], after rounding to 8 bits, and then averaged.

# %%
models = dict(zip(NAMES, (model, baseline)))
details = {name: metrics.reconstruct(m, dataset, SPLIT) for name, m in models.items()}
result = {name: metrics.summary(found, dataset.classes, cfg.n_codes)
          for name, found in details.items()}
for name, r in result.items():
    print(f"{name:25s} PSNR {r['psnr']['mean']:.2f} +- {r['psnr']['std']:.2f} dB  "
          f"SSIM {r['ssim']['mean']:.3f}  codes used {r['codes_used']}/{r['n_codes']}  "
          f"perplexity {r['perplexity']:.0f}")

# %%
print(f"{NAMES[0]}, {SPLIT}: mean and standard deviation over the images of a class")
for name, c in result[NAMES[0]]["classes"].items():
    print(f"{name:20s} {c['images']:4d} images  "
          f"PSNR {c['psnr']['mean']:.2f} +- {c['psnr']['std']:.2f} dB  "
          f"SSIM {c['ssim']['mean']:.3f} +- {c['ssim']['std']:.3f}")

# %% [markdown]
# **What we saw** (HAM10000, `flagship`, weights that ship). Ours, after 10,000 updates and 4,000
# more of its decoder alone (a step that only the weights that ship have had:
# `data/pretrained/README.md`): **34.2 dB**, SSIM 0.854 and **512 of 512 codes** in use, perplexity
# 443. The report's settings, after 1,500: **28.7 dB**, 21 codes, perplexity 20: it creeps, where
# ours climbs by the hundred. The report's own weights had 54 of 512 codes alive and a training
# perplexity of 28: its collapse follows from its settings alone. (The two runs differ in length;
# the table below compares at equal updates.)
#
# Why it happens: codes that start as random vectors have a length of $\sqrt{128} \approx 11$, far
# from the first encoder outputs. The few that happen to lie nearest win every row, move towards
# them, and win the next batch as well; the others never get a member and never move. The left curve
# shows the price, and the right one the cure: our perplexity, too, stays near 10 for about 180
# updates, until the counts of unpicked codes have decayed under 2 % of a fair share. Then they are
# reset by the hundred.
#
# Note how little PSNR complains: a codebook of 21 colours still scores 28.7 dB. Blurred skin is
# most of an image, and a few skin colours reconstruct it well. That is why usage is a metric of its
# own here.
#
# Per class, `akiec`, `bkl` and `mel` (scaly, finely textured) are lowest, near 32.5 dB, and smooth
# `vasc` is highest at 35.2, with 18 images in the split: texture, not rarity, is what costs.

# %% [markdown]
# ## The codebook, alive and collapsed
#
# How often is each code chosen over the split, most frequent first? A healthy codebook is a long
# slope, a collapsed one a cliff.

# %%
fig, ax = plt.subplots(figsize=(8, 3))
for (name, r), colour in zip(details.items(), ("tab:blue", "tab:red")):
    picks = torch.bincount(r["codes"].flatten(), minlength=cfg.n_codes)     # (K,)
    shares = picks.sort(descending=True).values / picks.sum()
    ax.plot(shares, color=colour, label=f"{name}: {result[name]['codes_used']} used")
ax.set(yscale="log", xlabel="code, by rank", ylabel="share of picks")
ax.legend()
plots.save(fig, ws, "02_usage")

# %% [markdown]
# ## Reconstructions of lesions never seen, the worst included
#
# Eight held-out images drawn by seed, then the eight with the lowest PSNR of the whole split.
# Averages hide the second kind: hairs crossing the lesion, dark frames, markings and colours that
# few images have. A hair is narrower than the patch of a code, and the codes were paid for skin.

# %%
worst = details[NAMES[0]]["psnr"].argsort()[:8].numpy()
rng = np.random.default_rng(training.seed)
chosen = rng.choice(len(dataset.splits[SPLIT]), len(worst), replace=False)
fig, axs = plt.subplots(2, 1, figsize=(8.5, 7))
for ax, picks, title in zip(axs, (chosen, worst), ("drawn by seed", "the worst")):
    x = dataset[dataset.splits[SPLIT][picks]]
    x_hat = [m.decode(m.encode(x.to(ws.device))).cpu() for m in models.values()]
    title = f"{title}: original, {NAMES[0]}, {NAMES[1]}"
    plots.show_images(ax, torch.cat([x, *x_hat]), per_row=len(x), title=title)
plots.save(fig, ws, "02_reconstructions")

# %%
fig, axs = plt.subplots(1, 2, figsize=(10, 3))
classes = result[NAMES[0]]["classes"]
for ax, key in zip(axs, ("psnr", "ssim")):
    means = [c[key]["mean"] for c in classes.values()]
    stds = [c[key]["std"] for c in classes.values()]
    ax.errorbar(list(classes), means, yerr=stds, fmt="o", color="0.3", capsize=3)
    ax.set_ylabel({"psnr": "PSNR, dB", "ssim": "SSIM"}[key])
plots.save(fig, ws, "02_classes")

# %% [markdown]
# ## From the report to here, one fix at a time
#
# Two runs that differ in five settings do not say which one mattered. The table does: each row of
# the path changes one thing more, each row below `ours` swaps one thing for another idea. All rows
# have the same number of updates on 64 px images, some under several seeds.
# `python -m vqlib.studies vqvae` makes it. Before you read it, order the fixes by what you expect
# of them.

# %%
Markdown(results.table("vqvae"))

# %%
fig, ax = plt.subplots(figsize=(8, 3.6))
results.draw(ax, "vqvae")
plots.save(fig, ws, "02_ablations")

# %% [markdown]
# **What we saw.** Two fixes carry it: codes that start on data (+5 dB over a collapsed codebook)
# and dead-code resets (+1.3 dB, 139 to 509 codes). Two of "our" choices did not earn their place
# *at this length*: dividing by the right variance alone makes the collapse worse (commitment then
# weighs twenty times more), and the cosine costs 0.7 dB, because codes that are reset after 180
# updates find a learning rate that already falls. Of the alternatives, scalar quantization loses
# 0.6 dB, codes of length one and the rotation trick differ from ours by less than seeds do, and a
# code width of 16 is as good as 128: the codebook lives in a few dimensions (notebook 3). Half the
# bits per side, f = 8, cost 3 dB at 64 px; the weights that ship pay that with pixels, 128 instead
# of 64.

# %% [markdown]
# ## What no net at all can do
#
# How much of its decibels does a net earn? Take the oldest codec there is: cut images into blocks,
# rotate each block to axes that do not correlate (cosines, then principal axes), deal these axes
# out to the block's 8 px cells so that each has 9 bits to tell, and let k-means find 512 codes for
# each hand. No gradient, 3,000 images, the 2,304 bits of `flagship`
# (`python -m vqlib.studies transform`). Predict: how far from the net does it stay if every cell
# stands alone, as ours do? And if 16 cells are coded together?

# %%
Markdown(results.table("transform"))

# %% [markdown]
# **What we saw** (HAM10000, 921 validation images, one seed). Cells alone: 30.1 dB, four below the
# net, whose decoder sees the neighbours. Sixteen cells together: **34.0 dB and SSIM 0.847 without a
# net**, as good as 10,000 updates of ours, and the whole image at once 34.5. So our codes are not
# short of bits: each speaks of its own patch, and what it mostly says, the colour of the skin, its
# neighbours say, too (notebook 3: two axes of colour hold most of the codebook). Codes that share
# the work out tell more. They also leave little to guess, and guessing is what a prior is for: in a
# first trial such codes cost 7.8 bits each after 250 updates, where ours are at 6.4 after 500
# (LOG.md). A codec and a prior want different codes; we took those that a prior can learn.

# %% [markdown]
# ## Where nine bits go
#
# A code is 128 numbers wide and has nine bits. On how many of the 128 axes does it spend them?
# Below: how far encoder outputs vary along their widest axes, and what is left as error once they
# are codes. Predict: will a code say where in its 8 x 8 px an edge runs, or only which colour they
# have?

# %%
x = dataset[dataset.splits[SPLIT][::4]].to(ws.device)
axes = principal_axes.measure(model, x)
for k, (variance, error, explained, bits) in enumerate(zip(*axes, axes.bits), 1):
    print(f"axis {k}: variance {variance:6.2f}, error {error:.2f}: {bits:.1f} bits; "
          f"neighbours explain {explained:.0%} of the variance")

# %%
fig, ax = plt.subplots(figsize=(6, 2.8))
principal_axes.draw(ax, axes)
plots.save(fig, ws, "02_axes")

# %%
Markdown(results.table("limits"))

# %% [markdown]
# **What we saw.** Three axes carry an error of 0.34 to 0.40 each, with 3.6, 2.5 and 1.4 bits, as
# theory has it for bits well dealt out (*reverse water-filling*: all axes that are worth bits end
# at the same error). What varies along the later ones follows from the first three: their errors
# are far below. So a code names a *colour*, three numbers, and where an edge runs the decoder has
# to guess from the colours around. And those colours were no news: the four cells beside tell 72,
# 50 and 27 % of the three axes, which is worth 1.7 bits; the prior of notebook 4, which sees more,
# finds 2.6 of the nine.
#
# The table (`python -m vqlib.studies limits`) is the same run, shorter: 31.0 dB after 2,500
# updates, while 10,000 have 34.2. In between lies a leap: at update 3,000 of the long run the
# distance to the codes jumps from 0.002 to 0.008 and the error falls by a quarter, as if the third
# axis were found only then. After that minutes buy little: 1,500 updates more, at twice the first
# learning rate and down again, ended at 34.21 instead of 34.18 dB (LOG.md). Nor are bits or
# channels short in the first 625 updates: 7, 9 and 11 bits a code give 28.6, 29.2 and 28.8 dB, nets
# half, once and twice as wide 26.6, 29.2 and 29.1: half would be too few. Steps of 0.1 dB say
# nothing (the machine of the new rows gives 29.4 for 29.2), and what wider nets bring in the end
# was not tried.
#
# How many bits would 35 dB take? Between f = 8 (9 bits for 8 x 8 px, 34.2 dB) and f = 4 (36 bits,
# 37.3 dB) each doubling brings 1.6 dB: thirteen bits.

# %% [markdown]
# ## Run: a second decoder for the same codes
#
# Least squares paints the mean of all images that fit the codes, and a mean is blurred. This is
# what the VQ-VAE's own decoder gives, the *least-squares decoder*, and every PSNR here is that
# decoder's. What it leaves out can be drawn: a flow learns to carry noise to residuals of training
# images, given the codes and the least-squares image (`vqlib/flow_decoder.py`). Encoder, codebook
# and decoder stay frozen. Here the *flow decoder* learns on the nearest codes; the one that ships
# also learnt on entropy-constrained ones (notebook 4). Notebook 5 shows what it invents.

# %%
ws.require("flow_decoder")
training = preset.flow_decoder_training
flow_decoder = FlowDecoder(preset.flow_decoder).to(ws.device)
loop = train_flow_decoder(flow_decoder, model, dataset, training, preset.augment,
                          ws.folder / "flow-decoder")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(ws.folder / "flow-decoder.safetensors", flow_decoder, **ws.metadata, training=training)

# %%
fig, ax = plt.subplots(figsize=(6, 2.6))
plots.curve(ax, read_log(ws.folder / "flow-decoder"), "loss", smooth=20)
ax.set_ylabel("velocity error, residual's variance = 1")
plots.save(fig, ws, "02_flow_decoder_training")

# %% [markdown]
# ## See for yourself
#
# First a static figure, then an explorer. Choose a held-out image, or a picture of your own. Point
# at a cell to see its code, what that code paints alone, and where else it stands. Choose a cell
# and then another code for it, and see the picture change: codes are what the prior of notebook 4
# will learn to write.

# %%
fig = plots.draw_reconstruction(model, dataset, int(dataset.splits[SPLIT][worst[0]]))
plots.save(fig, ws, "02_explorer")

# %%
pipeline = Pipeline(model, dataset.geometry, flow_decoder=flow_decoder)
explorers.show(explorers.Reconstruction(pipeline, dataset, SPLIT, first=int(worst[0])))

# %% [markdown]
# ## What we learned
#
# - The nets of the report were never the problem: with codes that start on data and are reset when
#   dead, they use the whole codebook.
# - Usage is a property of a split, quality a property of an image: report spread and worst cases.
# - Notebook 3 asks what each code means; notebook 4 learns in which order they come.

# %%
r = result[NAMES[0]]
key_metric = f"PSNR {r['psnr']['mean']:.1f} dB, {r['codes_used']}/{r['n_codes']} codes used"
save_results(ws, "02", key_metric, **result)
print(footer(ws, preset.vqvae_training.seed))
