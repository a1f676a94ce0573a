# %% [markdown]
# # 4. Train two priors on the same codes
#
# Reads `vqvae.safetensors` (notebook 2). Writes `prior.safetensors`, `windowed.safetensors`,
# `04.json` and `figures/<preset>/04_*.png`. Three minutes under `quick` on two cores.
#
# A prior says which codes follow which. You will train the report's windowed transformer and a GPT
# that sees the whole grid and the diagnosis, on identical codes, and compare them by likelihood on
# lesions that neither has seen.

# %%
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from vqlib import plots
from vqlib.checkpoint import load_model, save_model
from vqlib.entropy_constrained import EntropyConstrainedEncoder
from vqlib.gpt import GPT
from vqlib.metrics import likelihood, psnr, unigram_nats
from vqlib.progress import watch
from vqlib.train import encode_dataset, held_out_nats, read_log, train_prior
from vqlib.windowed_gpt import WindowedGPT
from vqlib.workspace import footer, open_workspace, save_results

# %%
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SPLIT = "validation"

# %%
ws = open_workspace(PRESET, DATA)
ws.require("prior", "windowed")
dataset, preset = ws.dataset, ws.preset
print(ws)
vqvae, _ = load_model(ws.folder / "vqvae.safetensors", "vqvae", made_by="notebook 02")
vqvae = vqvae.to(ws.device)

# %% [markdown]
# ## From images to sentences
#
# Every image becomes a row of codes, read like a page. Training images are encoded in several
# augmentations (mirrored ones at least): a lesion has no left and right, and 7,000 images are few.

# %%
prior_file, windowed_file = ws.folder / "prior.safetensors", ws.folder / "windowed.safetensors"
train = encode_dataset(vqvae, dataset, "train", preset.prior_augmentations)  # codes (n, V, T)
held_out = encode_dataset(vqvae, dataset, SPLIT)                    # codes (m, 1, T), labels (m,)
K, (n, V, T) = vqvae.cfg.n_codes, train[0].shape
print(f"{n} images x {V} augmentations x {T} codes; {len(held_out[0])} held-out images")

# %% [markdown]
# ## Two lines to beat
#
# Knowing nothing costs $\ln K$ nats per code. Knowing only how often each code occurs costs the
# unigram entropy. Whatever a prior gains below the second line, it gains from *context*.

# %%
lines = {"ln K": math.log(K), "unigram": unigram_nats(train[0], held_out[0][:, 0], K)}
for name, value in lines.items():
    bits = value / math.log(2)
    print(f"{name:8s} {value:.3f} nats/code = {bits:.2f} bits/code = {T * bits:.0f} bits/image")

# %% [markdown]
# ## Why a window cannot draw a lesion
#
# The report cut its sequence of start, codes and end into random windows of a quarter of the grid
# and counted positions from the window's first token. Such a model sees a few rows and never knows
# which. The whole-grid GPT gets all codes so far, learned vectors for the row and the column of the
# cell that it predicts, and the diagnosis: $t$ codes in, $t + 1$ predictions out.
#
# Nothing says that a picture must be written like a page. Row by row, the first hundred codes are
# mostly skin, and where the lesion will be is decided at its upper edge, in the dark. This GPT
# starts in the middle and goes from coarse to fine: four codes far apart, then sixteen, then what
# lies between. Predict: which cells will be expensive, which cheap?

