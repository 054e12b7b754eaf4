"use strict";
// The funnel for any thresholds, from the stored columns: the same verdicts as ugaf/tune/funnel.py and
// ugaf/columns/verdicts.py.
// A change recomputes its own stage's rules, then walks the rows from that stage on.
const Tuning = (() => {
  const MISSING = 0, MEASURED = 1, BROKE = 2, CHILDLESS = 3;
  const NONE = 0xffff;
  const SIDES = ["min", "max"];
  const KINDS = ["min", "max", "min_quantile", "max_quantile"];
  const ARRAYS = { f8: Float64Array, f4: Float32Array, i4: Int32Array, i2: Int16Array, i1: Int8Array, u1: Uint8Array };

  function bytes(text) {
    if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
    const raw = atob(text);
    const out = new Uint8Array(raw.length);
    for (let i = 0; i < raw.length; i++) out[i] = raw.charCodeAt(i);
    return out;
  }

  // {t: type, b: base64} as a typed array; the data has the byte order of the machines that browsers run on.
  const mapped = (of, make) => Object.fromEntries(Object.entries(of).map(([name, value]) => [name, make(value)]));
  const array = (packed) => new ARRAYS[packed.t](bytes(packed.b).buffer);

  function bits(text, count) {
    const packed = bytes(text);
    const out = new Uint8Array(count);
    for (let i = 0; i < count; i++) out[i] = (packed[i >> 3] >> (7 - (i & 7))) & 1;
    return out;
  }

  // A numeric column of the measured rows. Its values are unpacked when they are first needed.
  class Column {
    constructor(packed, count) {
      Object.assign(this, { name: packed.name, whole: packed.whole, low: packed.low, high: packed.high, count });
      this.packed = packed;
    }

    get values() {
      // One kind of array for all columns, so that the loops below are compiled once.
      return (this._values ??= Float64Array.from(array(this.packed.values)));
    }

    get nulls() {
      if (this._nulls === undefined) this._nulls = this.packed.nulls ? bits(this.packed.nulls, this.count) : null;
      return this._nulls;
    }
  }

  class Stage {
    constructor(packed, level) {
      Object.assign(this, { name: packed.name, level, fansOut: packed.fansOut, packed });
      this.rows = level.rows;
      this.state = packed.state ? bytes(packed.state) : new Uint8Array(this.rows).fill(MEASURED);
      this.place = new Int32Array(this.rows);
      let count = 0;
      for (let row = 0; row < this.rows; row++) this.place[row] = this.state[row] === MEASURED ? count++ : -1;
      this.count = count;
      this.columns = new Map(packed.columns.map((column) => [column.name, new Column(column, count)]));
      this.rules = packed.order.map(([column, kind]) => ({ column, kind, fixed: !KINDS.includes(kind) }));
      this.fixed = new Map(packed.fixed.map((rule) => [rule.column + "\n" + rule.kind, bits(rule.broken, count)]));
      this.links = packed.links.map((link) => ({
        key: link.column + "\n" + link.kind, rows: array(link.rows), rank: array(link.rank), a: array(link.a), b: array(link.b),
      }));
      this.frozen = packed.frozen;
      this.first = new Uint16Array(count);
      this.given = new Int32Array(this.rows);
      this.fitted = {};
    }

    // Whether the verdict on a row depends on which others are given.
    looksAround(bounds) {
      return this.links.length > 0 || Object.values(bounds).some((of) => of.min_quantile !== undefined || of.max_quantile !== undefined);
    }

    fit(bounds, count) {
      this.fitted = {};
      for (const [name, of] of Object.entries(bounds)) {
        for (const kind of KINDS.slice(2)) {
          if (of[kind] === undefined) continue;
          const onRecord = this.frozen[name + "\n" + kind];
          (this.fitted[name] ??= {})[kind] = onRecord !== undefined ? onRecord : this.quantile(name, kind, of[kind], count);
        }
      }
    }

    // As numpy's, of the finite values of the rows given that are measured.
    quantile(name, kind, share, count) {
      const column = this.columns.get(name);
      const { values, nulls } = column;
      const found = new Float64Array(count);
      let n = 0;
      for (let i = 0; i < count; i++) {
        const at = this.place[this.given[i]];
        if (at >= 0 && !(nulls && nulls[at]) && Number.isFinite(values[at])) found[n++] = values[at];
      }
      if (!n) return kind === "min_quantile" ? -Infinity : Infinity;
      const position = (n - 1) * share;
      const below = Math.floor(position);
      const some = found.subarray(0, n);
      const a = select(some, Math.min(below, n - 1));
      let b = a;
      if (below + 1 < n) {
        b = Infinity;
        for (let i = below + 1; i < n; i++) if (some[i] < b) b = some[i];
      }
      const weight = position - below;
      return weight >= 0.5 ? b - (b - a) * (1 - weight) : a + (b - a) * weight;
    }

    // The place in `rules` of the first rule that each measured row breaks, NONE for none.
    judge(bounds, count) {
      this.fit(bounds, count);
      const { first } = this;
      const lost = new Map(this.links.map((links) => [links.key, this.losers(links, count)]));
      first.fill(NONE);
      this.rules.forEach((rule, number) => {
        if (rule.fixed) {
          const key = rule.column + "\n" + rule.kind;
          markSet(first, lost.get(key) || this.fixed.get(key), number);
          return;
        }
        const bound = this.fitted[rule.column]?.[rule.kind] ?? bounds[rule.column]?.[rule.kind];
        if (bound === undefined) return;
        const { values, nulls } = this.columns.get(rule.column);
        (rule.kind.startsWith("min") ? markBelow : markAbove)(first, values, nulls, bound, number);
      });
    }

    // Of each cluster of linked rows that are given and measured, all but the best: 1 in an array of the measured rows.
    losers({ rows, rank, a, b }, count) {
      const here = new Uint8Array(this.rows);
      for (let i = 0; i < count; i++) if (this.state[this.given[i]] === MEASURED) here[this.given[i]] = 1;
      const parent = new Int32Array(rows.length);
      for (let i = 0; i < rows.length; i++) parent[i] = i;
      const root = (i) => {
        while (parent[i] !== i) i = parent[i] = parent[parent[i]];
        return i;
      };
      for (let i = 0; i < a.length; i++) {
        if (!here[rows[a[i]]] || !here[rows[b[i]]]) continue;
        const one = root(a[i]), other = root(b[i]);
        // The better row is the root, so that in the end the root is the best of its cluster.
        if (rank[one] < rank[other]) parent[other] = one;
        else parent[one] = other;
      }
      const out = new Uint8Array(this.count);
      for (let i = 0; i < rows.length; i++) if (here[rows[i]] && root(i) !== i) out[this.place[rows[i]]] = 1;
      return out;
    }
  }

  function markBelow(first, values, nulls, bound, number) {
    for (let i = 0; i < first.length; i++) {
      if (!(values[i] >= bound) && first[i] === NONE && !(nulls !== null && nulls[i] === 1)) first[i] = number;
    }
  }

  function markAbove(first, values, nulls, bound, number) {
    for (let i = 0; i < first.length; i++) {
      if (!(values[i] <= bound) && first[i] === NONE && !(nulls !== null && nulls[i] === 1)) first[i] = number;
    }
  }

  function markSet(first, broken, number) {
    for (let i = 0; i < first.length; i++) if (broken[i] && first[i] === NONE) first[i] = number;
  }

  // The k-th smallest (from 0); afterwards all before it are not larger, all after it not smaller.
  function select(values, k) {
    let left = 0, right = values.length - 1;
    while (left < right) {
      const pivot = values[(left + right) >> 1];
      let i = left, j = right;
      while (i <= j) {
        while (values[i] < pivot) i++;
        while (values[j] > pivot) j--;
        if (i <= j) {
          const kept = values[i];
          values[i++] = values[j];
          values[j--] = kept;
        }
      }
      if (k <= j) right = j;
      else if (k >= i) left = i;
      else break;
    }
    return values[k];
  }

  class Run {
    constructor(data) {
      this.levels = data.levels.map((level) => ({ name: level.name, rows: level.rows, parent: level.parent ? array(level.parent) : null }));
      this.stages = data.stages.map((stage) => new Stage(stage, this.levels[stage.level]));
      this.present = Object.fromEntries(data.stages.map((stage) => [stage.name, mapped(stage.bounds, (kinds) => mapped(kinds, Number))]));
      this.bounds = structuredClone(this.present);
      this.walk(0, true);
    }

    stage(name) {
      return this.stages.find((stage) => stage.name === name);
    }

    // Set one side of a column's rules to a number, or to no limit (null); a quantile on that side gives way.
    set(name, column, side, bound) {
      const of = (this.bounds[name][column] ??= {});
      delete of[side];
      delete of[side + "_quantile"];
      if (bound !== null) of[side] = bound;
      this.update(name);
    }

    // Put a column's rules back to what the run has.
    reset(name, column) {
      this.bounds[name][column] = { ...this.present[name][column] };
      this.update(name);
    }

    replace(bounds) {
      this.bounds = Object.fromEntries(this.stages.map((stage) => [stage.name, structuredClone(bounds[stage.name] || {})]));
      this.walk(0, true);
    }

    update(name) {
      this.walk(this.stages.findIndex((stage) => stage.name === name), false);
    }

    walk(from, all) {
      if (from === 0) this.begin(this.stages[0]);
      for (let number = from; number < this.stages.length; number++) {
        const stage = this.stages[number];
        if (all || number === from || stage.looksAround(this.bounds[stage.name])) stage.judge(this.bounds[stage.name], stage.counts.given);
        this.pass(stage, this.stages[number + 1]);
      }
    }

    begin(stage) {
      for (let row = 0; row < stage.rows; row++) stage.given[row] = row;
      stage.counts = { given: stage.rows };
    }

    // Count what a stage does with its rows, and give those that it keeps to the next one.
    pass(stage, next) {
      const { given, state, place, first } = stage;
      const count = stage.counts.given;
      const rejected = new Int32Array(stage.rules.length);
      const onward = next && !stage.fansOut ? next.given : null;
      const passed = next && stage.fansOut ? new Uint8Array(stage.rows) : null;
      let kept = 0, failed = 0, pending = 0, childless = 0;
      for (let i = 0; i < count; i++) {
        const row = given[i];
        const of = state[row];
        if (of === MEASURED) {
          const broken = first[place[row]];
          if (broken !== NONE) rejected[broken]++;
          else {
            if (onward !== null) onward[kept] = row;
            if (passed !== null) passed[row] = 1;
            kept++;
          }
        } else if (of === MISSING) pending++;
        else if (of === BROKE) failed++;
        else if (of === CHILDLESS) childless++;
      }
      let out = childless;
      for (const rows of rejected) out += rows;
      stage.counts = { given: count, kept, failed, pending, childless, rejected, out };
      if (!next) return;
      if (passed !== null) {
        const { parent } = next.level;
        let children = 0;
        for (let row = 0; row < parent.length; row++) if (passed[parent[row]]) next.given[children++] = row;
        next.counts = { given: children };
      } else next.counts = { given: kept };
    }

    // The rows that a stage keeps now.
    keptBy(stage) {
      return stage.given.subarray(0, stage.counts.given).filter((row) => stage.state[row] === MEASURED && stage.first[stage.place[row]] === NONE);
    }

    // One standard error of the number of rows that a stage keeps, as a share of all photographs, where these are a sample:
    // of a mean over photographs, so that the edits of one are not taken for independent.
    error(stage, sampledFrom) {
      const n = this.levels[0].rows;
      if (!sampledFrom || n < 2) return 0;
      const { parent } = stage.level;
      const counts = new Uint16Array(n);
      for (const row of this.keptBy(stage)) counts[parent ? parent[row] : row]++;
      let sum = 0, squares = 0;
      for (const c of counts) { sum += c; squares += c * c; }
      const variance = (squares - (sum * sum) / n) / (n - 1);
      return sampledFrom * Math.sqrt((variance / n) * (1 - n / sampledFrom));
    }

    funnel() {
      return this.stages.map((stage) => {
        const { given, kept, failed, pending, childless, rejected } = stage.counts;
        const reasons = stage.rules.map((rule, number) => [rule.column, rule.kind, rejected[number]]).filter((reason) => reason[2]);
        if (childless) reasons.push(["", "", childless]);
        return { name: stage.name, given, kept, failed, pending, rejected: reasons };
      });
    }
  }

  return { Run, KINDS, SIDES, NONE, MEASURED, array };
})();
