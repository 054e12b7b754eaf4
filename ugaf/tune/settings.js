"use strict";
// The thresholds that were changed, as text for a pipeline file and for the command line.
const Settings = (() => {
  const { KINDS, SIDES } = Tuning;

  // A number as a pipeline is to have it: the shortest text that reads back as the same float64, in YAML too.
  function text(number) {
    if (!Number.isFinite(number)) return number < 0 ? "-.inf" : ".inf";
    const shown = String(number === 0 ? 0 : number);
    return shown.includes("e") && !shown.includes(".") ? shown.replace("e", ".0e") : shown;
  }

  const same = (one = {}, other = {}) => KINDS.every((kind) => one[kind] === other[kind]);
  const isPlain = (name) => /^[A-Za-z_][\w.:]*$/.test(name) && !/^(null|true|false|yes|no|on|off)$|:$/i.test(name);
  const key = (name) => (isPlain(name) ? name : JSON.stringify(name));
  const isSet = (of, kind) => of !== undefined && of[kind] !== undefined;

  // Stages with the columns whose rules differ from those of the run.
  function changes(run) {
    return run.stages
      .map((stage) => ({
        stage,
        columns: [...stage.columns.keys()].filter((name) => !same(run.bounds[stage.name][name], run.present[stage.name][name])),
      }))
      .filter((change) => change.columns.length);
  }

  // The whole `keep` of each changed stage, to take the place of the one that is there: rules by column in their order.
  function yaml(run) {
    const lines = ["stages:"];
    for (const { stage } of changes(run)) {
      lines.push(`  - ${key(stage.name)}:`, "      keep:");
      const bounds = run.bounds[stage.name];
      const entries = new Map(stage.packed.keep.map((entry) => [entry.column, entry]));
      for (const name of stage.columns.keys()) {
        if (!entries.has(name) && KINDS.some((kind) => isSet(bounds[name], kind))) entries.set(name, { fixed: "", defaults: [] });
      }
      for (const [name, { fixed, defaults }] of entries) {
        const kinds = KINDS.filter((kind) => isSet(bounds[name], kind));
        const parts = kinds.map((kind) => `${kind}: ${text(bounds[name][kind])}`);
        if (fixed) parts.push(fixed);
        // The stage's own default comes back on a side that is not mentioned.
        const off = SIDES.filter((side) => defaults.includes(side) && !kinds.some((kind) => kind.startsWith(side)));
        parts.push(...(parts.length ? off.map((side) => `${side}: null`) : []));
        lines.push(`        ${key(name)}: ${parts.length ? `{${parts.join(", ")}}` : "null"}`);
      }
    }
    return lines.length > 1 ? lines.join("\n") : "";
  }

  // The same as options of a command, only what was changed.
  function options(run) {
    const out = [];
    for (const { stage, columns } of changes(run)) {
      for (const name of columns) {
        const now = run.bounds[stage.name][name] || {};
        const before = run.present[stage.name][name] || {};
        const entry = stage.packed.keep.find((found) => found.column === name);
        const put = (kind, value) => out.push(`--set ${stage.name}.keep.${name}.${kind}=${value}`);
        for (const side of SIDES) {
          const quantile = `${side}_quantile`;
          // A column that was switched off gets its default's other sides back with its first rule.
          const returns = entry !== undefined && entry.isNull && entry.defaults.includes(side);
          if (isSet(now, side)) put(side, text(now[side]));
          else if (!isSet(now, quantile) && (isSet(before, side) || returns)) put(side, "null");
          if (isSet(before, quantile) && !isSet(now, quantile)) put(quantile, "null");
        }
        if (entry !== undefined && entry.isNull) entry.defaults.filter((kind) => !SIDES.includes(kind)).forEach((kind) => put(kind, "null"));
      }
    }
    return out.join(" \\\n");
  }

  return { text, changes, yaml, options };
})();
