VIEWS.codebook = (root, opening, port) => {
  const ui = shell(root, opening, port);
  const K = opening.n_codes, SIDE = 560, EDGE = 18, SHOWN = 24;
  let maps = opening.maps, kind = Object.keys(maps)[0], chosen = new Set(), hover = -1, path = [];
  let down = false, start = null;
  const total = Array.from({ length: K }, (_, k) => opening.usage.reduce((sum, of) => sum + of[k], 0));
  const mean = Math.max(1, total.reduce((a, b) => a + b, 0) / K);
  const inClass = opening.usage.map((of) => of.reduce((a, b) => a + b, 0));

  const names = () => [...Object.keys(maps), ...(port.live ? opening.more : []).filter((m) => !(m in maps))
    .map((name) => [name, `${name} (compute)`])];
  const map = select("map", "map", names(), kind, (to) => {
    if (to in maps) { kind = to; fit(); return; }
    ui.ask({ do: "map", kind: to }, (reply) => {
      if (!reply.maps) return;
      maps = reply.maps;
      kind = to;
      map.input.replaceChildren(...names().map((name) => h("option", { value: name, selected: name === kind }, name)));
      fit();
    });
  });
  const clear = button("Clear selection", () => { chosen = new Set(); draw(); describe(); });
  ui.controls.append(h("div", { className: "vq-fields" }, map.node), row(clear));

  const canvas = h("canvas", { width: SIDE, height: SIDE, tabIndex: 0, className: "vq-scatter" });
  canvas.setAttribute("role", "img");
  const info = h("div", { className: "vq-info" }), strip = h("div", { className: "vq-palette" });
  const bars = h("div", { className: "vq-bars" }), grid = h("div", { className: "vq-grid vq-small" });
  const heading = h("h4", {}), lit = h("h4", {});
  ui.body.append(h("div", { className: "vq-two" }, canvas,
    h("div", { className: "vq-detail" }, info, strip, heading, bars)), lit, grid);
  let sheet = null;
  load(opening.patches).then((image) => { sheet = image; describe(); });

  let top = 1;                                    // of the map: a flat one gets a low canvas
  function fit() {
    const ys = maps[kind].map(([, y]) => y), span = Math.max(...ys) - Math.min(...ys);
    top = Math.max(...ys);
    canvas.height = Math.round(span * (SIDE - 2 * EDGE) + 2 * EDGE);
    draw();
  }
  const at = (k) => {
    const [x, y] = maps[kind][k];
    return [EDGE + x * (SIDE - 2 * EDGE), EDGE + (top - y) * (SIDE - 2 * EDGE)];
  };
  const place = (event) => {
    const box = canvas.getBoundingClientRect(), scale = SIDE / box.width;
    return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  };
  const radius = (k) => (total[k] ? 2.5 + 2.5 * Math.min(3, Math.sqrt(total[k] / mean)) : 3);
  function nearest([x, y], most = 18) {
    let best = -1, least = most;
    for (let k = 0; k < K; k++) {
      const [px, py] = at(k), d = Math.hypot(px - x, py - y);
      if (d < least) { least = d; best = k; }
    }
    return best;
  }
  function inside([x, y]) {                       // even-odd rule
    let is = false;
    for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
      const [xi, yi] = path[i], [xj, yj] = path[j];
      if ((yi > y) !== (yj > y) && x < (xj - xi) * (y - yi) / (yj - yi) + xi) is = !is;
    }
    return is;
  }
  function toggle(k) {
    if (chosen.has(k)) chosen.delete(k); else chosen.add(k);
    draw();
    describe();
  }
  canvas.addEventListener("pointerdown", (event) => {
    down = true;
    start = place(event);
    path = [start];
    canvas.setPointerCapture(event.pointerId);
  });
  canvas.addEventListener("pointermove", (event) => {
    const p = place(event);
    if (down) { path.push(p); draw(); return; }
    const k = nearest(p);
    if (k !== hover) { hover = k; draw(); describe(); }
  });
  canvas.addEventListener("pointerup", (event) => {
    if (!down) return;
    down = false;
    const far = path.some(([x, y]) => Math.hypot(x - start[0], y - start[1]) > 8);
    if (far) chosen = new Set([...Array(K).keys()].filter((k) => inside(at(k))));
    path = [];
    const k = nearest(place(event));
    if (!far && k >= 0) { hover = k; toggle(k); return; }
    draw();
    describe();
  });
  canvas.addEventListener("pointercancel", () => { down = false; path = []; draw(); });
  canvas.addEventListener("keydown", (event) => {
    if (event.key in MOVES) {
      const [dy, dx] = MOVES[event.key], [x, y] = at(Math.max(hover, 0));
      let best = hover, least = Infinity;
      for (let k = 0; k < K; k++) {               // the nearest dot that lies that way
        const [px, py] = at(k), along = (px - x) * dx + (py - y) * dy;
        const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
        if (k !== hover && along > 0.5 && along + 2 * aside < least) { least = along + 2 * aside; best = k; }
      }
      hover = Math.max(best, 0);
      draw();
      describe();
    } else if ((event.key === "Enter" || event.key === " ") && hover >= 0) toggle(hover);
    else if (event.key === "Escape") { chosen = new Set(); draw(); describe(); }
    else return;
    event.preventDefault();
  });

  function draw() {
    const pen = canvas.getContext("2d"), ink = getComputedStyle(canvas).color;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    for (let k = 0; k < K; k++) {
      const [x, y] = at(k), r = radius(k);
      pen.globalAlpha = chosen.size && !chosen.has(k) ? 0.25 : 1;
      pen.beginPath();
      if (total[k]) pen.arc(x, y, r, 0, 7);
      else { pen.moveTo(x - r, y - r); pen.lineTo(x + r, y + r); pen.moveTo(x - r, y + r); pen.lineTo(x + r, y - r); }
      pen.fillStyle = `rgb(${opening.colours[k].join()})`;
      if (total[k]) pen.fill();
      pen.lineWidth = chosen.has(k) ? 2.5 : 0.75;
      pen.strokeStyle = ink;
      pen.stroke();
    }
    pen.globalAlpha = 1;
    if (hover >= 0) { const [x, y] = at(hover), r = radius(hover) + 5; frame(pen, x - r, y - r, 2 * r, 2 * r, 2); }
    if (path.length > 1) {
      pen.beginPath();
      path.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
      pen.lineWidth = 1.5;
      pen.strokeStyle = ink;
      pen.stroke();
    }
  }
  function describe() {
    clear.disabled = chosen.size === 0;
    const shown = chosen.size ? [...chosen] : hover >= 0 ? [hover] : [];
    canvas.setAttribute("aria-label", `${kind} of ${K} codes, ${chosen.size} selected` +
      (hover >= 0 ? `, at code ${hover}` : "") + "; arrow keys move, Enter selects, Escape clears");
    const words = hover >= 0 ? `code ${hover}, picked ${total[hover]} times. ` : "Point at a dot, or draw a line around some. ";
    info.replaceChildren(hover >= 0 && sheet ? patch(sheet, hover, opening.per_row, 64) : "",
                         h("span", {}, `${words}${chosen.size} selected.`));
    strip.replaceChildren(...(sheet ? shown.slice(0, 64).map((k) => patch(sheet, k, opening.per_row, 28)) : []),
                          shown.length > 64 ? ` and ${shown.length - 64} more` : "");
    const shares = opening.usage.map((of, c) => shown.reduce((sum, k) => sum + of[k], 0) / Math.max(1, inClass[c]));
    const most = Math.max(1e-9, ...shares);
    heading.textContent = shown.length ? "Share of each class's codes" : "";
    bars.replaceChildren(...(shown.length ? opening.classes.map((name, c) => h("div", {},
      h("span", {}, name), h("meter", { min: 0, max: 1, value: shares[c] / most, ariaLabel: name }),
      h("span", {}, `${(100 * shares[c]).toFixed(1)} %`))) : []));
    const mine = new Set(shown);
    const scored = opening.images.map((image) => ({ ...image,
      share: image.codes.filter((k) => mine.has(k)).length / image.codes.length }));
    if (shown.length) scored.sort((a, b) => b.share - a.share);
    lit.textContent = shown.length ? "Images that consist of these codes most" : "Images";
    grid.replaceChildren(...scored.slice(0, SHOWN).map((image) => {
      const node = tile(image.image, image.label, shown.length ?
        `${image.label} ${(100 * image.share).toFixed(0)} %` : image.label);
      const dominant = image.share > 0 && image.share >= scored[0].share / 2;
      node.toggleAttribute("data-lit", shown.length > 0 && dominant);
      node.toggleAttribute("data-dim", shown.length > 0 && !dominant);
      return node;
    }));
  }
  fit();
  describe();
};
