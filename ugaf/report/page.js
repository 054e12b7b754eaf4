"use strict";
// The gallery: filters, cards that are made as one scrolls, and the details view.
// Everything from data is shown with textContent or set as an attribute's value; never as markup.
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const PAGE = 48;
  const data = JSON.parse(document.getElementById("data").textContent);
  const byId = (id) => document.getElementById(id);

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "image", "rect", "g"].includes(tag);
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined && child !== ""));
    return node;
  }

  const plural = (count, kind) => `${count.toLocaleString("en")} ${count === 1 ? kind : kind + "s"}`;

  function show(value, digits = 5) {
    if (typeof value === "number") return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(digits)));
    if (typeof value === "string") return value;
    return JSON.stringify(value);
  }

  // ---- pictures

  // Dark halos below, so that the lines are seen on any photograph; then the boxes, so that both are seen where they meet.
  function outlines(targets, changes) {
    const rect = (kind) => (box) =>
      make("rect", { class: kind, x: box[0], y: box[1], width: Math.max(box[2] - box[0], 1), height: Math.max(box[3] - box[1], 1) });
    return [...[...targets, ...changes].map(rect("halo")), ...targets.map(rect("target-box")), ...changes.map(rect("change-box"))];
  }

  // What a card shows beside its source: a pair's target, or the photograph that was kept in a near-duplicate's place.
  const beside = (card) => (card.kind === "pair" ? "edited" : card.twin_image ? "twin" : null);

  // One image with its boxes, in the source image's pixels; or the reason why there is none.
  function frame(card, side) {
    if (side === "twin") return twinFrame(card);
    const name = card[side];
    const label = make("span", { class: "label" }, card.kind === "pair" ? side : card.twin ? "this one" : "photograph");
    if (!name) return make("div", { class: "frame" }, make("div", { class: "placeholder" }, card[side + "_note"]), label);
    const picture = make("svg", {
      viewBox: `0 0 ${card.width} ${card.height}`,
      role: "img",
      "aria-label": `${side}: ${card.values.instruction || card.id}`,
    });
    picture.append(make("image", { href: data.images[name], width: card.width, height: card.height }));
    const isBox = (box) => Array.isArray(box) && box.length === 4;
    const targets = side === "source" && Array.isArray(card.values.boxes) ? card.values.boxes.filter(isBox) : [];
    picture.append(...outlines(targets, [card.values.bbox_edit].filter(isBox)));
    return make("div", { class: "frame" }, picture, label);
  }

  function twinFrame(card) {
    const picture = make("svg", { viewBox: `0 0 ${card.twin_width} ${card.twin_height}`, role: "img", "aria-label": `kept instead: ${card.twin}` });
    picture.append(make("image", { href: data.images[card.twin_image], width: card.twin_width, height: card.twin_height }));
    return make("div", { class: "frame" }, picture, make("span", { class: "label" }, `kept: ${card.twin.slice(0, 12)}`));
  }

  // ---- cards

  function headline(card) {
    const facts = [make("span", { class: `status ${card.status}` }, card.status)];
    for (const name of ["task", "register"]) {
      if (card.values[name]) facts.push(make("span", { class: "chip" }, card.values[name]));
    }
    for (const name of data.headlines[card.kind]) {
      const value = card.values[name];
      if (value !== undefined) facts.push(make("span", {}, name.replace(/_score$/, "").replaceAll("_", " ") + " ", make("b", {}, show(value, 3))));
    }
    return make("div", { class: "facts" }, ...facts);
  }

  function title(card) {
    const source = Array.isArray(card.values.sources) ? card.values.sources[0] : "";
    return card.values.instruction || card.values.caption || source || card.id;
  }

  function why(card) {
    return card.reason || card.stage ? [card.stage, card.reason].filter(Boolean).join(": ") : "";
  }

  function cardNode(card, index) {
    const other = beside(card);
    const frames = make("div", { class: "frames" }, frame(card, "source"), other && frame(card, other));
    const open = make("button", { type: "button", class: "open", "aria-label": `Details of ${card.status} ${card.kind}: ${title(card)}` });
    open.addEventListener("click", () => details.open(index));
    const text = make(
      "div", { class: "text" },
      make("p", { class: "instruction" }, title(card)),
      headline(card),
      card.status === "kept" ? null : make("p", { class: `why ${card.status}` }, why(card)),
      make("span", { class: "id" }, card.id.slice(0, 16)),
    );
    return make("article", { class: `card ${card.kind}${other === "twin" ? " twins" : ""}`, "data-id": card.id }, frames, text, open);
  }

  // ---- filters

  const FACETS = { kind: (card) => card.kind, status: (card) => card.status, task: (card) => card.values.task || "", stage: (card) => card.stage, rule: (card) => card.rule };
  const NAMES = { pair: "Edits", photograph: "Photographs" };
  const haystack = data.cards.map((card) =>
    [card.id, card.twin, card.values.parent, card.values.instruction, card.values.caption, ...(card.values.sources || [])].filter(Boolean).join("\n").toLowerCase());
  let chosen = [];
  let shown = 0;

  function matches(index, without) {
    const card = data.cards[index];
    for (const facet of Object.keys(FACETS)) {
      const wanted = byId(facet).value;
      if (facet !== without && wanted && FACETS[facet](card) !== wanted) return false;
    }
    const words = byId("search").value.toLowerCase().split(/\s+/).filter(Boolean);
    return words.every((word) => haystack[index].includes(word));
  }

  // Each choice says how many cards it would leave, given the other filters (which a new kind of rows clears).
  function fillFacet(facet) {
    const select = byId(facet);
    const wanted = select.value;
    const counts = new Map();
    data.cards.forEach((card, index) => {
      const value = FACETS[facet](card);
      if (value && !counts.has(value)) counts.set(value, 0);
      if (value && (facet === "kind" || matches(index, facet))) counts.set(value, counts.get(value) + 1);
    });
    const options = [...counts].filter(([value, count]) => count || value === wanted);
    if (facet !== "kind" && facet !== "status") options.sort((a, b) => (a[0] < b[0] ? -1 : 1));
    const nodes = options.map(([value, count]) => make("option", { value }, `${NAMES[value] || value} (${count})`));
    select.replaceChildren(...(facet === "kind" && nodes.length ? [] : [make("option", { value: "" }, "all")]), ...nodes);
    select.value = counts.has(wanted) ? wanted : select.options[0].value;
    select.disabled = counts.size === 0;
  }

  function fillOrder() {
    const wanted = byId("order").value;
    const options = [make("option", { value: "" }, "mixed")];
    for (const name of data.measures[byId("kind").value] || []) {
      options.push(make("option", { value: `+${name}` }, `${name} ↑`), make("option", { value: `-${name}` }, `${name} ↓`));
    }
    byId("order").replaceChildren(...options);
    byId("order").value = options.some((option) => option.value === wanted) ? wanted : "";
  }

  function sorted(indices) {
    const order = byId("order").value;
    if (!order) return indices;
    const sign = order[0] === "+" ? 1 : -1;
    const value = (index) => {
      const number = data.cards[index].values[order.slice(1)];
      return typeof number === "number" ? sign * number : Infinity;
    };
    return indices.sort((a, b) => (value(a) === value(b) ? a - b : value(a) - value(b)));
  }

  function apply() {
    Object.keys(FACETS).forEach(fillFacet);
    fillOrder();
    chosen = sorted(data.cards.map((_, index) => index).filter((index) => matches(index)));
    shown = 0;
    byId("cards").replaceChildren();
    const kind = byId("kind").value || "pair";
    const total = data.cards.filter((card) => card.kind === kind).length;
    byId("count").textContent = `${chosen.length.toLocaleString("en")} of ${plural(total, kind === "pair" ? "edit" : kind)} in the gallery`;
    more();
  }

  function more() {
    const next = chosen.slice(shown, shown + PAGE);
    byId("cards").append(...next.map((index) => cardNode(data.cards[index], index)));
    shown += next.length;
    byId("more-line").hidden = shown >= chosen.length;
    byId("more").textContent = `Show more (${(chosen.length - shown).toLocaleString("en")} left)`;
  }

  function reset(values = {}) {
    for (const facet of Object.keys(FACETS)) {
      const select = byId(facet);
      const value = values[facet] || "";
      if (value && ![...select.options].some((option) => option.value === value)) select.append(make("option", { value }, value));
      select.value = value;
    }
    byId("search").value = "";
    byId("order").value = "";
    if (!values.kind && data.cards.length) byId("kind").value = data.cards[0].kind;
    apply();
  }

  byId("filters").addEventListener("change", (event) => (event.target.id === "kind" ? reset({ kind: event.target.value }) : apply()));
  byId("search").addEventListener("input", apply);
  byId("filters").addEventListener("submit", (event) => event.preventDefault());
  byId("filters").addEventListener("reset", (event) => { event.preventDefault(); reset(); });
  byId("more").addEventListener("click", more);
  new IntersectionObserver((entries) => { if (entries.some((entry) => entry.isIntersecting)) more(); }, { rootMargin: "600px" }).observe(byId("more-line"));
  for (const button of document.querySelectorAll("button.show")) {
    const { kind, stage, rule } = button.dataset;
    button.hidden = !data.cards.some((card) => card.kind === kind && card.stage === stage && card.rule === rule);
    button.addEventListener("click", () => { reset({ kind, stage, rule }); byId("gallery").scrollIntoView(); byId("status").focus({ preventScroll: true }); });
  }
  byId("boxes").addEventListener("change", () => setBoxes(byId("boxes").checked));
  byId("details-boxes").addEventListener("change", () => setBoxes(byId("details-boxes").checked));

  function setBoxes(on) {
    byId("boxes").checked = byId("details-boxes").checked = on;
    document.body.classList.toggle("no-boxes", !on);
  }

  // ---- details

  const details = {
    dialog: byId("details"),
    index: 0,
    mode: "both",

    open(index) {
      this.index = index;
      this.draw();
      if (!this.dialog.open) this.dialog.showModal();
    },

    step(by) {
      const at = chosen.indexOf(this.index) + by;
      if (at >= 0 && at < chosen.length) this.open(chosen[at]);
    },

    flip() {
      this.mode = this.mode === "source" ? "beside" : "source";
      this.draw();
    },

    draw() {
      const card = data.cards[this.index];
      const other = beside(card);
      const pair = other === "twin" || (other !== null && card.edited !== null);
      const mode = pair ? this.mode : card.kind === "pair" && this.mode === "both" ? "both" : "source";
      const names = { source: other === "twin" ? "This one" : "Source", beside: other === "twin" ? "Kept" : "Edited", both: "Both" };
      byId("details-title").textContent = title(card);
      const at = chosen.indexOf(this.index);
      byId("position").textContent = `${at + 1} of ${chosen.length}`;
      byId("previous").disabled = at <= 0;
      byId("next").disabled = at >= chosen.length - 1;
      byId("flip").disabled = !pair;
      byId("flip").firstChild.textContent = other === "twin" ? "Flip this / kept " : "Flip source / edited ";
      for (const button of document.querySelectorAll("[data-mode]")) {
        button.textContent = names[button.dataset.mode];
        button.setAttribute("aria-pressed", String(button.dataset.mode === mode));
        button.disabled = !pair;
      }
      byId("stage-view").classList.toggle("stacked", card.width > 1.3 * card.height);
      byId("stage-view").replaceChildren(...(mode === "both" ? ["source", other] : [mode === "beside" ? other : mode]).map((side) => frame(card, side)));
      byId("details-columns").replaceChildren(...columns(card));
      byId("details-columns").scrollTop = 0;
    },
  };

  function rows(pairs) {
    return make("dl", {}, ...pairs.map(([name, ...value]) => make("div", {}, make("dt", {}, name), make("dd", {}, ...value))));
  }

  function columns(card) {
    const verdict = [["status", make("span", { class: `status ${card.status}` }, card.status)]];
    if (card.stage) verdict.push(["stage", card.stage]);
    if (card.reason) verdict.push(["reason", card.reason]);
    verdict.push(["id", make("span", { class: "mono" }, card.id)]);
    if (card.values.parent) verdict.push(["photograph", make("span", { class: "mono" }, card.values.parent)]);
    const nodes = [make("h3", {}, "verdict"), rows(verdict)];
    const listed = new Set(["parent"]);
    const groups = [...data.groups, { stage: "other columns", columns: Object.keys(card.values), rules: {}, limits: {} }];
    for (const group of groups) {
      const names = group.columns.filter((name) => Object.hasOwn(card.values, name) && !listed.has(name));
      names.forEach((name) => listed.add(name));
      if (names.length) nodes.push(make("h3", {}, group.stage), rows(names.map((name) => [name, show(card.values[name]), ruleNode(group, name, card.values[name])])));
    }
    return nodes;
  }

  function ruleNode(group, name, value) {
    if (!Object.hasOwn(group.rules, name)) return null;
    const [min, max] = group.limits[name];
    const numeric = typeof value === "number" && (typeof min === "number" || typeof max === "number");
    const broken = numeric && ((typeof min === "number" && value < min) || (typeof max === "number" && value > max));
    return make("span", { class: numeric ? `rule ${broken ? "break" : "pass"}` : "rule" }, `${numeric ? (broken ? "✕ " : "✓ ") : ""}keep ${group.rules[name]}`);
  }

  byId("flip").addEventListener("click", () => details.flip());
  byId("previous").addEventListener("click", () => details.step(-1));
  byId("next").addEventListener("click", () => details.step(1));
  byId("close").addEventListener("click", () => details.dialog.close());
  for (const button of document.querySelectorAll("[data-mode]")) {
    button.addEventListener("click", () => { details.mode = button.dataset.mode; details.draw(); });
  }
  details.dialog.addEventListener("click", (event) => { if (event.target === details.dialog) details.dialog.close(); });
  details.dialog.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key === "arrowleft") details.step(-1);
    else if (key === "arrowright") details.step(1);
    else if (key === "f" && !byId("flip").disabled) details.flip();
    else if (key === "b") setBoxes(!byId("boxes").checked);
  });

  setBoxes(true);
  reset();
})();
