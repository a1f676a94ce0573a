# %% [markdown]
# # 5. Are samples lesions, new, and varied?
#
# **Reads** `vqvae.safetensors` and `flow-decoder.safetensors` (notebook 2), `prior.safetensors` and
# `windowed.safetensors` (notebook 4). **Writes** `05.json` and `figures/<preset>/05_*.png`.
# **Takes** four minutes on one core. With `PRESET = "flagship"` and without HAM10000 it runs on the
# weights that ship: cells that need photographs show the committed figure instead.
#
# You will draw new images from both priors, of any class and at several temperatures, find out what
# the report's PSNR of 12.7 measured, and evaluate samples beside photographs that no model has
# seen.
#
# Numbers in the text are of the weights that ship, on HAM10000. Yours differ with preset and data:
# a table near the end has both.

# %%
from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Markdown, display

from vqlib import explorers, metrics, plots
from vqlib.checkpoint import load_model
from vqlib.evaluation import layout_stats, memorisation, tables
from vqlib.evaluation.suite import EvaluationContext
from vqlib.exercises import check, near
from vqlib.flow_decoder import StochasticDecoder
from vqlib.pipeline import find_weights, load_pipeline, models_of
from vqlib.records import expected
from vqlib.studies import results
from vqlib.workspace import footer, open_workspace, save_results

# %% tags=["parameters"]
PRESET = None  # None: $VQLIB_PRESET, else "quick"
DATA = None    # None: $VQLIB_DATA, else data/ham10000, else synthetic lesions
SEED = 0
SPLIT = "validation"
SETTINGS = {"temperature": 1.0, "first_top_p": 0.95}  # of samples, chosen on validation images
GUIDANCE = 2.0                                        # for a diagnosis on demand

# %%
ws = open_workspace(PRESET, DATA)
ws.require("prior", "windowed", "flow_decoder")
folder, photographs = models_of(ws)      # photographs: None if the weights learnt from others
print(ws if photographs else "no photographs: weights that ship, preset flagship")
pipeline = load_pipeline(folder, needs=("prior", "flow-decoder"))
vqvae, gpt, classes, flow_decoder = (pipeline.vqvae, pipeline.gpt, pipeline.classes,
                                     pipeline.flow_decoder)
windowed, _ = load_model(find_weights(folder, "windowed"), "windowed_gpt")
stochastic = StochasticDecoder(vqvae, flow_decoder)
side, K, ANY, n = vqvae.cfg.grid, vqvae.cfg.n_codes, len(classes), ws.preset.n_samples

# %% [markdown]
# These lines say which data, preset and weights this run uses.
#
# ## Without a prior: random codes
#
# The report's first "generated" image draws every cell independently. What should it look like, if
# the decoder is good and knows nothing of lesions?

# %%
rng = torch.Generator().manual_seed(SEED)
noise = torch.randint(K, (8, side, side), generator=rng)
if photographs:
    chunks = np.array_split(photographs.splits[SPLIT], 8)
    used = torch.cat([pipeline.encode(photographs[chunk]).flatten() for chunk in chunks])
else:
    used = gpt.generate(torch.full((64,), ANY), seed=SEED).flatten().cpu()
frequent = used[torch.randint(len(used), (8, side, side), generator=rng)]
textures = pipeline.decode(torch.cat([noise, frequent]), "least-squares")
fig, ax = plt.subplots(figsize=(8, 2.5))
plots.show_images(ax, textures,
                  title="Random codes. Rows: all equally likely; as often as in "
                  + ("photographs" if photographs else "samples"))
plots.save(fig, ws, "05_random_codes")

# %% [markdown]
# Texture without a lesion, in both rows: the frequencies of codes do not make a lesion.
#
# ## Two decoders for the same codes
#
# The *least-squares decoder*, the VQ-VAE's own, gives the mean of all images that fit the codes: it
# adds no random detail, and it is blurred. The *flow decoder* adds a draw of what the mean leaves
# out. Predict: where do draws differ most, and which decoder has the higher PSNR?

