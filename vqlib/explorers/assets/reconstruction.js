VIEWS.reconstruction = (root, opening, port) => {
  const ui = shell(root, opening, port);
  let state = opening, codes = [...opening.codes], cell = -1, chosen = -1, history = [];
  const rows = () => state.rows, columns = () => codes.length / state.rows;
  const many = opening.pictures;

  const which = number("picture", `picture, 1 to ${many}`, opening.picture + 1,
                       () => choose(which.value));
  const step = (by) => choose(Math.max(1, Math.min(many, (which.value || 1) + by)));
  const undo = button("Undo", () => { codes = history.pop(); swap(); });
  const reset = button("Reset", () => { history = []; codes = [...state.codes]; swap(); });
  if (port.live) {
    ui.controls.append(which.node, row(button("Previous", () => step(-1)), button("Next", () => step(1)),
      filePicker("Your own picture", (picture, name) =>
        ui.ask({ do: "upload", picture, name }, renew), ui.fail), undo, reset));
  } else {
    ui.controls.append(row(...(opening.samples || []).map((sample, i) =>
      button(sample.name, () => renew(sample)))));
    ui.say("Swapping codes needs Python: python -m vqlib explore");
  }

  const caption = h("p", { className: "vq-name" });
  const panes = h("div", { className: "vq-panes" });
  const info = h("div", { className: "vq-info" }), palette = h("div", { className: "vq-palette" });
  ui.body.append(caption, panes, info, palette);
  const pictures = {};                            // title -> {canvas, image}
  let sheet = null;
  load(opening.patches).then((image) => { sheet = image; describe(); });

  function choose(nth) { ui.ask({ do: "choose", picture: nth && nth - 1 }, renew); }
  function renew(reply) {
    if (!reply.original) return;
    state = reply;
    codes = [...reply.codes];
    history = [];
    cell = chosen = -1;
    if (reply.picture >= 0) which.value = reply.picture + 1;
    caption.textContent = `${reply.name} (${reply.kept})`;
    const shown = { original: reply.original };
    for (const [name, url] of Object.entries(reply.decoded)) shown[name] = url;
    Object.assign(shown, { "difference x 4": reply.difference, codes: reply.map });
    panes.replaceChildren(...Object.entries(shown).map(([title, url]) => pane(title, url)));
    describe();
  }
  function pane(title, url) {
    const canvas = h("canvas", { width: 256, height: 256, tabIndex: 0, className: "vq-cells" });
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", `${title}; arrow keys move over the cells, Enter chooses one`);
    const decibels = state.psnr[title];
    const words = decibels === undefined ? title : `${title}, ${decibels} dB`;
    canvas.addEventListener("pointermove", (event) => point(cellAt(canvas, event, rows(), columns())));
    canvas.addEventListener("pointerleave", () => point(chosen));
    canvas.addEventListener("click", (event) => pick(cellAt(canvas, event, rows(), columns())));
    canvas.addEventListener("keydown", (event) => {
      if (event.key in MOVES) point(moved(Math.max(cell, 0), event.key, rows(), columns()));
      else if (event.key === "Enter" || event.key === " ") pick(cell);
      else return;
      event.preventDefault();
    });
    pictures[title] = { canvas, image: null };
    load(url).then((image) => { pictures[title].image = image; draw(); });
    return h("figure", {}, canvas, h("figcaption", {}, words));
  }
  function point(to) { if (to !== cell) { cell = to; draw(); describe(); } }
  function pick(at) {
    chosen = cell = at;
    draw();
    describe();
  }
  function draw() {
    for (const { canvas, image } of Object.values(pictures)) {
      if (!image) continue;
      const pen = canvas.getContext("2d");
      const w = canvas.width / columns(), hgt = canvas.height / rows();
      pen.imageSmoothingEnabled = false;
      pen.drawImage(image, 0, 0, canvas.width, canvas.height);
      codes.forEach((code, i) => {
        const same = cell >= 0 && code === codes[cell];
        if (!same) return;
        frame(pen, (i % columns()) * w + 1, Math.floor(i / columns()) * hgt + 1, w - 2, hgt - 2,
              i === cell ? 3 : 1);
      });
    }
  }
  function describe() {
    undo.disabled = reset.disabled = history.length === 0;
    palette.replaceChildren();
    if (cell < 0 || !sheet) {
      info.replaceChildren("Point at a cell.");
      return;
    }
    const code = codes[cell], places = codes.filter((other) => other === code).length;
    info.replaceChildren(patch(sheet, code, opening.per_row, 64), h("span", {},
      `row ${Math.floor(cell / columns()) + 1}, column ${cell % columns() + 1}: code ${code}, ` +
      `in ${places} of ${codes.length} cells (framed). Alone it paints this.`));
    if (!port.live || chosen < 0 || chosen !== cell) return;
    palette.append(h("span", {}, "Put here: "), ...opening.alternatives[code].map((other) =>
      h("button", { type: "button", className: "vq-tile", ariaLabel: `code ${other}`,
        onclick: () => {
          history.push([...codes]);
          codes[chosen] = other;
          swap();
        } }, patch(sheet, other, opening.per_row, 40), h("span", { className: "vq-caption" }, other))));
    arrows(palette);
  }
  function swap() {
    draw();
    describe();
    ui.ask({ do: "swap", codes, rows: rows() }, (reply) => {
      const changed = reply.decoded ? { ...reply.decoded, codes: reply.map } : {};
      for (const [name, url] of Object.entries(changed)) {
        load(url).then((image) => { pictures[name].image = image; draw(); });
      }
    }, `${codes.filter((code, i) => code !== state.codes[i]).length} codes swapped`);
  }
  renew(opening);
};
