"""The report's tables, each from saved numbers."""
from dataclasses import asdict, dataclass

from torch import nn

from vqlib.metrics import REPORT_MEAN, REPORT_STD
from vqlib.report.derived import WRITTEN, of_course_report
from vqlib.report.text import Markdown, fixed, percent, pipe_table, rule, setting, spread
from vqlib.studies import results

NOT_GIVEN = Markdown("not given")


@dataclass(frozen=True)
class Tables:
    """A method for each table; `context` is what the template sees."""

    context: dict

    def __getitem__(self, name):
        return self.context[name]

    def glance(self) -> Markdown:
        ours, other, prior, course = (self[k] for k in ("ours", "other", "prior", "course"))
        derived = of_course_report(course, self["preset"].geometry)
        window, whole = prior["window"], prior["whole grid"]
        used = [Markdown(f"{r['codes_used']} of {r['n_codes']}") for r in (ours, other)]
        near = self["near"]["share"]
        rows = [
            ["PSNR on [0, 1], dB", *means("psnr", 1, ours, other),
             fixed(derived["psnr"]["course"], 2)],
            ["PSNR in the course report's units, dB", *means("report_psnr", 1, ours, other),
             fixed(course["psnr"].value, 1)],
            ["SSIM", *means("ssim", 3, ours, other), NOT_GIVEN],
            ["codes in use", *used, Markdown(f"{course['live_codes'].shown} of "
                                             f"{WRITTEN.vqvae.n_codes}")],
            ["perplexity of the codes", fixed(ours["perplexity"], 0),
             fixed(other["perplexity"], 0), Markdown(f"{course['perplexity'].shown} (training)")],
            ["nats per code, window", fixed(window["nats_per_code"], 2), "-",
             Markdown(f"{fixed(course['train_nats'].value, 2)} (training)")],
            ["nats per code, whole grid", fixed(whole["nats_per_code"], 2), "-", NOT_GIVEN],
            ["bits per image, whole grid", fixed(whole["bits_per_image"], 0), "-", NOT_GIVEN],
            ["samples nearer to training images than the nearest hundredth of validation images",
             percent(near), "-", NOT_GIVEN],
        ]
        header = ["measure", "this run", "baseline", "course report"]
        return pipe_table(header, rows, "lrrr")

    def classes(self) -> Markdown:
        counts, total = self["data"]["counts"], self["n_images"]
        rows = [[name, images, lesions, percent(images / total, 1)]
                for name, (images, lesions) in counts.items()]
        rows.append(["all", total, self["n_lesions"], percent(1, 1)])
        return pipe_table(["class", "images", "lesions", "share of images"], rows, "lrrr")

    def statistics(self) -> Markdown:
        data, rows = self["data"], []
        columns = data["mean"], REPORT_MEAN, data["std"], REPORT_STD
        for channel, values in zip(("red", "green", "blue"), zip(*columns)):
            rows.append([channel, *(fixed(value, 4) for value in values)])
        rows.append(["variance of all values", fixed(data["variance"], 4),
                     self["course"]["variance"].shown, "", ""])
        header = ["", "mean, here", "mean, course report", "std, here", "std, course report"]
        return pipe_table(header, rows, "lrrrr")

    def layers(self) -> Markdown:
        cfg, vqvae = self["vq"], self["models"]["vqvae"]
        x = vqvae.mean.new_zeros(1, 3, cfg.image_size, cfg.image_size)
        rows = [*layer_rows("encoder", vqvae.encoder, x)]
        z = x.new_zeros(1, cfg.code_dim, cfg.grid, cfg.grid)
        rows.append(["quantizer", f"codebook, {cfg.n_codes} x {cfg.code_dim}", size(z),
                     vqvae.quantizer.codebook.numel()])
        rows += layer_rows("decoder", vqvae.decoder, z)
        return pipe_table(["net", "layer", "returns", "parameters"], rows, "llrr")

    def vqvae_settings(self) -> Markdown:
        written = {"config": asdict(WRITTEN.vqvae), "training": asdict(WRITTEN.vqvae_training)}
        made, run = self["made"]["vqvae"], {"updates": self["course"]["vqvae_updates"].shown}
        rows = settings(VQVAE_SETTINGS, [written, made])
        rows = [[name, wrote, run.get(name, ""), here] for name, wrote, here in rows]
        rows.append(["error divided by", self["course"]["variance"].shown, "",
                     self["course"]["variance"].shown if self["preset"].divide_by_pixel_variance
                     else "variance of the same tensor"])
        return pipe_table(["setting", "course report", "as run", "this run"], rows, "lrrr")

    def prior_settings(self) -> Markdown:
        course, made = self["course"], self["made"]
        written = {"config": {**asdict(WRITTEN.windowed), "context": WRITTEN.windowed.window},
                   "training": asdict(WRITTEN.windowed_training)}
        window, whole = (add_context(made[name], share) for name, share in
                         (("windowed", 4), ("prior", 1)))
        run = {"updates": course["prior_updates"].shown, "images per update":
               course["prior_batch"].shown}
        rows = [[name, wrote, run.get(name, ""), *here]
                for name, wrote, *here in settings(PRIOR_SETTINGS, [written, window, whole])]
        rows.append(["parameters", "", "", *(self["parameters"][name]
                                             for name in ("windowed", "prior"))])
        header = ["setting", "course report", "as run", "window", "whole grid"]
        return pipe_table(header, rows, "lrrrr")

    def per_class(self) -> Markdown:
        found, lifts = self["ours"]["classes"], self["codebook"]["largest_lift"]
        rows = []
        for name in self["data"]["counts"]:
            lift = fixed(lifts.get(name), 1)
            if name in found:
                own = found[name]
                rows.append([name, own["images"], spread(own["psnr"], 1), spread(own["ssim"], 3),
                             fixed(own["psnr"]["min"], 1), lift])
            else:
                rows.append([name, 0, "-", "-", "-", lift])
        header = ["class", "images", "PSNR, dB", "SSIM", "worst PSNR, dB", "largest lift"]
        return pipe_table(header, rows, "lrrrrr")

    def priors(self) -> Markdown:
        prior, rows = self["prior"], []
        for name in ("whole grid", "window"):
            r = prior[name]
            rows.append([name, fixed(r["nats_per_code"], 3), fixed(r["bits_per_code"], 2),
                         fixed(r["bits_per_image"], 0), fixed(r["bits_per_dim"], 4)])
        return pipe_table(["prior", "nats per code", "bits per code", "bits per image",
                           "bits per value"], rows, "lrrrr")

    def on_test(self) -> Markdown:
        rows = self["on_test"]["rows"]
        return pipe_table(["measure", "value", "beside it"], rows, "prp")

    def study(self, name: str) -> Markdown:
        """The table that notebooks show, with its numbers to the right."""
        header, _, *rows = results.table(name, results.FOLDER).splitlines()
        align = "l" + "r" * (header.count("|") - 3) + "l"
        return Markdown("\n".join([header, rule(align), *rows]))

    def course(self) -> Markdown:
        rows = [[value.what, value.shown, value.source] for value in self["course"].values()]
        return pipe_table(["what", "value", "read in"], rows, "plp")


