# %% [markdown]
# # 4. Can codes be predicted from other codes?
#
# **Reads** `vqvae.safetensors` (notebook 2). **Writes** `prior.safetensors`,
# `windowed.safetensors`, `04.json` and `figures/<preset>/04_*.png`. **Takes** seven minutes under
# `quick` on one core, five with weights that ship.
#
# A prior says which codes follow which. You will train the report's windowed transformer and a GPT
# that sees the whole grid and the diagnosis, on the same codes, and compare them by likelihood on
# lesions that neither has seen.
#
# Numbers in the text are of the weights that ship, on HAM10000. Yours differ with preset and data:
# a table near the end has both.

# %%
import math
from dataclasses import replace

import matplotlib.pyplot as plt
import torch
from IPython.display import Markdown

from vqlib import plots
from vqlib.checkpoint import load_model, save_model
from vqlib.entropy_constrained import EntropyConstrainedEncoder
from vqlib.exercises import check, near
from vqlib.gpt import GPT
from vqlib.metrics import likelihood, psnr, unigram_nats
from vqlib.progress import watch
from vqlib.records import expected
from vqlib.train import encode_dataset, held_out_nats, read_log, train_prior
from vqlib.windowed_gpt import WindowedGPT
from vqlib.workspace import footer, open_workspace, save_results

# %% tags=["parameters"]
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SEED = 0
SPLIT = "validation"

# %%
ws = open_workspace(PRESET, DATA)
ws.require("prior", "windowed")
dataset, preset = ws.dataset, ws.preset
print(ws)
vqvae, _ = load_model(ws.folder / "vqvae.safetensors", "vqvae", made_by="notebook 02")
vqvae = vqvae.to(ws.device)

# %% [markdown]
# These lines say which data, preset and weights this run uses.
#
# ## From images to rows of codes
#
# Under `flagship` training images are encoded in four flips and turns: a lesion has no left and
# right, and a few thousand images are few.

# %%
train = encode_dataset(vqvae, dataset, "train", preset.prior_augmentations)  # codes (n, V, T)
held_out = encode_dataset(vqvae, dataset, SPLIT)                    # codes (m, 1, T), labels (m,)
K, (n, V, T) = vqvae.cfg.n_codes, train[0].shape
print(f"{n} images x {V} augmentations x {T} codes; {len(held_out[0])} held-out images")

# %% [markdown]
# Each image is a row of T numbers now, and the prior never sees a pixel.
#
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
# The unigram costs 6.017 of 6.238 nats: a codebook that is used evenly has little to give away.
# Nearly all that can be saved is context.
#
# ## Why a window cannot draw a lesion
#
# The report cut its sequence into random windows of a quarter of the grid and counted positions
# from the window's first code. Such a model sees a few rows and never knows which. Our GPT gets all
# codes so far, the row and column of the cell that it predicts, up to twelve codes around it that
# are known already, and the diagnosis.
#
# Nor does it draw row by row: the first hundred codes would be mostly skin. It goes from coarse to
# fine. Predict: which cells will be expensive, which cheap?