# %%
if photographs:
    shown = min(8, len(photographs.splits[SPLIT]))
    rows = np.random.default_rng(SEED).choice(photographs.splits[SPLIT], shown, replace=False)
    x, codes = photographs[rows], pipeline.encode(photographs[rows])
else:
    shown, x, codes = 8, None, gpt.generate(torch.full((8,), ANY), seed=SEED).view(8, side, side)
draws = torch.stack([pipeline.decode(codes, "flow", seed) for seed in range(8)])
decoded = {"least-squares decoder": pipeline.decode(codes, "least-squares"),
           "flow decoder": draws[0], "mean of 8 draws": draws.mean(0)}
invented = draws.std(0).mean(1, keepdim=True).expand(-1, 3, -1, -1)
finest = {name: metrics.finest_octave(images) for name, images in decoded.items()}
if photographs:
    finest["photographs"] = metrics.finest_octave(x)
    for name, x_hat in decoded.items():
        print(f"{name:22s} {metrics.psnr(x_hat, x).mean():.1f} dB")
for name, share in finest.items():
    print(f"{name:22s} {share:.2%} of the energy at the finest octave")

# %%
fig, ax = plt.subplots(figsize=(8.5, 5.8 if photographs else 4.7))
rows = [decoded["least-squares decoder"], *draws[:2], invented / invented.max()]
title = "Rows: original, least squares, flow decoder twice, where draws differ (bright)"
plots.show_images(ax, torch.cat(([x] if photographs else []) + rows), per_row=shown,
                  title=title if photographs else title.replace("original, ", ""))
plots.save(fig, ws, "05_flow_decoder")

# %% [markdown]
# Draws differ most inside lesions and at hairs, least on plain skin. The least-squares decoder has
# the higher PSNR, 33.8 against 31.8 dB: an invented detail that is wrong costs more than none. The
# mean of eight draws is nearly the least-squares image again (33.5 dB).
#
# The *finest octave* is what is left of an image when its 2 x 2 px means are taken away. A flow
# that has not trained long enough has too much of it, grain on skin. So samples are shown by the
# flow decoder only if its share is at most 1.3 times the photographs'.

# %%
SHOWN = "flow decoder"
if photographs and finest["flow decoder"] > 1.3 * finest["photographs"]:
    SHOWN = "least-squares decoder"
by = {"flow decoder": "flow", "least-squares decoder": "least-squares"}[SHOWN]
print(f"samples are shown by the {SHOWN}")

# %% [markdown]
# ## Two priors, side by side
#
# Same codes, same least-squares decoder, temperature 1, nothing picked: left the report's window,
# right the whole grid, whose classes are drawn as often as they occur in training (without
# photographs: any class). Ask of each picture: is there *one* lesion, with a border, on skin?