def means(metric: str, digits: int, *reconstructions: dict) -> list[Markdown]:
    return [fixed(r[metric]["mean"], digits) for r in reconstructions]


def size(x) -> str:                                              # (1, C, h, w)
    return " x ".join(str(n) for n in x.shape[1:])


def layer_rows(net: str, layers: nn.Sequential, x) -> list[list]:
    """A row for each layer with weights; x is what the first one takes."""
    rows = []
    for layer in layers:
        x = layer(x)
        weights = sum(p.numel() for p in layer.parameters())
        if weights:
            rows.append([net, describe(layer), size(x), weights])
    return rows


def describe(layer: nn.Module) -> str:
    if isinstance(layer, nn.ConvTranspose2d):
        return f"transposed convolution, {layer.kernel_size[0]} x {layer.kernel_size[1]}"
    if isinstance(layer, nn.Conv2d):
        return f"convolution, {layer.kernel_size[0]} x {layer.kernel_size[1]}"
    blocks = [block for block in layer if [*block.parameters()]]
    return f"{len(blocks)} residual layers"


# name in the table, and where it stands in what is stored with weights
VQVAE_SETTINGS = (
    ("image side, pixels", "config", "image_size"),
    ("halvings of the side", "config", "n_down"),
    ("codes K", "config", "n_codes"),
    ("code width D", "config", "code_dim"),
    ("channels", "config", "hidden"),
    ("channels in residual layers", "config", "residual_hidden"),
    ("residual layers", "config", "residual_layers"),
    ("channels of the decoder, where others", "config", "decoder_hidden"),
    ("channels in its residual layers, where others", "config", "decoder_residual_hidden"),
    ("commitment beta", "config", "beta"),
    ("decay gamma", "config", "decay"),
    ("data init", "config", "data_init"),
    ("reset threshold, share of a fair share", "config", "reset_threshold"),
    ("updates", "training", "steps"),
    ("images per update", "training", "batch"),
    ("learning rate", "training", "lrs"),
    ("falls along a cosine", "training", "cosine"),
    ("seed", "training", "seed"),
)
PRIOR_SETTINGS = (
    ("codes in view", "config", "context"),
    ("codes K", "config", "n_codes"),
    ("layers", "config", "layers"),
    ("heads", "config", "heads"),
    ("width", "config", "width"),
    ("dropout", "config", "dropout"),
    ("updates", "training", "steps"),
    ("images per update", "training", "batch"),
    ("learning rate", "training", "lrs"),
    ("falls along a cosine", "training", "cosine"),
    ("weight decay", "training", "weight_decay"),
    ("seed", "training", "seed"),
)


def settings(wanted, columns: list[dict]) -> list[list]:
    """A row for each setting, with a cell for each column; a seed is a name, not a quantity."""
    return [[name, *(str(column[part].get(key)) if key == "seed" else setting(column[part].get(key))
                     for column in columns)] for name, part, key in wanted]


def add_context(made: dict, share: int) -> dict:
    """Settings with the number of codes that the prior has in view, a share of the grid."""
    return {**made, "config": {**made["config"], "context": made["config"]["grid"] ** 2 // share}}
