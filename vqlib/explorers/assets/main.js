// Three doors to the same views: a notebook, a page with a server, and a page without Python.

function mount(root, view, opening, send) {
  const port = connection(send || (() => {}));
  port.live = Boolean(send);
  root.classList.add("vq");
  root.dataset.view = view;
  VIEWS[view](root, opening, port);
  return port;
}

function render({ model, el }) {                  // anywidget
  const port = mount(el, model.get("view"), model.get("opening"), (request) => model.send(request));
  const hear = (reply) => port.hear(reply);
  model.on("msg:custom", hear);
  return () => { model.off("msg:custom", hear); port.stop(); };
}

// Tabs that open what they show when they are first chosen.
function tabs(root, pages, open) {
  const list = h("div", { role: "tablist", className: "vq-tabs" });
  const panels = pages.map(({ name }) => h("section", { role: "tabpanel", id: `panel-${name}`, hidden: true }));
  const heads = pages.map(({ name, title }, i) => h("button", { role: "tab", type: "button", id: `tab-${name}`,
    onclick: () => show(i) }, title));
  const opened = new Set();
  function show(i) {
    heads.forEach((head, j) => {
      head.setAttribute("aria-selected", String(i === j));
      head.tabIndex = i === j ? 0 : -1;
      panels[j].hidden = i !== j;
    });
    if (!opened.has(i)) { opened.add(i); open(pages[i], panels[i]); }
  }
  heads.forEach((head, i) => {
    head.setAttribute("aria-controls", panels[i].id);
    panels[i].setAttribute("aria-labelledby", head.id);
  });
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const to = (heads.indexOf(document.activeElement) + step + heads.length) % heads.length;
    heads[to].focus();
    show(to);
    event.preventDefault();
  });
  list.append(...heads);
  root.append(list, ...panels);
  const wanted = pages.findIndex(({ name }) => `#${name}` === location.hash);
  show(Math.max(0, wanted));
}

function servePage(root, pages, key) {            // vqlib/explorers/server.py
  const page = crypto.randomUUID(), ports = {}, waiting = [];
  const source = new EventSource(`hear?key=${key}&page=${page}`);
  let ready = false;
  source.onmessage = (event) => {
    const { view, ...reply } = JSON.parse(event.data);
    if (view === undefined) { ready = true; waiting.splice(0).forEach((go) => go()); return; }
    ports[view]?.hear(reply);
  };
  const lost = h("p", { className: "vq-error", role: "alert", hidden: true },
                 "The program behind this page has ended: start it again and reload.");
  source.onerror = () => { lost.hidden = false; };
  source.onopen = () => { lost.hidden = true; };
  root.append(lost);
  const sender = (view) => (request) => {
    const go = () => fetch(`say?key=${key}&page=${page}`, { method: "POST",
      body: JSON.stringify({ view, ...request }) }).catch(() => { lost.hidden = false; });
    if (ready) go(); else waiting.push(go);
  };
  tabs(root, pages, ({ name, about }, panel) => {
    const wait = connection(sender(name));
    ports[name] = wait;
    panel.classList.add("vq");
    const ui = shell(panel, { about }, wait);
    let last = {};
    ui.ask({ do: "open" }, (reply) => { last = { ...last, ...reply }; });
    const hear = wait.hear;
    wait.hear = (reply) => {
      hear(reply);
      if (!reply.done) return;
      ports[name] = mount(panel, name, { about, ...last }, sender(name));
    };
  });
}

function stillPage(root, pages) {                 // vqlib/explorers/static.py
  tabs(root, pages, ({ name, opening }, panel) => mount(panel, name, opening, null));
}

export default { render };
