VIEWS.data = (root, opening, port) => {
  const ui = shell(root, opening, port);
  let page = 0, pages = 1, seed = 0;
  const count = (split, label) => opening.counts[split][label + 1];
  const options = (split) => [[-1, `all (${count(split, -1)})`],
    ...opening.classes.map((name, k) => [k, `${name} (${count(split, k)})`])];
  const split = select("split", "split", opening.splits.map((name) => [name, `${name} (${count(name, -1)})`]),
                       "all", () => { const now = label.value; relabel(now); show(0); });
  const label = select("class", "class", options("all"), -1, () => show(0));
  const augmentation = select("augmentation", "augmentation", opening.augmentations, "none",
                              () => show(page));
  function relabel(now) {
    label.input.replaceChildren(...options(split.value).map(([key, words]) =>
      h("option", { value: key, selected: String(key) === now }, words)));
  }
  const where = h("span", {});
  const back = button("Previous", () => show(page - 1)), on = button("Next", () => show(page + 1));
  const again = button("Draw again", () => { seed += 1; show(page); });
  ui.controls.append(h("div", { className: "vq-fields" }, label.node, split.node, augmentation.node),
                     row(back, on, again, where));
  const grid = arrows(h("div", { className: "vq-grid" }));
  const detail = h("div", { className: "vq-detail" },
                   h("p", {}, "Choose an image to see what is known of it."));
  ui.body.append(h("div", { className: "vq-two" }, grid, detail));

  function show(to) {
    ui.ask({ do: "show", label: Number(label.value), split: split.value,
             augmentation: augmentation.value, page: to, seed }, draw);
  }
  function draw(reply) {
    if (!reply.tiles) return;
    ({ page, pages } = reply);
    where.textContent = `${reply.found} images, page ${page + 1} of ${pages}`;
    back.disabled = page === 0;
    on.disabled = page + 1 >= pages;
    again.disabled = augmentation.value === "none";
    grid.replaceChildren(...reply.tiles.map((t) =>
      tile(t.image, `${t.name}, ${t.label}`, t.label, () => inspect(t.row))));
  }
  function inspect(index) {
    ui.ask({ do: "inspect", row: index }, (reply) => {
      if (reply.chosen) {
        detail.replaceChildren(
          h("img", { src: reply.chosen.image, alt: reply.chosen.name, className: "vq-large" }),
          h("dl", {}), h("h4", {}, "Looks most alike"), h("div", { className: "vq-grid vq-small" }));
        detail.scrollIntoView({ block: "nearest" });             // on a phone it lies far below
      }
      if (reply.facts) {
        detail.querySelector("dl").replaceChildren(
          ...reply.facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, value)]));
      }
      if (reply.near) {
        detail.querySelector(".vq-grid").replaceChildren(...reply.near.map((t) =>
          tile(t.image, `${t.name}, ${t.label}`, `${t.label}, ${t.bits} bits`, () => inspect(t.row))));
      }
    });
  }
  draw(opening);
};