# %%
def progress(t, total):
    if t % (total // 4) == 0:
        print(f"  {t}/{total} codes", flush=True)


drawn = torch.full((n,), ANY)
if photographs:
    train_labels = photographs.labels[photographs.splits["train"]]
    drawn = train_labels[torch.randint(len(train_labels), (n,), generator=rng)]
prior_codes = {"window": windowed.to(ws.device).generate(n, seed=SEED, progress=progress),
               "whole grid": gpt.generate(drawn, seed=SEED, progress=progress)}

# %%
fig, axs = plt.subplots(1, len(prior_codes), figsize=(10, 2.9 * n / 32 + 0.3))
for ax, (name, drawn_codes) in zip(axs, prior_codes.items()):
    images = pipeline.decode(drawn_codes, "least-squares")
    plots.show_images(ax, images, title=f"{name}, temperature 1, seed {SEED}")
    print(f"{name:11s} {layout_stats.whole(layout_stats.describe(images)):.0%} whole lesions")
plots.save(fig, ws, "05_two_priors")

# %% [markdown]
# The window draws blots without a border, the report's "textures without lesions": the segmenter
# finds a whole lesion in 9 % of them, in 78 % of the whole grid's. By likelihood the two were close
# (notebook 4). Besides what they see they differ in inputs and order; a study below takes these
# apart.
#
# ## Samples beside photographs
#
# The whole grid once more, with settings chosen on validation images: the first 16 codes, far
# apart, settle where a lesion lies, and nothing mends a rare one there, so they are drawn from the
# likeliest codes that hold 95 % of the probability (`first_top_p`). Below, as many photographs that
# no model has seen. Count in both: how many show a lesion with a border, on skin?

# %%
sample_codes = gpt.generate(drawn, **SETTINGS, seed=SEED)           # (n, T)
samples = pipeline.decode(sample_codes, by)
settings = ", ".join(f"{name} {value}" for name, value in SETTINGS.items())
fig, ax = plt.subplots(figsize=(8.5, 4.4 * n / 32 + 0.3))
plots.show_images(ax, samples, title=f"{n} samples, none picked: whole grid, {SHOWN}, {settings}")
plots.save(fig, ws, "05_samples")
whole_samples = layout_stats.whole(layout_stats.describe(samples))
print(f"whole lesions, by the segmenter: {whole_samples:.0%} of the samples")

# %%
if photographs:
    rows = np.random.default_rng(SEED).permutation(photographs.splits[SPLIT])[:n]
    fig, ax = plt.subplots(figsize=(8.5, 4.4 * n / 32 + 0.3))
    plots.show_images(ax, photographs[rows], title=f"{n} photographs, none picked: {SPLIT} split")
    plots.save(fig, ws, "05_photographs")
    real_whole = layout_stats.whole(layout_stats.describe(photographs[rows]))
    print(f"whole lesions, by the segmenter: {real_whole:.0%} of the photographs")
else:
    plots.show_committed("05_photographs")

# %% [markdown]
# By the segmenter 84 % of the samples and 81 % of the photographs show a whole lesion. Its rule
# errs both ways: it passes a mosaic and a pale patch of samples, and rejects lesions that eyes see.
# By one eye 27 of the 32 samples and 30 of the 32 photographs show one. Layout, colour and
# diagnosis are in the codes, skin lines and grain are drawn on top.
#
# ## A diagnosis on demand
#
# Eight samples of each class, with guidance: the step from "any class" to this class is taken
# twice. Compare with the photographs of notebook 1, row by row.

# %%
per_class = torch.arange(ANY).repeat_interleave(8)
guided = gpt.generate(per_class, **SETTINGS, guidance=GUIDANCE, seed=SEED)
images = pipeline.decode(guided, by)
fig, axs = plt.subplots(ANY, 1, figsize=(7, 0.95 * ANY), squeeze=False)
for ax, name, row in zip(axs.flat, classes, images.split(8)):
    plots.show_images(ax, row)
    ax.set_title(name, loc="left", fontsize=10)
plots.save(fig, ws, "05_classes")

# %% [markdown]
# `mel` is dark and irregular (one of eight is plain skin), `vasc` crimson or blue, `akiec` scaly,
# `bcc` pale with fine lines, `nv` reddish brown, two of eight without a lesion. `bkl` and `df` look
# like many things. After the few updates of `quick` less can be seen.
#
# ## Temperature
#
# Dividing the logits by a temperature below 1 makes likely codes likelier. The same seed in each
# row; the title counts how many different codes an image has.

# %%
TEMPERATURES = (0.7, 0.85, 1.0, 1.1)
fig, axs = plt.subplots(len(TEMPERATURES), 1, figsize=(8, 1.25 * len(TEMPERATURES)))
for ax, temperature in zip(axs, TEMPERATURES):
    drawn_codes = gpt.generate(drawn[:8], temperature, seed=SEED)
    different = np.mean([len(codes.unique()) for codes in drawn_codes])
    plots.show_images(ax, pipeline.decode(drawn_codes, by))
    ax.set_title(f"temperature {temperature}: {different:.0f} different codes an image",
                 loc="left", fontsize=10)
    print(f"temperature {temperature}: {different:.0f} different codes an image")
plots.save(fig, ws, "05_temperature")

# %% [markdown]
# At 0.7 an image has 64 different codes, at 1 it has 105: lesions get tidier and more alike, and
# skin flatter.
#
# ## What the report's 12.7 dB measured
#
# A generated image has no original, so it has no PSNR. For reconstructions the report took $-10
# \log_{10} \mathrm{MSE}$ of *normalised* pixels and called the peak 1. But these are the [0, 1]
# ones divided by a standard deviation of about 0.17, which lowers the result by
#
# $$-10 \log_{10} \overline{\sigma^2} \;=\; 15.15\ \mathrm{dB}
#   \quad\text{for the report's } \sigma = (0.1701, 0.1709, 0.1831).$$

# %%
shift = -10 * np.log10(np.square(metrics.REPORT_STD).mean())
print(f"the report: 12.70 + {shift:.2f} = {12.70 + shift:.2f} dB on [0, 1]")
if photographs:
    details = metrics.reconstruct(vqvae, photographs, SPLIT)
    result = metrics.summary(details, classes, K)
    normalised, plain = result["report_psnr"]["mean"], result["psnr"]["mean"]
    print(f"here, {SPLIT}: {normalised:.1f} dB of normalised pixels, {plain:.1f} dB on [0, 1]: "
          f"{plain - normalised:.1f} dB apart")
    fig, ax = plt.subplots(figsize=(6.5, 3))
    ax.hist(details["report_psnr"], 40, color="tab:red", alpha=0.6, label="of normalised pixels")
    ax.hist(details["psnr"], 40, color="tab:blue", alpha=0.6, label="on [0, 1]")
    ax.axvline(12.70, color="tab:red", lw=1)
    ax.axvline(12.70 + shift, color="tab:blue", lw=1)
    ax.set(xlabel="PSNR of a reconstruction, dB", ylabel="images",
           title="The same errors, measured in two ways; lines: the report")
    ax.legend()
    plots.save(fig, ws, "05_psnr")
else:
    plots.show_committed("05_psnr")

# %% [markdown]
# So the report's 12.70 dB are 27.85 dB on [0, 1]. Ours are 18.2 and 34.3 dB, 16.1 dB apart: the
# same errors, divided by the deviations of our data, which are a little smaller than the report's.
#
# ## Are they new, and varied?
#
# Each sample's nearest training image, in any of eight flips and quarter turns, by the root mean
# squared difference of 32 x 32 thumbnails. A distance alone says little, so the same is done for
# held-out *photographs*: samples that are nearer than the nearest 1 % of these count as memorised.
# How varied samples are, their distances to each other tell.

# %%
near_train = {"share": None}
if photographs:
    bank = memorisation.thumbnail_bank(photographs, photographs.splits["train"])    # (N, d)
    ours = memorisation.augmented_thumbnails(samples)                               # (8, n, d)
    real = memorisation.augmented_thumbnails(photographs[photographs.splits[SPLIT]])
    _, nearest_rows = memorisation.nearest(ours, bank)                              # (n,)
    near_train = memorisation.memorisation(ours, real, bank)
    print(f"distance to train: samples {near_train['median']:.3f}, "
          f"held-out {near_train['median_held_out']:.3f} (medians)")
    apart = [torch.pdist(images[0]).median() / images.shape[-1] ** 0.5 for images in (ours, real)]
    print(f"distance of two samples {apart[0]:.3f}, of two held-out {apart[1]:.3f} (medians)")
    if near_train["share"] is None:
        print(f"{real.shape[1]} held-out images are too few for a first percentile")
    else:
        times = tables.interval(near_train["ratio"], near_train["ratio_95"], ".1f")
        print(f"{near_train['share']:.0%} of {n} samples are nearer than the first percentile of "
              f"held-out images: {times} times as often as new photographs")

# %%
if photographs:
    nearest = photographs[photographs.splits["train"][nearest_rows[:16]]]
    pairs = torch.cat([samples[:8], nearest[:8], samples[8:16], nearest[8:]])
    fig, ax = plt.subplots(figsize=(8, 4.4))
    plots.show_images(ax, pairs,
                      title="Rows 1 and 3: samples; below each: its nearest training image")
    plots.save(fig, ws, "05_nearest")
else:
    plots.show_committed("05_nearest")

# %% [markdown]
# Samples are about as far from the training images as photographs that no model has seen (0.057 and
# 0.061), and none of the 32 is nearer than the nearest 1 % of these. Two samples differ a little
# less than two photographs do (0.165 and 0.181): new, and nearly as varied.
#
# ## As far from real images as reality is?
#
# KID-Lite0 is the squared distance between two sets of images in features of an ImageNet network,
# times 1,000: about 0 for two sets of photographs. Reconstructions bound samples: what the decoder
# cannot draw, no prior can make it draw. Guess: which adds more to the distance of samples, the
# decoder or the prior?

# %%
if photographs:
    context = EvaluationContext(vqvae, gpt, photographs, SPLIT, stochastic_decoder=stochastic,
                                n=ws.preset.n_compared, classes=classes,
                                sampling=SETTINGS)
    real_codes = context.encode(context.images)
    kid_codes = context.generate(context.labels, SEED)
    features = {"photographs, training": context.real_features(photographs, context.train_sample)}
    for name, decoder in context.decoders.items():
        features[f"reconstructions, {name}"] = context.embed(context.decode(real_codes, decoder))
        features[f"samples, {name}"] = context.embed(context.decode(kid_codes, decoder))
    for name, embedded in features.items():
        distances = context.distances(embedded, paired=name.startswith("reconstructions"))
        print(f"{name:30s} KID-Lite0: {distances.get('skipped') or tables.kid(distances)}")

# %% [markdown]
# With the flow decoder samples are at 106, reconstructions at 72: the decoder adds more than the
# prior does. Least squares is farther off with either (132 and 106): blur seems to be what the
# network notices first. Which codes the prior's part comes from, an optional section at the end
# asks.
#
# All measures of the weights that ship, on the *test* split. It takes minutes, so it is not
# repeated here; the command, and what was chosen on which split, stand in
# `data/pretrained/README.md`. FD is a second distance in the same features; *layout* compares where
# and how large lesions are with as many training images; four percentages are of four sets of
# samples.

# %%
on_test = tables.published(folder, ws.preset.name, "test")
Markdown(tables.markdown(on_test["generation"]) if on_test else
         "Only the weights that ship have been evaluated in full.")

# %% [markdown]
# On the test split samples are at 114, reconstructions at 73 by the flow decoder. As many samples
# show a whole lesion (77 to 82 %) as photographs do (79 %), but they lie off the middle 2.9 times
# as much as chance makes photographs'. `vasc` looks right above, yet the classifier recognises none
# of the flow decoder's, and 0.41 of those by least squares.
#
# ## From the window to here, one fix at a time
#
# Priors on the same codes for the same 300 updates: each row of the path changes one thing more,
# each row below `ours` one thing alone (`python -m vqlib.studies prior`).

# %%
Markdown(results.table("prior"))

# %%
fig, ax = plt.subplots(figsize=(8, 4.2))
results.draw(ax, "prior")
ax.set_title("Blue: from the window to ours; grey: one change of ours")
plots.save(fig, ws, "05_ablations", results.setup("prior"))

# %% [markdown]
# Structure is the mean of six layout distances; 1 is as near as training images. Neighbouring codes
# as inputs gain most (-0.304 nats), then the whole grid (-0.177), with which structure falls from
# 6.3 to 1.7. Later it is 3.6 with neighbours and class, and 3.0 with the coarse-to-fine order,
# which costs 0.054 nats here and is kept for what it may gain there. The other changes are within
# noise or lose.
#
# ## Try it
#
# The first explorer draws: every setting of `generate`, and the lesion grows from coarse to fine.
# It finds the nearest training image, and keeps samples as a file with settings and seed inside.
# The second paints over: mark a part of a sample or of your own picture, choose a diagnosis, and
# see several redraws of that part.

# %%
touch = replace(pipeline, flow_decoder=flow_decoder if by == "flow" else None)
display(explorers.show(explorers.Sampler(touch, photographs)),
        explorers.show(explorers.Inpainting(touch)))

# %% [markdown]
# ## What we learned
#
# - The report's window paints texture; a prior that sees the whole grid draws a lesion on skin.
# - PSNR belongs to reconstructions, on [0, 1]: the report's 12.7 dB are 27.85 dB.
# - Every measure of samples needs the same measure of photographs beside it.
# - The flow decoder looks better by inventing. Nobody may diagnose from lines that a generator
#   drew.

# %%
memorised = tables.number(near_train["share"], ".0%")
found = {"PSNR": f"{result['psnr']['mean']:.1f} dB",
         "PSNR in the report's units": f"{result['report_psnr']['mean']:.1f} dB",
         "photographs that are whole lesions": f"{real_whole:.0%}"} if photographs else {}
found |= {"samples that are whole lesions": f"{whole_samples:.0%}",
          "samples nearer to train than the nearest 1 % of photographs": memorised,
          "shown by": SHOWN}
save_results(ws, "05", f"{n} samples, {whole_samples:.0%} whole lesions, {memorised} memorised",
             reconstruction=result if photographs else None, memorisation=near_train, rows=found)
print(footer(ws, SEED))

# %% [markdown]
# This run, beside three that are kept (validation split); compare yours with the one of its preset
# and data:

# %%
Markdown(expected("05", found))

# %% [markdown]
# ## Exercises
#
# **5.1** The report divided by a standard deviation of about 0.17. Had it been 0.25, by how many dB
# would its PSNR have been too low?
#
# <details><summary>Solution</summary>-10 log10(0.25 x 0.25) = 12.0 dB: the smaller the deviation,
# the larger the error looks once it is divided by it.</details>

# %% tags=["exercise"]
ANSWER = None                                # dB
error = 0.02 * torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(SEED))
plain, divided = (-10 * (error / std).square().mean().log10().item() for std in (1, 0.25))
measured = f"{plain:.1f} dB, divided by 0.25: {divided:.1f} dB"
check("5.1", ANSWER, near(plain - divided, within=0.3),
      why="dividing the error by s multiplies its square by 1/s^2", hint="10 log10 of what?",
      measured=measured)

