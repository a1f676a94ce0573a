// Settings of `generate`, shared with inpainting. Guidance follows the class until it is touched.
function sampling(opening, label, change = () => {}) {
  const d = opening.defaults;
  let touched = false;
  const guidance = (name) => (name === "any" ? 1 : d.guidance);
  const s = {
    label: select("class", "diagnosis", opening.labels, label, (name) => {
      if (!touched) s.guidance.value = guidance(name);
      change();
    }),
    temperature: slider("temperature", "temperature", 0.1, 1.5, 0.05, d.temperature),
    guidance: slider("guidance", "guidance", 0, 5, 0.25, guidance(label),
                     () => { touched = true; }),
    first_top_p: slider("first_top_p", "first top-p (layout)", 0.05, 1, 0.01, d.first_top_p),
    top_p: slider("top_p", "top-p", 0.05, 1, 0.01, d.top_p),
    top_k: slider("top_k", "top-k (0: all codes)", 0, opening.n_codes, 1, d.top_k),
    seed: number("seed", "seed", 0),
    decoder: select("decoder", "decoder", opening.decoders, opening.decoders[0]),
  };
  const request = () => Object.fromEntries(Object.entries(s).map(([name, control]) => [name, control.value]));
  const more = h("details", {}, h("summary", {}, "More settings"),
    h("div", { className: "vq-fields" }, s.first_top_p.node, s.top_p.node, s.top_k.node));
  return { ...s, request, more };
}

function save(url, name) {
  h("a", { href: url, download: name }).click();
}

VIEWS.sampler = (root, opening, port) => {
  const ui = shell(root, opening, port);
  let codes = opening.codes, settings = opening.settings;
  const s = sampling(opening, settings.class);
  const n = slider("number of images", "images", 1, opening.most, 1, settings.n);
  const near = button("Nearest training images", () =>
    ui.ask({ do: "nearest", codes, decoder: settings.decoder }, (reply) => {
      if (!reply.near) return;
      [...grid.children].forEach((node, i) => node.append(
        tile(reply.near[i].image, reply.near[i].name, `${reply.near[i].label}, distance ${reply.near[i].distance}`)));
    }));
  const keep = button("Download PNG", () => ui.ask({ do: "download", codes, settings },
    (reply) => reply.file && save(reply.file, reply.name), "settings and seed are inside the file"));
  const draw = button("Draw", () => {
    ui.ask({ do: "draw", n: n.value, ...s.request() }, show);
  }, true);
  const next = button("Draw another", () => { s.seed.value = (s.seed.value || 0) + 1; draw.click(); });
  s.decoder.input.addEventListener("change", () =>
    ui.ask({ do: "decode", codes, decoder: s.decoder.value }, (reply) => {
      if (reply.images) settings = { ...settings, decoder: reply.decoder };
      show(reply);
    }));
  ui.controls.append(h("div", { className: "vq-fields" }, s.label.node, n.node, s.temperature.node,
    s.guidance.node, s.seed.node, s.decoder.node), s.more, row(draw, next, near, keep));
  const words = h("p", { className: "vq-name" }), grid = h("div", { className: "vq-grid vq-big" });
  ui.body.append(words, grid);

  function show(reply) {
    if (!reply.images) return;
    if (reply.settings) ({ codes, settings } = reply);
    near.disabled = keep.disabled = Boolean(reply.progress);     // until the codes are all there
    const what = Object.entries(settings).map(([name, value]) => `${name.replaceAll("_", "-")} ${value}`).join(", ");
    words.textContent = reply.progress ? "" : what;
    grid.replaceChildren(...reply.images.map((url, i) =>
      h("div", {}, tile(url, `sample ${i + 1} of class ${reply.progress ? s.label.value : settings.class}`))));
  }
  show(opening);
  if (!opening.photographs) near.title = "needs photographs: data/README.md";
};
