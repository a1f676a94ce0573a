const VIEWS = {};

// What all views share. Nothing from a reply is ever parsed as HTML: text becomes text nodes.

function h(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key in node && key !== "list") node[key] = value;
    else node.setAttribute(key, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

// Requests to Python. Replies to anything but the newest request are dropped.
function connection(send) {
  let newest = 0, listener = null;
  return {
    ask(request, listen) {
      listener = listen;
      send({ ...request, id: ++newest });
    },
    stop() { send({ do: "stop" }); },
    hear(reply) { if (reply.id === newest && listener) listener(reply); },
  };
}

// Title, controls, one line that tells what goes on, and a place for pictures.
function shell(root, opening, port) {
  const controls = h("div", { className: "vq-controls" });
  const text = h("span", { className: "vq-text", role: "status" });
  const bar = h("progress", { hidden: true, ariaLabel: "progress" });
  const stop = h("button", { type: "button", hidden: true, onclick: () => port.stop() }, "Stop");
  const line = h("div", { className: "vq-line" }, stop, bar, text);
  const error = h("div", { className: "vq-error", role: "alert", hidden: true });
  const body = h("div", { className: "vq-body" });
  root.replaceChildren(
    h("p", { className: "vq-about" }, opening.about || ""),
    opening.note ? h("p", { className: "vq-note" }, opening.note) : "",
    controls, error, line, body);

  function busy(on) {
    stop.hidden = !on;
    bar.hidden = !on;
    if (on) bar.removeAttribute("value");
    root.toggleAttribute("data-busy", on);
  }
  function fail(message) {                       // beside the control that it names, if it does
    const fields = [...controls.querySelectorAll("[data-name]")];
    const at = fields.find((field) => message.startsWith(field.dataset.name));
    error.textContent = message;
    error.hidden = false;
    (at || controls).after(error);
    at?.querySelector("input, select")?.setAttribute("aria-invalid", "true");
  }
  function calm() {
    error.hidden = true;
    controls.after(error);
    controls.querySelectorAll("[aria-invalid]").forEach((node) => node.removeAttribute("aria-invalid"));
  }
  function say(message) { text.textContent = message; }
  function ask(request, apply = () => {}, after = "") {
    const start = performance.now();
    calm();
    busy(true);
    say("");
    port.ask(request, (reply) => {
      if (reply.error) { busy(false); say(""); fail(reply.error); return; }
      if (reply.stopped) { busy(false); say("stopped"); return; }
      if (reply.done) {
        busy(false);
        say(after || `done in ${((performance.now() - start) / 1000).toFixed(1)} s`);
        return;
      }
      if (reply.progress) {
        const [n, of, what] = reply.progress;
        if (of) { bar.max = of; bar.value = n; }
        say(of ? `${n} of ${of} ${what}` : `${n} ${what}`);
      }
      apply(reply);
    });
  }
  return { controls, body, ask, say, fail, calm };
}

// ---- controls: a label above, whole, and an element of the browser's own below ----

let fields = 0;

function field(name, label, input, extra = null) {
  input.id = `vq-${++fields}`;                   // the value shown beside it is no part of its name
  return h("div", { className: "vq-field", "data-name": name },
           h("span", {}, h("label", { htmlFor: input.id }, label), extra), input);
}

function select(name, label, options, value, change = () => {}) {
  const input = h("select", { onchange: () => change(input.value) },
    options.map((option) => {
      const [key, words] = Array.isArray(option) ? option : [option, option];
      return h("option", { value: key, selected: String(key) === String(value) }, words);
    }));
  return { node: field(name, label, input), get value() { return input.value; },
           set value(v) { input.value = v; }, input };
}

function slider(name, label, least, most, step, value, change = () => {}) {
  const shown = h("output", {}, String(value));
  const input = h("input", { type: "range", min: least, max: most, step, value,
    oninput: () => { shown.textContent = input.value; change(Number(input.value)); } });
  return { node: field(name, label, input, shown), get value() { return Number(input.value); },
           set value(v) { input.value = v; shown.textContent = input.value; }, input };
}

function number(name, label, value, change = () => {}) {
  const input = h("input", { type: "number", min: 0, step: 1, value, onchange: () => change() });
  return { node: field(name, label, input),
           get value() { return input.value === "" ? null : Number(input.value); },
           set value(v) { input.value = v; }, input };
}

function button(words, act, primary = false) {
  return h("button", { type: "button", className: primary ? "vq-primary" : "", onclick: act }, words);
}

function row(...nodes) { return h("div", { className: "vq-row" }, nodes); }

// A picture of one's own: made small here, so that a photograph of 12 megapixels is sent quickly.
function filePicker(words, send, fail) {
  const input = h("input", { type: "file", accept: "image/*", className: "vq-file",
    onchange: async () => {
      const [file] = input.files;
      input.value = "";
      if (!file) return;
      try {
        const image = await createImageBitmap(file);             // turned upright by its EXIF
        const scale = Math.min(1, 768 / Math.min(image.width, image.height));
        const canvas = h("canvas", { width: Math.round(image.width * scale),
                                     height: Math.round(image.height * scale) });
        const pen = canvas.getContext("2d");
        pen.imageSmoothingQuality = "high";
        pen.drawImage(image, 0, 0, canvas.width, canvas.height);
        send(canvas.toDataURL("image/png"), file.name);
      } catch {
        fail(`${file.name} is no picture that this browser can read: JPEG and PNG work`);
      }
    } });
  return h("label", { className: "vq-button" }, words, input);
}

function load(url) {
  const image = new Image();
  const ready = new Promise((done) => { image.onload = image.onerror = () => done(image); });
  image.src = url;
  return ready;
}

function tile(url, alt, caption, act = null) {
  const image = h("img", { src: url, alt });
  const words = caption ? h("span", { className: "vq-caption" }, caption) : null;
  return act ? h("button", { type: "button", className: "vq-tile", onclick: act }, image, words)
             : h("span", { className: "vq-tile" }, image, words);
}

// Arrow keys go from tile to tile.
function arrows(grid) {
  grid.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const tiles = [...grid.querySelectorAll("button")], at = tiles.indexOf(document.activeElement);
    if (!step || at < 0) return;
    event.preventDefault();
    tiles[Math.max(0, Math.min(tiles.length - 1, at + step))].focus();
  });
  return grid;
}

