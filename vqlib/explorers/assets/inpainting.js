VIEWS.inpainting = (root, opening, port) => {
  const ui = shell(root, opening, port);
  const side = opening.side, SIZE = 384;
  let base = { url: opening.base, codes: opening.base_codes, note: opening.base_note };
  let mask = [...opening.mask], history = [], cursor = Math.floor(side * (side + 1) / 2), down = false;
  let image = null, drawn = opening.codes, focused = false;

  const s = sampling(opening, opening.label);
  const n = slider("number of images", "redraws", 1, 6, 1, opening.images.length);
  const brush = slider("brush", "brush, cells wide", 1, 7, 1, 3);
  const mode = select("mode", "the brush", [["1", "marks"], ["0", "unmarks"]], "1");
  const redraw = button("Redraw", () =>
    ui.ask({ do: "redraw", codes: base.codes, mask, n: n.value, ...s.request() }, show), true);
  const again = button("Redraw differently", () => { s.seed.value = (s.seed.value || 0) + 1; redraw.click(); });
  const undo = button("Undo", () => { ({ base, mask } = history.pop()); renew(); });
  const clear = button("Clear marks", () => { remember(); mask = mask.map(() => 0); draw(); });
  const other = button("Another lesion", () => ui.ask(
    { do: "new", label: s.label.value, seed: s.seed.value, decoder: s.decoder.value }, rebase));
  const own = filePicker("Your own picture", (picture, name) =>
    ui.ask({ do: "upload", picture, name, decoder: s.decoder.value }, rebase), ui.fail);
  ui.controls.append(h("div", { className: "vq-fields" }, s.label.node, n.node, s.temperature.node,
    s.guidance.node, s.seed.node, s.decoder.node, brush.node, mode.node), s.more,
    row(redraw, again, undo, clear, other, own));

  const canvas = h("canvas", { width: SIZE, height: SIZE, tabIndex: 0, className: "vq-paint" });
  canvas.setAttribute("role", "application");
  const note = h("p", { className: "vq-name" }), grid = arrows(h("div", { className: "vq-grid vq-big" }));
  ui.body.append(h("div", { className: "vq-two" }, h("div", {}, canvas, note),
    h("div", {}, h("p", { className: "vq-name" }, "Choose a redraw to go on from it."), grid)));

  function remember() {
    history.push({ base, mask: [...mask] });
    history = history.slice(-100);
    undo.disabled = false;
  }
  function paint(cell) {
    if (cell < 0) return;
    const r = brush.value / 2, row0 = Math.floor(cell / side), column0 = cell % side;
    for (let i = 0; i < side * side; i++) {
      const far = Math.hypot(Math.floor(i / side) - row0, i % side - column0);
      if (far < r) mask[i] = Number(mode.value);
    }
    draw();
  }
  canvas.addEventListener("pointerdown", (event) => {
    down = true;
    canvas.setPointerCapture(event.pointerId);
    remember();
    cursor = cellAt(canvas, event, side, side);
    paint(cursor);
  });
  canvas.addEventListener("pointermove", (event) => {
    if (down) paint(cellAt(canvas, event, side, side));
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { down = false; });
  canvas.addEventListener("keydown", (event) => {
    if (event.key in MOVES) { cursor = moved(cursor, event.key, side, side); draw(); }
    else if (event.key === " " || event.key === "Enter") { remember(); paint(cursor); }
    else if (event.key === "z" && (event.ctrlKey || event.metaKey)) { if (history.length) undo.click(); }
    else return;
    event.preventDefault();
  });
  for (const name of ["focus", "blur"]) canvas.addEventListener(name, () => {
    focused = name === "focus" && canvas.matches(":focus-visible");
    draw();
  });

  function draw() {
    const pen = canvas.getContext("2d"), w = SIZE / side;
    pen.clearRect(0, 0, SIZE, SIZE);
    pen.imageSmoothingEnabled = true;
    if (image) pen.drawImage(image, 0, 0, SIZE, SIZE);
    mask.forEach((on, i) => {
      if (!on) return;
      const x = (i % side) * w, y = Math.floor(i / side) * w;
      pen.fillStyle = "rgba(255, 255, 255, 0.45)";
      pen.fillRect(x, y, w, w);
      pen.strokeStyle = "rgba(0, 70, 160, 0.9)";  // the rim of what is marked
      pen.lineWidth = 2;
      pen.beginPath();
      const rim = (ok, x0, y0, x1, y1) => { if (!ok) { pen.moveTo(x0, y0); pen.lineTo(x1, y1); } };
      rim(i >= side && mask[i - side], x, y, x + w, y);
      rim(i + side < side * side && mask[i + side], x, y + w, x + w, y + w);
      rim(i % side > 0 && mask[i - 1], x, y, x, y + w);
      rim(i % side < side - 1 && mask[i + 1], x + w, y, x + w, y + w);
      pen.stroke();
    });
    if (focused) frame(pen, (cursor % side) * w, Math.floor(cursor / side) * w, w, w, 2);
    const marked = mask.reduce((a, b) => a + b, 0);
    canvas.setAttribute("aria-label", `lesion of ${side} x ${side} cells, ${marked} marked; ` +
      "arrow keys move, Space marks");
    redraw.disabled = again.disabled = marked === 0;
    clear.disabled = marked === 0;
  }
  function renew() {
    undo.disabled = history.length === 0;
    note.textContent = base.note;
    load(base.url).then((loaded) => { image = loaded; draw(); });
    draw();
  }
  function rebase(reply) {
    if (reply.base && !reply.base_codes) load(reply.base).then((loaded) => { image = loaded; draw(); });
    if (!reply.base_codes) return;
    remember();
    base = { url: reply.base, codes: reply.base_codes, note: reply.base_note };
    renew();
  }
  function show(reply) {
    if (!reply.images) return;
    if (reply.codes) drawn = reply.codes;
    const done = !reply.progress, label = reply.settings ? reply.settings.class : s.label.value;
    grid.replaceChildren(...reply.images.map((url, i) => tile(url, `redraw ${i + 1} as ${label}`, "",
      done ? () => {
        remember();
        base = { url, codes: drawn[i], note: `redraw ${i + 1} as ${label}` };
        renew();
      } : null)));
  }
  renew();
  show({ ...opening, progress: null });
};