# %%
gpt = GPT(replace(preset.prior, n_classes=len(dataset.classes)), SEED).to(ws.device)
windowed = WindowedGPT(preset.windowed, SEED).to(ws.device)
side = vqvae.cfg.grid
turns = gpt.generation_order.argsort().view(side, side).cpu()       # of each cell
fig, axs = plt.subplots(1, 4, figsize=(9, 2.6))
for ax, first in zip(axs, (T // 64, T // 16, T // 4, T)):
    shown = torch.where(turns < first, turns.double(), torch.nan)
    ax.imshow(shown, vmin=0, vmax=T, cmap="viridis")
    ax.set_axis_off()
    ax.set_title(f"the first {first} codes", fontsize=10)
fig.suptitle("Cells that are drawn after so many codes (yellow: late)", fontsize=11)
plots.save(fig, ws, "04_order")

# %% [markdown]
# Four cells far apart come first, then twelve more, then what lies between.
#
# Two checks on real codes before training: an untrained prior must cost about $\ln K$, and no
# prediction may depend on codes that are drawn later. So all codes from one turn on are changed:
# which predictions move?

# %%
codes, labels = held_out[0][:8, 0].long().to(ws.device), held_out[1][:8].to(ws.device)
print(f"untrained: {gpt.nats(codes, labels).mean():.3f} nats/code, ln K = {lines['ln K']:.3f}")
turn, in_order = T // 2, codes[:, gpt.generation_order]             # (8, T)
changed = in_order.clone()
changed[:, turn:] = (changed[:, turn:] + 1) % K
before, after = (gpt(some[:, :-1], labels) for some in (in_order, changed))     # (8, T, K)
moved = (before - after).abs().amax((0, 2)).nonzero()[:, 0]         # turns
print(f"codes from turn {turn} on were changed: predictions of turns {moved.min()}..{moved.max()} "
      "move")

# %% [markdown]
# Both hold: only predictions after the changed turn move, so none sees its own code or a later one.
#
# ## Train the whole grid

# %%
training = replace(preset.prior_training, seed=SEED)
loop = train_prior(gpt, train, held_out, training, ws.folder / "prior")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(ws.folder / "prior.safetensors", gpt, **ws.metadata, training=training)

# %% [markdown]
# ## Train the report's window
#
# Under `flagship` with the same updates, batch and schedule; under `quick` with fewer.

# %%
training = replace(preset.windowed_training, seed=SEED)
loop = train_prior(windowed, train, held_out, training, ws.folder / "windowed")
for _step, _losses in watch(loop, training.steps):
    pass
save_model(ws.folder / "windowed.safetensors", windowed, **ws.metadata, training=training)

# %% [markdown]
# ## Training metrics
#
# Train and held-out loss of both against updates, and the learning rate, as the report shows them.
# Both losses are evaluated without dropout on equally many images, so a gap between them is
# overfitting, not dropout. The weights that are kept are those of the lowest held-out loss.

# %%
logs = {"whole grid": read_log(ws.folder / "prior"),
        "window": read_log(ws.folder / "windowed")}
best = {name: min((line for line in log if "held_out" in line), key=lambda line: line["held_out"])
        for name, log in logs.items()}
for name, line in best.items():
    print(f"{name:11s} best at update {line['step']}: held out {line['held_out']:.2f}, "
          f"training images {line['train']:.2f} nats/code")

# %%
fig, axs = plt.subplots(1, 2, figsize=(9.5, 3.8), width_ratios=(1.7, 1))
for (name, log), colour in zip(logs.items(), ("tab:blue", "tab:red")):
    plots.curve(axs[0], log, "train", f"{name}, train", color=colour, ls="--", marker=".")
    plots.curve(axs[0], log, "held_out", f"{name}, held out", color=colour, marker=".")
    plots.curve(axs[1], log, "lr", name, color=colour)
lowest = min(line["held_out"] for line in best.values())
axs[0].axhline(lines["unigram"], color="0.6", lw=0.8)
axs[0].text(0.99, lines["unigram"], "unigram", va="bottom", ha="right", color="0.4", fontsize=9,
            transform=axs[0].get_yaxis_transform())
axs[0].set(ylabel="nats per code", title="Loss", ylim=(lowest - 0.2, lines["unigram"] + 0.3))
axs[1].set(ylabel="learning rate", title="Schedule")
axs[0].legend(fontsize=9)
plots.save(fig, ws, "04_training")

# %% [markdown]
# Held-out loss lies no higher than training loss for either (4.11 against 4.18, and 4.24 against
# 4.34), so nothing is memorised. (Half of the held-out images are scored here; all of them follow
# below.) The weights kept are the last. The whole grid is far ahead at first; then the window, too,
# learns what lies side by side.
#
# ## Likelihood of lesions never seen
#
# The negative log-likelihood is what an arithmetic coder driven by the prior would spend: nats per
# code, bits per image (a fixed-length code spends $T \log_2 K$), and bits per colour value of the
# image that the codes stand for. It is the price of the *codes*: the picture they give back is not
# the original.

# %%
codes, labels = held_out[0][:, 0], held_out[1]                      # (m, T), (m,)
nats = {"whole grid": held_out_nats(gpt, codes, labels),
        "window": held_out_nats(windowed, codes, labels)}           # (m, T) each
n_values = 3 * dataset.geometry.crop**2
result = {name: likelihood(values, n_values) for name, values in nats.items()}
print(f"fixed-length code: {T * math.log2(K):.0f} bits/image")
for name, r in result.items():
    print(f"{name:11s} {r['nats_per_code']:.3f} nats/code  {r['bits_per_code']:.2f} bits/code  "
          f"{r['bits_per_image']:.0f} bits/image  {r['bits_per_dim']:.4f} bits/value")
ours, window = (result[name]["nats_per_code"] for name in ("whole grid", "window"))
print(f"whole grid over window: {ours / window:.2f}")

# %%
any_class = torch.full_like(labels, len(dataset.classes))
without = held_out_nats(gpt, codes, any_class)                      # (m, T)
gain = (without.sum(1) - nats["whole grid"].sum(1)).mean() / math.log(2)
per_image = result["whole grid"]["bits_per_image"]
print(f"knowing the diagnosis saves {gain:.1f} bits of an image's {per_image:.0f}")

# %% [markdown]
# The whole grid needs 4.156 nats per code, the window 4.287: a ratio of 0.97 after equal updates.
# (Under `quick`, where the window has fewer updates, it is lower.) Knowing the diagnosis saves 1.5
# of an image's 1535 bits. So little divides the two by likelihood; notebook 5 shows how much it
# does in pictures.
#
# ## Where is an image hard to predict?
#
# The mean cost of each cell over the held-out images. Find the pattern of dear cells in the left
# map.

# %%
fig, axs = plt.subplots(1, 2, figsize=(9, 3.8))
costs = {name: values.mean(0) for name, values in nats.items()}     # (T,) each
low = min(cost.quantile(0.01) for cost in costs.values())
high = max(cost.quantile(0.99) for cost in costs.values())
for ax, (name, cost) in zip(axs, costs.items()):
    picture = ax.imshow(cost.view(side, side), vmin=low, vmax=high, cmap="magma")
    ax.set_axis_off()
    ax.set_title(f"{name}: {cost.mean():.2f} nats per code")
fig.colorbar(picture, ax=axs, label="nats per code")
plots.save(fig, ws, "04_cells")
by_turn = costs["whole grid"][gpt.generation_order.cpu()]           # (T,)
print(f"whole grid: first {T // 16} codes {by_turn[: T // 16].mean():.2f} nats each, "
      f"last {T // 2} {by_turn[T // 2 :].mean():.2f}")

# %% [markdown]
# The left map shows the generation order: codes that are drawn first, with nothing around them,
# cost most (4.86 nats each), the last, which close gaps, less (3.96). The window pays most at the
# top left, where it has seen nothing yet. In both maps the middle is dear, where lesions are.
#
# ## What we learned
#
# - Compare priors on the same codes, in nats per code of lesions never seen, beside $\ln K$ and the
#   unigram entropy.
# - Yes: 4.156 nats per code instead of 6.238, on HAM10000.
# - A codebook that is used evenly leaves little to the unigram: what can be saved is context.
# - Likelihood does not say what samples look like: notebook 5 draws them.

# %%
measured = {"knowing nothing, ln K": f"{lines['ln K']:.2f} nats per code",
        "unigram": f"{lines['unigram']:.2f} nats per code",
        "the report's window": f"{window:.2f} nats per code",
        "whole grid": f"{ours:.2f} nats per code",
        "whole grid, an image": f"{per_image:.0f} bits"}
save_results(ws, "04", f"{ours:.2f} nats/code (window {window:.2f})", lines=lines, **result,
             bits_saved_by_class=float(gain), best=best["whole grid"],
             rows=measured)
print(footer(ws, SEED))

# %% [markdown]
# This run, beside three that are kept (validation split); compare yours with the one of its preset
# and data:

# %%
Markdown(expected("04", measured))

# %% [markdown]
# ## Exercises
#
# **4.1** How many *bytes* does the average held-out image take, coded by the whole-grid prior? (The
# fixed-length code takes $T \log_2 K / 8$.)
#
# <details><summary>Solution</summary>Nats per code divided by ln 2 are bits per code; times the
# number of codes, divided by 8, are bytes.</details>

# %% tags=["exercise"]
ANSWER = None                                # bytes
check("4.1", ANSWER, near(per_image / 8, within=2),
      why="nats / ln 2 x codes / 8", hint=f"start from {ours:.3f} nats per code")

# %% [markdown]
# **4.2** Tell the prior a *wrong* diagnosis for every held-out image. Will an image cost more bits
# than with none at all, fewer, or as many?
#
# <details><summary>Solution</summary>More, if the prior has learnt what classes mean: a wrong class
# makes it expect the wrong thing. The difference is small, because most of an image does not depend
# on the diagnosis.</details>

# %% tags=["exercise"]
ANSWER = None                                # "more", "fewer" or "as many"
wrong = (labels + 1) % len(dataset.classes)
cost = (held_out_nats(gpt, codes, wrong) - without).sum(1).mean() / math.log(2)
measured = f"a wrong diagnosis: {cost:+.1f} bits per image against none"
check("4.2", ANSWER, lambda answer: answer == ("more" if cost > 0 else "fewer"),
      why="expecting the wrong thing costs more than expecting anything",
      hint="what does a prior pay for an event that it thinks unlikely?", measured=measured)

# %% [markdown]
# **4.3** Change one setting: `replace(gpt.cfg, layers=1)`. By what factor does the number of
# parameters shrink? (`sum(p.numel() for p in gpt.parameters())`)
#
# <details><summary>Solution</summary>Each layer has the same number. But most parameters are in the
# embeddings: a table of K vectors for each of the neighbours that a cell looks at. So the factor is
# far smaller than the ratio of the numbers of layers.</details>

# %% tags=["exercise"]
ANSWER = None                                # a factor above 1
small = GPT(replace(gpt.cfg, layers=1))
sizes = [sum(p.numel() for p in model.parameters()) for model in (gpt, small)]
check("4.3", ANSWER, near(sizes[0] / sizes[1], within=0.05),
      why=f"{sizes[0]:,} against {sizes[1]:,} parameters", hint="count both models")

# %% [markdown]
# ## Optional: entropy-constrained codes
#
# The encoder takes the nearest code, whatever it costs. If two codes lie nearly as close, why not
# the one that the prior expects? *Entropy-constrained* codes minimise the squared distance plus
# lambda times the nats, cell after cell (Chou, Lookabaugh & Gray 1989). Lambda 0 is the nearest
# code. Predict: how many bits can be saved before the picture suffers?

# %%
rows = dataset.splits[SPLIT][:: max(1, len(dataset.splits[SPLIT]) // 64)][:64]
x, y = dataset[rows].to(ws.device), dataset.labels[rows]
z = vqvae.encoder(vqvae.normalise(x)).detach()                      # (64, D, h, w)
e = vqvae.quantizer.lookup(vqvae.encode(x))
mean_distance = (z - e).square().sum(1).mean().item()               # squared, to the nearest code
curve = []
for part in (0, 0.1, 0.2, 0.5, 1, 2):
    constrained = EntropyConstrainedEncoder(vqvae, gpt, part * mean_distance)
    chosen = constrained.encode(x)
    bits = held_out_nats(gpt, chosen.flatten(1), y).mean().item() / math.log(2)
    decibels = psnr(vqvae.decode(chosen).cpu(), x.cpu()).mean().item()
    curve.append((bits, decibels))
    print(f"lambda {constrained.lambda_:5.2f} ({part} of the mean squared distance): "
          f"{bits:.2f} bits/code, {decibels:.2f} dB")

# %%
fig, ax = plt.subplots(figsize=(5.5, 3.4))
ax.plot(*zip(*curve), marker="o", label="entropy-constrained codes")
ax.plot(*curve[0], marker="o", color="tab:red", label="nearest codes")
ax.set(xlabel="bits per code by the prior", ylabel="PSNR, dB",
       title=f"Bits against decibels, {len(rows)} images")
ax.legend()
plots.save(fig, ws, "04_entropy_constrained")

# %% [markdown]
# The curve is flat at its right end: going from 5.76 to 5.61 bits per code costs less than a tenth
# of a decibel (34.48 to 34.42 dB), so those bits probably described noise. Farther left each bit
# gets dearer: 4.66 bits per code give 33.33 dB.
