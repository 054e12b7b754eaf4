"use strict";
// The page: the funnel, its stages with their columns' cards, the settings to paste. Numbers come from Tuning.Run; the
// funnel is right when an input event ends, drawings follow at the next frame, and only those that are seen.
(() => {
  const { NOUNS, make, whole, nouns, percent, say, bar } = Show;
  const byId = (id) => document.getElementById(id);
  const source = byId("data");
  const data = JSON.parse(source.textContent);
  source.remove();
  const run = new Tuning.Run(data);
  const factor = data.sampledFrom ? data.sampledFrom / data.levels[0].rows : 1;
  const count = Show.counter(factor);
  const before = run.stages.map((stage) => stage.counts);

  const signed = (rows) => (rows ? (rows > 0 ? "+" : "−") + count(Math.abs(rows)) : "");
  const amounts = (counts) => ({ kept: counts.kept, rejected: counts.out, failed: counts.failed, pending: counts.pending });

  function setDelta(node, rows) {
    say(node, signed(rows));
    node.className = `delta ${rows > 0 ? "more" : rows < 0 ? "less" : ""}`;
  }

  function inWords(counts) {
    const parts = [`${count(counts.given)} given`];
    if (counts.out) parts.push(`${count(counts.out)} rejected`);
    if (counts.failed) parts.push(`${count(counts.failed)} failed`);
    if (counts.pending) parts.push(`${count(counts.pending)} would need work`);
    return parts.join(" · ");
  }

  // ---- the funnel

  const anchor = (number) => `stage-${number}`;
  const steps = run.stages.map((stage, number) => {
    const step = { stage, bar: bar(), kept: make("td", { class: "n" }), delta: make("span", { class: "delta" }), out: make("div", { class: "why-out" }) };
    step.change = make("td", { class: "n" }, step.delta);
    const link = make("a", { href: `#${anchor(number)}` }, stage.name);
    step.line = make("tr", {}, make("th", { scope: "row", class: "name" }, link, step.bar.svg, step.out), step.kept, step.change);
    return step;
  });

  function ingestLine() {
    const { failed, pending } = data.ingest;
    const rows = data.levels[0].rows;
    const line = { bar: bar() };
    line.bar.draw({ kept: rows * factor, rejected: 0, failed, pending }, rows * factor + failed + pending, `ingest: ${count(rows)} kept`);
    const out = [`${whole.format(Math.round(rows * factor) + failed + pending)} given`];
    if (failed) out.push(`${whole.format(failed)} failed`);
    if (pending) out.push(`${whole.format(pending)} not read yet`);
    return make("tr", {}, make("th", { scope: "row", class: "name" }, "ingest", line.bar.svg, make("div", { class: "why-out" }, out.join(" · "))), make("td", { class: "n" }, count(rows)), make("td"));
  }

  function buildFunnel() {
    const heads = [["Stage", ""], ["Kept", "n"], ["Change", "n"]].map(([text, kind]) => make("th", { scope: "col", class: kind || null }, text));
    const table = make("table", {}, make("thead", {}, make("tr", {}, ...heads)), make("tbody", {}, ingestLine(), ...steps.map((step) => step.line)));
    byId("steps").append(make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "Predicted funnel" }, table));
  }

  function showFunnel(from) {
    const changed = new Set(Settings.changes(run).map((change) => change.stage));
    const base = new Map();
    run.stages.forEach((stage, number) => {
      const { counts } = stage;
      const step = steps[number];
      if (!base.has(stage.level)) base.set(stage.level, Math.max(counts.given, before[number].given));
      if (number < from) return;
      say(step.kept, count(counts.kept));
      setDelta(step.delta, counts.kept - before[number].kept);
      say(step.out, inWords(counts));
      step.bar.draw(amounts(counts), base.get(stage.level), `${stage.name}: ${count(counts.kept)} kept, ${inWords(counts)}`);
      step.line.classList.toggle("was-changed", changed.has(stage));
      say(cards.heads[number].kept, `${count(counts.kept)} kept`);
      say(cards.heads[number].rest, ` · ${inWords(counts)}`);
      cards.fixed[number].forEach(({ node, rule }) => say(node, `${count(counts.rejected[rule])} rejected`));
    });
    const last = run.stages.at(-1);
    const more = last.counts.kept - before.at(-1).kept;
    byId("live").replaceChildren(make("strong", {}, count(last.counts.kept)), ` ${nouns(last, last.counts.kept)} `, make("span", { class: more < 0 ? "less" : "more" }, signed(more)));
  }

  // ---- summary, at the next frame

  const tiles = run.levels
    .map((level) => ({ level, steps: run.stages.filter((stage) => stage.level === level) }))
    .filter((tile) => tile.steps.length)
    .map((tile) => {
      const parts = { ...tile, bar: bar(), number: make("strong"), of: make("span"), delta: make("span"), note: make("p", { class: "tile-note" }) };
      byId("tiles").append(make("div", { class: "tile" },
        make("p", { class: "tile-name" }, `${NOUNS[tile.level.name][1][0].toUpperCase()}${NOUNS[tile.level.name][1].slice(1)} kept`),
        make("p", { class: "tile-number" }, parts.number, parts.of, parts.delta), parts.bar.svg, parts.note));
      return parts;
    });

  // The tile of photographs ends with the stage that makes edits of them.
  function showTiles() {
    for (const tile of tiles) {
      const first = tile.steps[0], last = tile.steps.at(-1);
      const total = tile.steps.reduce((sum, stage) => ({ kept: last.counts.kept, rejected: sum.rejected + stage.counts.out, failed: sum.failed + stage.counts.failed, pending: sum.pending + stage.counts.pending }), { kept: 0, rejected: 0, failed: 0, pending: 0 });
      const error = Math.round(run.error(last, data.sampledFrom));
      say(tile.number, count(last.counts.kept));
      say(tile.of, ` of ${count(first.counts.given)}${error ? ` (± ${whole.format(error)})` : ""} `);
      setDelta(tile.delta, last.counts.kept - before[run.stages.indexOf(last)].kept);
      const words = `${percent(last.counts.kept, first.counts.given)} kept, ${count(total.rejected)} rejected, ${count(total.failed)} failed, ${count(total.pending)} would need work`;
      tile.bar.draw(total, Math.max(first.counts.given, before[run.stages.indexOf(first)].given), words);
      say(tile.note, words);
    }
  }

  function showSummary() {
    const changed = Settings.changes(run);
    const rules = changed.reduce((sum, change) => sum + change.columns.length, 0);
    const last = run.stages.at(-1);
    const more = last.counts.kept - before.at(-1).kept;
    const work = run.stages.reduce((sum, stage) => sum + stage.counts.pending, 0);
    const kept = `${count(last.counts.kept)} ${nouns(last, last.counts.kept)} would be kept`;
    const than = more ? `, ${count(Math.abs(more))} ${more > 0 ? "more" : "fewer"} than now` : ", as many as now";
    const waits = work ? ` ${count(work)} ${work === 1 ? "row waits" : "rows wait"} for work that a run would do; what becomes of ${work === 1 ? "it" : "them"} is not known before.` : "";
    say(byId("summary"), rules
      ? `With ${rules} ${rules === 1 ? "column" : "columns"} changed, ${kept}${than}.${waits}`
      : `As it is, ${count(last.counts.kept)} ${nouns(last, last.counts.kept)} ${last.counts.kept === 1 ? "is" : "are"} kept.${waits}`);
  }

  // ---- settings to paste

  let form = "yaml";
  const HOW = {
    yaml: "Each block takes the place of the stage's keep in the pipeline file; settings beside keep stay.",
    options: "Add these to the command that made the run.",
  };

  function showSettings() {
    say(byId("paste"), Settings[form](run));
    say(byId("how"), HOW[form]);
    say(byId("copied"), "");
    byId("copy").disabled = byId("reset").disabled = !byId("paste").textContent;
    for (const button of document.querySelectorAll("[data-form]")) button.setAttribute("aria-pressed", String(button.dataset.form === form));
  }

  async function copy() {
    const text = byId("paste").textContent;
    let done = false;
    try {
      await navigator.clipboard.writeText(text);
      done = true;
    } catch {
      // A browser may give a page from a file no clipboard: the old way still works after a click.
      getSelection().selectAllChildren(byId("paste"));
      done = document.execCommand("copy");
    }
    byId("copied").textContent = done ? "Copied." : "The browser does not allow it: select the text and copy it.";
  }

  // ---- the stages' cards

  const cards = { heads: [], fixed: [], knobs: [] };
  const page = { run, data, count, changed };

  function buildStage(stage, number) {
    const head = { kept: make("b"), rest: make("span") };
    cards.heads.push(head);
    const fixed = stage.packed.fixed.map((packed) => ({
      node: make("span"),
      rule: stage.rules.findIndex((rule) => rule.column === packed.column && rule.kind === packed.kind),
      text: `${packed.column}: {${packed.text}}`,
      how: packed.kind === "distinct" && !stage.links.some((links) => links.key === `${packed.column}\n${packed.kind}`) ? ", as computed now: " : ": ",
    }));
    cards.fixed.push(fixed);
    const knobs = [...stage.columns.values()].map((column, place) => new Knob(page, stage, column, stage.packed.columns[place]));
    cards.knobs.push(...knobs);
    const ruled = knobs.filter((knob) => Object.keys(run.present[stage.name][knob.column.name] || {}).length);
    const free = knobs.filter((knob) => !ruled.includes(knob));
    const section = make("section", { class: "stage", id: anchor(number) }, make("h3", {}, stage.name), make("p", { class: "counts" }, head.kept, head.rest));
    for (const { node, text, how } of fixed) {
      section.append(make("p", { class: "fixed" }, "Rule ", make("code", { class: "data" }, text), how, node, "."));
    }
    if (ruled.length) section.append(make("div", { class: "charts" }, ...ruled.map((knob) => knob.node)));
    if (free.length) section.append(make("details", {}, make("summary", {}, `${free.length} ${free.length === 1 ? "column" : "columns"} without a rule`), make("div", { class: "charts" }, ...free.map((knob) => knob.node))));
    if (!knobs.length && !fixed.length) section.append(make("p", { class: "note" }, stage.fansOut ? "Makes edits of the photographs; it has no rules." : "It has no numbers to set a threshold on."));
    return section;
  }

  const knobOf = new Map();
  const observer = new IntersectionObserver((entries) => {
    for (const entry of entries) knobOf.get(entry.target).seen = entry.isIntersecting;
    ask();
  }, { rootMargin: "150px" });

  // ---- changes

  let asked = false;
  function ask() {
    if (!asked) requestAnimationFrame(draw);
    asked = true;
  }

  function draw() {
    asked = false;
    for (const knob of cards.knobs) if (knob.dirty && knob.seen) knob.draw();
    if (!stale) return;
    stale = false;
    showTiles();
    showSummary();
    showSettings();
  }

  let stale = true;
  // The numbers of the funnel now, the drawings at the next frame. moved: the knob that was; without it, any may have been.
  // typing: its field has the caret.
  function changed(moved = null, typing = false) {
    const from = moved ? run.stages.indexOf(moved.stage) : 0;
    for (const knob of cards.knobs) {
      if (run.stages.indexOf(knob.stage) < from) continue;
      knob.dirty = true;
      if (!moved || knob === moved || knob.isFitted()) knob.showBounds(knob === moved && typing);
    }
    stale = true;
    showFunnel(from);
    ask();
  }

  byId("stages").append(...run.stages.map(buildStage));
  buildFunnel();
  for (const knob of cards.knobs) {
    knobOf.set(knob.node, knob);
    observer.observe(knob.node);
  }
  for (const button of document.querySelectorAll("[data-form]")) button.addEventListener("click", () => { form = button.dataset.form; showSettings(); });
  byId("copy").addEventListener("click", copy);
  byId("reset").addEventListener("click", () => { run.replace(run.present); changed(); });
  changed();
  // For the console, and for who measures the page.
  globalThis.tuning = { run, changed };
})();