# %% [markdown]
# **5.2** Draw the eight images above at temperature 0.5. Will an image have more different codes
# than at 1, fewer, or as many?
#
# <details><summary>Solution</summary>Fewer: probability moves from rare codes to the likeliest, so
# the same few stand everywhere. The picture gets smoother and more like all others.</details>

# %% tags=["exercise"]
ANSWER = None                                # "more", "fewer" or "as many"
TEMPERATURE = 0.5                            # try others, such as 2
different = {t: np.mean([len(codes.unique()) for codes in gpt.generate(drawn[:8], t, seed=SEED)])
             for t in (1.0, TEMPERATURE)}
measured = {t: round(float(count), 1) for t, count in different.items()}
check("5.2", ANSWER, lambda answer: answer == "fewer",
      why="likely codes become likelier",
      hint="what does dividing logits by 0.5 do to the largest?", measured=measured)

# %% [markdown]
# **5.3** Redraw the right half of a sample (`known`, `keep`) and leave the codes of the left half
# as they are. Do pixels of the left half change: "none", "some" or "all"?
#
# <details><summary>Solution</summary>Some. The codes are the same, but the decoder looks at the
# neighbours of a cell, so pixels next to the seam change with what was drawn beside them.</details>

# %% tags=["exercise"]
ANSWER = None                                # "none", "some" or "all"
keep = torch.zeros(1, side, side, dtype=torch.bool)
keep[..., : side // 2] = True
again = gpt.generate(drawn[:1], seed=SEED + 1, known=sample_codes[:1], keep=keep.flatten(1))
before, after = (metrics.to_8_bits(pipeline.decode(codes, "least-squares"))
                 for codes in (sample_codes[:1], again))
left = (before != after).any(1)[..., : before.shape[-1] // 2].float().mean().item()
measured = f"{left:.0%} of the pixels of the left half change"
check("5.3", ANSWER, lambda answer: answer == "some" and 0 < left < 1,
      why="the decoder sees a cell's neighbours", hint="what does a pixel near the seam depend on?",
      measured=measured)

# %% [markdown]
# ## Optional: the same seed, the same sample
#
# Sampling can be repeated with its seed. And the cached sampler must be the same function as the
# model that was trained: greedy sampling returns the likeliest code of a full pass at every cell.

# %%
labels = torch.full((4,), ANY, device=ws.device)
once, again = (gpt.generate(labels, seed=SEED) for _ in range(2))
greedy = gpt.generate(labels, top_k=1)
in_order = greedy.to(ws.device)[:, gpt.generation_order]
agreement = (gpt(in_order[:, :-1], labels).argmax(-1) == in_order).float().mean()
print(f"same seed, same codes: {torch.equal(once, again)}; "
      f"another seed: {torch.equal(once, gpt.generate(labels, seed=SEED + 1))}")
print(f"greedy sampling agrees with full passes on {agreement:.2%} of the cells")

# %% [markdown]
# Both hold, so figures of samples can be redrawn by anyone.
#
# ## Optional: which codes carry samples away from photographs?
#
# Give the prior the first codes of held-out photographs, and let it draw the rest. With all codes
# known these are the reconstructions above, with none the samples. Predict: does the distance come
# from the first sixteen codes, which lay out the lesion, or from the many that follow?

# %%
if photographs:
    T, photographed = side * side, real_codes.flatten(1).cpu()                      # (n, T)
    turns = gpt.generation_order.argsort().cpu()                    # of each cell
    for known in (T // 2, T // 4, T // 16):
        keep = (turns < known).expand(len(photographed), -1)
        completed = gpt.generate(context.labels, **SETTINGS, seed=SEED, known=photographed,
                                 keep=keep)
        embedded = context.embed(context.decode(completed, context.decoders["flow"]))
        print(f"first {known:3d} codes known: KID-Lite0 "
              f"{tables.kid(context.distances(embedded, paired=True))}")

# %% [markdown]
# With the first sixteen codes of a photograph the distance is 102, nearly that of samples (106);
# with half of them 86, where all give 72. So a wrong layout is the smaller part: most of the
# distance comes with the many codes that fill it.
#
# ## Optional: what can be learnt from codes?
#
# No prior can put back what a codec has taken. Here is a classification accuracy score (CAS)
# without a prior: a classifier learns the diagnosis from all training *photographs* after a codec
# has stored them, and is tested on photographs that were not stored (`python -m vqlib.studies
# codec`).

# %%
fig, ax = plt.subplots(figsize=(7, 4))
results.draw_cas(ax)
ax.set_title("Classifiers trained on stored images: AUC over that of photographs")
plots.save(fig, ws, "05_cas", results.setup("codec"))
Markdown(results.table("codec"))

# %% [markdown]
# Codes lose little of the diagnosis: classifiers that learnt from least-squares images reach 0.951
# of the AUC, from both decoders 0.963, from the flow decoder's alone 0.888, since its texture is
# not that of photographs. AVIF of fewer bytes has 0.973. (The intervals overlap: one seed. Rows of
# 256 codes were measured with other weights of the same settings.)
