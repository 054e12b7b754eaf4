"use strict";
// Nodes, numbers and bars for the page. Everything from data is shown with textContent or set as an attribute's value; never
// as markup.
const Show = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const STATUSES = ["kept", "rejected", "failed", "pending"];
  const NOUNS = { image: ["photograph", "photographs"], edit: ["edit", "edits"] };

  function make(tag, attributes = {}, ...children) {
    const svg = ["svg", "rect", "path", "line"].includes(tag);
    const node = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value !== undefined && value !== null && value !== false) node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.filter((child) => child !== null && child !== undefined));
    return node;
  }

  const whole = new Intl.NumberFormat("en");
  const about = new Intl.NumberFormat("en", { maximumSignificantDigits: 4 });
  const nouns = (stage, rows) => NOUNS[stage.level.name][rows === 1 ? 0 : 1];

  function short(number) {
    const isPlain = (Math.abs(number) >= 1e-4 && Math.abs(number) < 1e7) || number === 0;
    return isPlain ? about.format(number) : number.toPrecision(3);
  }

  // Of a sample, numbers stand for the whole run: factor times as many rows.
  const counter = (factor) => (rows) => (factor === 1 ? whole.format(rows) : "≈ " + whole.format(Math.round(rows * factor)));

  function percent(part, all) {
    if (!all) return "–";
    const share = (100 * part) / all;
    if (share > 0 && share < 0.1) return "< 0.1 %";
    if (share > 99.9 && share < 100) return "> 99.9 %";
    return `${share.toFixed(1)} %`;
  }

  // Writing what is there already would lay the page out again.
  function say(node, text) {
    if (node.textContent !== text) node.textContent = text;
  }

  function bar() {
    const rects = Object.fromEntries(STATUSES.map((status) => [status, make("rect", { class: status, height: "100%" })]));
    const svg = make("svg", { class: "bar", role: "img" }, ...Object.values(rects));
    return {
      svg,
      draw(amounts, all, label) {
        let at = 0;
        for (const status of STATUSES) {
          const width = all ? (100 * amounts[status]) / all : 0;
          rects[status].setAttribute("x", `${at.toFixed(3)}%`);
          rects[status].setAttribute("width", `${width.toFixed(3)}%`);
          at += width;
        }
        svg.setAttribute("aria-label", label);
      },
    };
  }

  return { NOUNS, make, whole, short, nouns, counter, percent, say, bar };
})();