# %%
gpt = GPT(replace(preset.prior, n_classes=len(dataset.classes))).to(ws.device)
windowed = WindowedGPT(preset.windowed).to(ws.device)
side = vqvae.cfg.grid
turns = gpt.generation_order.argsort().view(side, side).cpu()       # of each cell
fig, axs = plt.subplots(1, 4, figsize=(9, 2.4))
for ax, first in zip(axs, (T // 64, T // 16, T // 4, T)):
    shown = torch.where(turns < first, turns.double(), torch.nan)
    ax.imshow(shown, vmin=0, vmax=T, cmap="viridis")
    ax.set_axis_off()
    ax.set_title(f"the first {first} codes", fontsize=9)
plots.save(fig, ws, "04_order")

# %% [markdown]
# Two checks on real codes before training: an untrained prior must cost about $\ln K$, and no
# prediction may depend on codes that are drawn later. The gradient tells: from the loss of one cell
# back to the embedded codes.

# %%
codes, labels = held_out[0][:8, 0].long().to(ws.device), held_out[1][:8].to(ws.device)
print(f"untrained: {gpt.nats(codes, labels).mean():.3f} nats/code, ln K = {lines['ln K']:.3f}")
embedded = []


def keep_gradient(module, inputs, output):                          # output: (8, T-1, C)
    output.retain_grad()
    embedded.append(output)


turn = T // 2
hook = gpt.previous_embedding.register_forward_hook(keep_gradient)
gpt.nats(codes, labels)[:, gpt.generation_order[turn]].sum().backward()
hook.remove()
reached = embedded[0].grad.abs().sum((0, 2)).nonzero()[:, 0]        # turns with a gradient
print(f"the code of turn {turn} depends on those of turns {reached.min()}..{reached.max()}")

# %% [markdown]
# ## Run: the whole grid

# %%
training = preset.prior_training
loop = train_prior(gpt, train, held_out, training, ws.folder / "prior")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(prior_file, gpt, **ws.metadata, training=training)

# %% [markdown]
# ## Run: the report's window

# %%
training = preset.windowed_training
loop = train_prior(windowed, train, held_out, training, ws.folder / "windowed")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(windowed_file, windowed, **ws.metadata, training=training)

# %% [markdown]
# ## Training metrics
#
# As in the report: train and held-out loss against updates, and the learning rate, for both. Both
# losses are evaluated without dropout on equally many images, so a gap between them is memory, not
# noise. The weights that are kept are those of the lowest held-out loss.

# %%
logs = {"whole grid": read_log(ws.folder / "prior"),
        "window": read_log(ws.folder / "windowed")}
fig, axs = plt.subplots(1, 2, figsize=(10.5, 3.6), width_ratios=(1.7, 1))
for (name, log), colour in zip(logs.items(), ("tab:blue", "tab:red")):
    plots.curve(axs[0], log, "train", f"{name}, train", color=colour, ls="--", marker=".")
    plots.curve(axs[0], log, "held_out", f"{name}, held out", color=colour, marker=".")
    plots.curve(axs[1], log, "lr", name, color=colour)
for name, value in lines.items():
    axs[0].axhline(value, color="0.6", lw=0.8)
    axs[0].text(0.99, value, name, va="bottom", ha="right", color="0.4", fontsize=8,
                transform=axs[0].get_yaxis_transform())
axs[0].set_ylabel("nats per code")
axs[1].set_ylabel("learning rate")
axs[0].legend(fontsize=8)
plots.save(fig, ws, "04_training")

# %% [markdown]
# ## Likelihood of lesions never seen
#
# The negative log-likelihood is what an arithmetic coder driven by the prior would spend: nats per
# code, bits per image (the fixed-length code spends $T \log_2 K$), and bits per colour value of the
# image that the codes stand for. Note that the last one is the price of the *codes*: the picture
# they give back is not the original.

# %%
codes, labels = held_out[0][:, 0], held_out[1]                      # (m, T), (m,)
nats = {"whole grid": held_out_nats(gpt, codes, labels),
        "window": held_out_nats(windowed, codes, labels)}           # (m, T) each
n_values = 3 * dataset.geometry.crop**2
result = {name: likelihood(values, n_values) for name, values in nats.items()}
print(f"fixed-length code: {T * math.log2(K):.0f} bits/image")
for name, r in result.items():
    print(f"{name:11s} {r['nats_per_code']:.3f} nats/code  {r['bits_per_code']:.2f} bits/code  "
          f"{r['bits_per_image']:.0f} bits/image  {r['bits_per_dim']:.4f} bits/dim")

# %%
any_class = torch.full_like(labels, len(dataset.classes))
without = held_out_nats(gpt, codes, any_class)                      # (m, T)
gain = (without.sum(1) - nats["whole grid"].sum(1)).mean() / math.log(2)
per_image = result["whole grid"]["bits_per_image"]
print(f"knowing the diagnosis saves {gain:.1f} bits of an image's {per_image:.0f}")

# %% [markdown]
# ## Where is an image hard to predict?
#
# The mean cost of each cell of the grid over the held-out images. Find the lattice in the left map,
# and the edges of the page in the right one.

# %%
fig, axs = plt.subplots(1, 2, figsize=(9, 3.6))
costs = {name: values.mean(0) for name, values in nats.items()}     # (T,) each
low = min(cost.quantile(0.01) for cost in costs.values())
high = max(cost.quantile(0.99) for cost in costs.values())
for ax, (name, cost) in zip(axs, costs.items()):
    picture = ax.imshow(cost.view(side, side), vmin=low, vmax=high, cmap="magma")
    ax.set_axis_off()
    ax.set_title(f"{name}: {cost.mean():.2f} nats/code")
fig.colorbar(picture, ax=axs, label="nats per code")
plots.save(fig, ws, "04_cells")

# %% [markdown]
# ## What is a nat worth?
#
# The encoder takes the nearest code, whatever it costs. But if two codes lie nearly as close, why
# not the one that the prior expects? *Entropy-constrained* codes minimise the squared distance plus
# lambda times the nats, cell after cell (Chou, Lookabaugh & Gray 1989). Lambda 0 is the nearest
# code. Predict: how many bits can be saved before the picture suffers?

# %%
rows = dataset.splits[SPLIT][:: max(1, len(dataset.splits[SPLIT]) // 64)][:64]
x, y = dataset[rows].to(ws.device), dataset.labels[rows]
z = vqvae.encoder(vqvae.normalise(x)).detach()                      # (64, D, h, w)
e = vqvae.quantizer.lookup(vqvae.encode(x))
mean_distance = (z - e).square().sum(1).mean().item()               # squared, to the nearest code
curve = []
for share in (0, 0.1, 0.2, 0.5, 1, 2):
    constrained = EntropyConstrainedEncoder(vqvae, gpt, share * mean_distance)
    codes = constrained.encode(x)
    bits = held_out_nats(gpt, codes.flatten(1), y).mean().item() / math.log(2)
    decibels = psnr(vqvae.decode(codes).cpu(), x.cpu()).mean().item()
    curve.append((bits, decibels))
    print(f"lambda {constrained.lambda_:5.2f} ({share} of the mean squared distance): "
          f"{bits:.2f} bits/code, {decibels:.2f} dB")

# %%
fig, ax = plt.subplots(figsize=(5.5, 3.2))
ax.plot(*zip(*curve), marker="o", label="entropy-constrained codes")
ax.plot(*curve[0], marker="o", color="tab:red", label="nearest codes")
ax.set(xlabel="bits per code by the prior", ylabel="PSNR, dB")
ax.legend()
plots.save(fig, ws, "04_entropy_constrained")

# %% [markdown]
# **What we saw** (HAM10000, `flagship`, weights that ship, 921 validation images). The unigram line
# saves almost nothing over $\ln K$: a healthy codebook uses its codes evenly. Context saves the
# rest. On entropy-constrained codes, chosen by the whole-grid prior itself at lambda 1.8, that
# prior reaches **2.72 nats/code (1,005 bits per image)**, the window **3.10 (1,143)**: the window
# needs 14 % more. These codes favour the prior that chose them; priors that are trained here meet
# on nearest codes. Both were trained on codes that an earlier prior had chosen, for about as many
# minutes, 17 of two cores and 30 of one (the whole grid had learnt two other sets of codes before,
# so this is no controlled comparison). At f = 8 most of a
# code's surprise is local, the shade of a patch, and a window of four rows sees what there is to
# see of that. What it cannot know is where it is, and that costs few bits: notebook 5 shows what
# they are worth. (Under `quick`, with half the pixels per code, codes are far more predictable, and
# the window is left behind by 1.4 times.)
#
# The maps show two ways of paying. The window pays everywhere in the middle, where lesions are. The
# whole grid pays most for the few codes that it draws first, with nothing around them, and least
# for the last ones, which close gaps: the lattice in the left map is the generation order. In the
# curves of its training, held-out loss lies *below* the training loss (2.85 against 2.92 at the
# end, on 460 images each): nothing is memorised. Knowing the diagnosis saves 1.0 bits per image: a
# class is a matter of few bits, too.
#
# The curve is flat at its right end: of 64 validation images the first 0.8 bits per code cost 0.1
# dB (6.37 to 5.58 bits, 34.3 to 34.2 dB), the next 0.7 a third of a decibel more. Those bits told
# noise. At lambda 1.8 this prior spends 3.93 bits per code for 32.5 dB on the whole split
# (`evaluate`); the flow decoder's images of such codes are no farther from reality than those of
# the nearest (notebook 5). What the encoder no longer says, the prior no longer has to learn. The
# price stands at the right end of the same curve: *nearest* codes, which this prior was not trained
# on in the end, cost it 6.37 bits each. So nats per code say little about priors of different
# codes: codes that say less are cheaper. How the weights that ship were trained is told in
# `data/pretrained/README.md`.
#
# ## What we learned
#
# - Compare priors on identical codes, in nats per code of lesions never seen, beside $\ln K$ and
#   the unigram entropy.
# - A prior that does not know where it is can learn texture, not layout.
# - The nearest code is not the best one if codes have prices.
# - Likelihood does not say what samples look like: notebook 5 draws them.

# %%
evaluations = [line for line in logs["whole grid"] if "held_out" in line]
best = min(evaluations, key=lambda line: line["held_out"])
ours, window = (result[name]["nats_per_code"] for name in ("whole grid", "window"))
save_results(ws, "04", f"{ours:.2f} nats/code (window {window:.2f})", lines=lines, **result,
             bits_saved_by_class=float(gain), best=best)
print(footer(ws, preset.prior_training.seed))