// ---- a picture that consists of cells ----

const MOVES = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };

function cellAt(canvas, event, rows, columns) {
  const box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / box.width * columns);
  const line = Math.floor((event.clientY - box.top) / box.height * rows);
  if (line < 0 || column < 0 || line >= rows || column >= columns) return -1;
  return line * columns + column;
}

function moved(cell, key, rows, columns) {
  const [down, right] = MOVES[key];
  const line = Math.max(0, Math.min(rows - 1, Math.floor(cell / columns) + down));
  const column = Math.max(0, Math.min(columns - 1, cell % columns + right));
  return line * columns + column;
}

// Two lines, dark and light: seen on every colour, by every eye.
function frame(pen, x, y, w, hgt, width) {
  pen.lineWidth = 2 * width;
  pen.strokeStyle = "#000";
  pen.strokeRect(x, y, w, hgt);
  pen.lineWidth = width;
  pen.strokeStyle = "#fff";
  pen.strokeRect(x, y, w, hgt);
}

// The patch of a code, cut out of the picture of all patches.
function patch(sheet, code, perRow, size) {
  const side = sheet.width / perRow;
  const canvas = h("canvas", { width: size, height: size, className: "vq-patch" });
  const pen = canvas.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.drawImage(sheet, (code % perRow) * side, Math.floor(code / perRow) * side, side, side,
                0, 0, size, size);
  return canvas;
}
