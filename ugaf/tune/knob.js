"use strict";
// A column's card: its histogram, a slider and a field for each side, and sample images near the cut.
const Knob = (() => {
  const SAMPLES = 4;
  const POSITIONS = 600;
  const { SIDES, MEASURED } = Tuning;
  const { make, short, nouns, percent } = Show;

  // Positions are round numbers, so that what is pasted is short and exactly what was counted

  // A slider's loose end is no limit. Its positions lie under the histogram: where each whole number has a bin, a limit
  // stands between two of them.
  class Scale {
    constructor(column) {
      const raw = Math.max((column.high - column.low) / POSITIONS, column.whole ? 1 : 0) || 1;
      this.exponent = Math.floor(Math.log10(raw) + 1e-12);
      this.factor = [1, 2, 5, 10].find((by) => by * 10 ** this.exponent >= raw * 0.999);
      this.step = this.factor * 10 ** this.exponent;
      this.between = column.whole && Math.abs(column.low % 1) === 0.5 && this.step === 1;
      this.first = Math.ceil(column.low / this.step - 1e-9);
      const last = Math.floor(column.high / this.step + 1e-9);
      this.end = Math.max(last - this.first + (this.between ? 1 : 0), 1);
    }

    shift(side) {
      return this.between && side === "max" ? 1 : 0;
    }

    bound(side, position) {
      if (position === (side === "min" ? 0 : this.end)) return null;
      return Number(`${(this.first + position - this.shift(side)) * this.factor}e${this.exponent}`);
    }

    position(side, bound) {
      if (bound === undefined || !Number.isFinite(bound)) return side === "min" ? 0 : this.end;
      const place = Math.round(bound / this.step) - this.first + this.shift(side);
      return side === "min" ? Math.min(Math.max(place, 1), this.end) : Math.min(Math.max(place, 0), this.end - 1);
    }
  }

  class Knob {
    // page: run, data, count (rows as text), and changed(knob, typing), which is told when the bounds have changed.
    constructor(page, stage, column, packed) {
      Object.assign(this, { page, stage, column, packed, scale: new Scale(column), sides: {}, dirty: true, seen: false });
      this.active = this.bound("min") === undefined && this.bound("max") !== undefined ? "max" : "min";
      this.node = make("figure", { class: "chart knob", "data-stage": stage.name, "data-column": column.name }, this.caption(), this.plot(), this.controls());
      this.note = make("p", { class: "note" });
      this.strip = make("div", { class: "strip" });
      this.node.append(this.note, this.strip);
      this.showBounds();
    }

    // The number that decides on a side: the rule's, or what its quantile was fitted to.
    bound(side) {
      const of = this.page.run.bounds[this.stage.name][this.column.name] || {};
      return of[side] ?? this.stage.fitted[this.column.name]?.[`${side}_quantile`];
    }

    caption() {
      this.resetButton = make("button", { type: "button", "aria-label": `Reset ${this.column.name}` }, "Reset");
      this.resetButton.addEventListener("click", () => { this.page.run.reset(this.stage.name, this.column.name); this.page.changed(this); });
      return make("figcaption", {}, make("span", { class: "title" }, this.column.name), this.resetButton);
    }

    plot() {
      const { low, high } = this.column;
      this.bins = this.packed.bins;
      this.kept = make("path", { class: "kept" });
      this.rejected = make("path", { class: "rejected" });
      this.zones = Object.fromEntries(SIDES.map((side) => [side, make("rect", { class: "zone", y: 0, height: 100 })]));
      this.limits = Object.fromEntries(SIDES.map((side) => [side, make("line", { y1: -4, y2: 100 })]));
      const axis = make("line", { class: "axis", x1: 0, x2: this.bins, y1: 100, y2: 100 });
      this.svg = make("svg", { viewBox: `0 0 ${this.bins} 100`, preserveAspectRatio: "none", role: "img", "aria-label": `Histogram of ${this.column.name}` }, ...Object.values(this.zones), this.kept, this.rejected, axis, ...Object.values(this.limits));
      const shift = this.column.whole && low % 1 ? 0.5 : 0;
      const ends = [low + shift, (low + high) / 2, high - shift].map((value) => make("span", {}, short(value)));
      return make("div", { class: "plot" }, this.svg, make("div", { class: "scale", "aria-hidden": "true" }, ...ends));
    }

    // One track with a slider for each side, under the histogram and of its width; the fields below.
    controls() {
      const { sides, scale } = this;
      for (const side of SIDES) {
        const name = `${this.stage.name} ${this.column.name} ${side}`;
        const slider = make("input", { type: "range", min: 0, max: scale.end, step: 1, "aria-label": `${name}, slider`, "data-side": side });
        const field = make("input", { type: "number", step: "any", placeholder: "none", "aria-label": name, "data-side": side });
        sides[side] = { slider, field, chip: make("span", { class: "chip" }), node: null };
        sides[side].node = make("label", { class: "side" }, side, field, sides[side].chip);
        slider.addEventListener("input", () => this.move(side, scale.bound(side, Number(slider.value))));
        field.addEventListener("input", () => {
          if (!field.validity.badInput) this.move(side, field.value === "" ? null : Number(field.value), true);
        });
        field.addEventListener("change", () => this.showBounds());
      }
      const track = make("div", { class: "track" }, ...SIDES.map((side) => sides[side].slider));
      this.crossed = make("p", { class: "crossed", role: "alert" });
      return make("div", {}, track, make("div", { class: "sides" }, ...SIDES.map((side) => sides[side].node)), this.crossed);
    }

    move(side, bound, typing = false) {
      this.active = side;
      this.page.run.set(this.stage.name, this.column.name, side, bound);
      this.page.changed(this, typing);
    }

    // Whether a bound moves with the rows that the stage is given.
    isFitted() {
      const of = this.page.run.bounds[this.stage.name][this.column.name];
      return of !== undefined && SIDES.some((side) => of[`${side}_quantile`] !== undefined);
    }

    // Of the numbers of these rules, those outside of the measure's range, as `ugaf run` warns of them.
    beyond(of) {
      if (!this.packed.range) return "";
      const [low, end] = this.packed.range, high = end ?? Infinity;
      const span = end === null ? `${short(low)} or more` : `${short(low)}..${short(high)}`;
      return SIDES.filter((side) => of[side] < low || of[side] > high).map((side) => {
        const none = side === "min" ? of[side] > high : of[side] < low;
        return `${side} ${Settings.text(of[side])}: the measure is ${span}, so ${none ? "no row that has a value can be kept" : "every row passes it"}`;
      }).join("; ");
    }

    // typing: the field that is being typed in keeps what the person typed.
    showBounds(typing = false) {
      const of = this.page.run.bounds[this.stage.name][this.column.name] || {};
      for (const side of SIDES) {
        const { slider, field, chip, node } = this.sides[side];
        const bound = this.bound(side);
        const isSet = bound !== undefined && Number.isFinite(bound);
        slider.value = this.scale.position(side, bound);
        slider.setAttribute("aria-valuetext", isSet ? Settings.text(bound) : "no limit");
        if (!(typing && side === this.active)) field.value = isSet ? Settings.text(bound) : "";
        const share = of[`${side}_quantile`];
        chip.textContent = share === undefined ? "" : `quantile ${Settings.text(share)}`;
        for (const part of [node, slider]) part.classList.toggle("off", !isSet);
        slider.classList.toggle("active", side === this.active);
      }
      this.crossed.textContent = this.bound("min") > this.bound("max") ? "min is over max: no row can be kept, and a run refuses these settings" : this.beyond(of);
      const same = Tuning.KINDS.every((kind) => of[kind] === (this.page.run.present[this.stage.name][this.column.name] || {})[kind]);
      this.node.classList.toggle("changed", !same);
      this.resetButton.tabIndex = same ? -1 : 0;
    }

    // The bin of each measured row; 255 for no value or one outside of the drawing.
    get binOf() {
      if (this._binOf) return this._binOf;
      const { values, nulls, low, high } = this.column;
      this._binOf = new Uint8Array(values.length).fill(255);
      for (let i = 0; i < values.length; i++) {
        const at = ((values[i] - low) / (high - low)) * this.bins;
        if (at >= 0 && at <= this.bins && !(nulls && nulls[i])) this._binOf[i] = Math.min(Math.floor(at), this.bins - 1);
      }
      return this._binOf;
    }

    // Rows given to the stage by bin, kept or broken by this column's own bounds.
    tally() {
      const { values, nulls } = this.column;
      const { given, place, counts } = this.stage;
      const low = this.bound("min") ?? -Infinity, high = this.bound("max") ?? Infinity;
      const limited = this.bound("min") !== undefined || this.bound("max") !== undefined;
      const bin = this.binOf;
      const kept = new Int32Array(256), broken = new Int32Array(256);
      let empty = 0;
      for (let i = 0; i < counts.given; i++) {
        const at = place[given[i]];
        if (at < 0) continue;
        if (nulls !== null && nulls[at] === 1) { empty++; continue; }
        const value = values[at];
        if (!limited || (value >= low && value <= high)) kept[bin[at]]++;
        else broken[bin[at]]++;
      }
      return { kept, broken, empty, breaking: broken.reduce((sum, rows) => sum + rows, 0), outside: kept[255] + broken[255] };
    }

    draw() {
      this.dirty = false;
      const { count } = this.page;
      const { kept, broken, empty, breaking, outside } = this.tally();
      let top = 1;
      for (let i = 0; i < this.bins; i++) top = Math.max(top, kept[i] + broken[i]);
      const height = (rows) => (rows ? Math.max((96 * rows) / top, 1.5) : 0);
      let green = "", orange = "";
      for (let i = 0; i < this.bins; i++) {
        const below = height(kept[i]);
        if (below) green += `M${i + 0.06} 100v${-below.toFixed(2)}h.88v${below.toFixed(2)}z`;
        if (broken[i]) {
          const above = Math.max(height(kept[i] + broken[i]) - below, 1.5);
          orange += `M${i + 0.06} ${(100 - below).toFixed(2)}v${-above.toFixed(2)}h.88v${above.toFixed(2)}z`;
        }
      }
      this.kept.setAttribute("d", green);
      this.rejected.setAttribute("d", orange);
      this.drawLimits();
      const { given } = this.stage.counts;
      const parts = [make("b", {}, count(breaking)), ` of ${count(given)} given ${breaking === 1 ? "breaks" : "break"} this (${percent(breaking, given)})`];
      if (empty) parts.push(`; ${count(empty)} without a value`);
      if (outside) parts.push(`; ${count(outside)} not drawn`);
      this.note.replaceChildren(...parts, ".");
      this.svg.setAttribute("aria-label", `Histogram of ${this.column.name}: ${count(breaking)} of ${count(given)} rows given break its limits`);
      this.drawSamples();
    }

    drawLimits() {
      const { low, high } = this.column;
      for (const side of SIDES) {
        const bound = this.bound(side);
        const edge = this.scale.between ? (side === "min" ? -0.5 : 0.5) : 0;
        const at = bound === undefined || !Number.isFinite(bound) ? null : ((bound + edge - low) / (high - low)) * this.bins;
        const inside = at !== null && at >= 0 && at <= this.bins;
        this.limits[side].style.display = inside ? "" : "none";
        if (inside) { this.limits[side].setAttribute("x1", at); this.limits[side].setAttribute("x2", at); }
        const from = at === null ? (side === "min" ? 0 : this.bins) : Math.min(Math.max(at, 0), this.bins);
        this.zones[side].setAttribute("x", side === "min" ? 0 : from);
        this.zones[side].setAttribute("width", side === "min" ? from : this.bins - from);
      }
    }

    // Embedded rows that have this column's value, by value.
    get samples() {
      if (this._samples) return this._samples;
      const { values, nulls } = this.column;
      const { state, place } = this.stage;
      this._samples = this.page.data.shown
        .filter(({ level, row }) => this.page.run.levels[level] === this.stage.level && state[row] === MEASURED && !(nulls && nulls[place[row]]))
        .map((shown) => ({ shown, value: values[place[shown.row]] }))
        .filter((sample) => Number.isFinite(sample.value))
        .sort((one, other) => one.value - other.value);
      return this._samples;
    }

    drawSamples() {
      const side = this.active;
      const bound = this.bound(side);
      if (bound === undefined || !Number.isFinite(bound)) {
        if (this.drawn !== "none") this.strip.replaceChildren();
        this.drawn = "none";
        return;
      }
      const given = this.samples.filter((sample) => isGiven(this.stage, sample.shown.row));
      const passes = (value) => (side === "min" ? value >= bound : value <= bound);
      const nearest = (list) => list.sort((one, other) => Math.abs(one.value - bound) - Math.abs(other.value - bound)).slice(0, SAMPLES).sort((one, other) => one.value - other.value);
      const rejected = nearest(given.filter((sample) => !passes(sample.value)));
      const kept = nearest(given.filter((sample) => passes(sample.value)));
      const drawn = [side, ...rejected.map((sample) => sample.shown.row), "|", ...kept.map((sample) => sample.shown.row)].join(" ");
      if (drawn === this.drawn) return;
      this.drawn = drawn;
      const groups = [["rejected", `Just ${side === "min" ? "below the min" : "above the max"}: out`, rejected], ["kept", `Just ${side === "min" ? "above the min" : "below the max"}: in`, kept]];
      if (!this.page.data.shown.length) return;
      this.strip.replaceChildren(...groups.map(([status, title, list]) =>
        make("div", {}, make("h4", { class: status }, title), list.length ? make("div", { class: "samples" }, ...list.map((sample) => this.sampleNode(sample))) : make("p", { class: "note" }, "none among the rows with pictures"))));
    }

    // Kept, so that a picture is not decoded again each time it comes back.
    sampleNode({ shown, value }) {
      const nodes = (this.nodes ??= new Map());
      if (!nodes.has(shown)) nodes.set(shown, this.newSampleNode(shown, value));
      return nodes.get(shown);
    }

    newSampleNode(shown, value) {
      const label = `${nouns(this.stage, 1)} ${shown.id.slice(0, 12)}, ${this.column.name} ${short(value)}`;
      const pictures = shown.images.map(([what, name]) => make("img", { src: this.page.data.images[name], alt: `${what} of ${label}`, title: `${what} of ${label}`, decoding: "async" }));
      return make("figure", {}, make("div", { class: "pictures" }, ...(pictures.length ? pictures : [make("span", { class: "none" }, shown.note)])), make("figcaption", { title: shown.id }, short(value)));
    }
  }

  function isGiven(stage, row) {
    let low = 0, high = stage.counts.given - 1;
    while (low <= high) {
      const middle = (low + high) >> 1;
      if (stage.given[middle] === row) return true;
      if (stage.given[middle] < row) low = middle + 1;
      else high = middle - 1;
    }
    return false;
  }

  return Knob;
})();
