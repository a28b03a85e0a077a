"use strict";
// Draws the charts of the page and sorts its tables. All text of runs comes in as data: it is set as text, never as markup.
(() => {
  const ladders = JSON.parse(document.getElementById("data").textContent);
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");
  const views = new Map();

  function config(ladder) {
    const settings = structuredClone(ladder.config[dark.matches ? "dark" : "light"]);
    if (narrow.matches) settings.axis.labelLimit = 150;
    return settings;
  }

  async function draw(plot) {
    const ladder = ladders[plot.dataset.ladder];
    const spec = structuredClone(ladder.figures[plot.dataset.figure].spec);
    spec.width = "container";
    spec.autosize = { type: "fit-x", contains: "padding" };
    if (plot.dataset.log) {
      spec.encoding.y.scale = { type: "log" };
    }
    views.get(plot)?.finalize();
    const options = { actions: false, ast: true, config: config(ladder), renderer: "svg" };
    try {
      const result = await vegaEmbed(plot, spec, options);
      views.set(plot, result);
      highlight(plot.closest(".ladder"));
    } catch (error) {
      console.error(error);
      plot.textContent = "This chart could not be drawn; its data are in the table below.";
    }
  }

  async function drawAll() {
    delete document.documentElement.dataset.charts;
    for (const group of document.querySelectorAll(".key")) fillKey(group);
    for (const plot of document.querySelectorAll(".plot")) {
      await draw(plot);
      await new Promise((resolve) => setTimeout(resolve)); // the page can be read and scrolled meanwhile
    }
    document.documentElement.dataset.charts = "drawn";
  }

  // The key of a chart: one button a variant, which picks it out in all charts of its ladder.
  function fillKey(group) {
    const plot = group.parentElement.querySelector(".plot");
    const ladder = ladders[plot.dataset.ladder];
    const shown = ladder.figures[plot.dataset.figure].key;
    const colours = ladder.config[dark.matches ? "dark" : "light"].range.category;
    group.replaceChildren(...shown.map((label) => {
      const i = ladder.labels.indexOf(label);
      const button = document.createElement("button");
      button.type = "button";
      button.append(line(colours[i], ladder.dashes[i]), label);
      button.dataset.variant = label;
      button.addEventListener("click", () => choose(group.closest(".ladder"), label));
      return button;
    }));
    highlight(group.closest(".ladder"));
  }

  function line(colour, dash) {
    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    svg.setAttribute("viewBox", "0 0 24 12");
    svg.setAttribute("aria-hidden", "true");
    const path = document.createElementNS("http://www.w3.org/2000/svg", "path");
    path.setAttribute("d", "M0 6H24");
    path.setAttribute("stroke", colour);
    path.setAttribute("stroke-width", "3");
    if (dash[1]) path.setAttribute("stroke-dasharray", dash.join(" "));
    svg.append(path);
    return svg;
  }

  const chosen = new Map();

  function choose(section, label) {
    chosen.set(section, chosen.get(section) === label ? null : label);
    highlight(section);
  }

  function highlight(section) {
    const label = chosen.get(section) ?? null;
    for (const button of section.querySelectorAll(".key button")) {
      button.setAttribute("aria-pressed", String(button.dataset.variant === label));
    }
    for (const plot of section.querySelectorAll(".plot")) {
      const result = views.get(plot);
      if (result?.spec.params) result.view.signal("chosen", label).runAsync();
    }
  }

  for (const button of document.querySelectorAll("button.log")) {
    button.addEventListener("click", () => {
      const plot = button.parentElement.querySelector(".plot");
      const on = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(on));
      if (on) plot.dataset.log = "on";
      else delete plot.dataset.log;
      draw(plot);
    });
  }

  // Numbers by their value, texts by the alphabet; what is unknown stays last either way.
  function compare(a, b, sign) {
    const [x, y] = [a.dataset.key, b.dataset.key];
    if (x !== undefined && y !== undefined) return sign * (Number(x) - Number(y));
    if (x !== undefined || y !== undefined) return x === undefined ? 1 : -1;
    return sign * a.textContent.localeCompare(b.textContent, "en", { numeric: true });
  }

  function sort(heading) {
    const sign = heading.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    for (const other of heading.parentElement.children) other.setAttribute("aria-sort", "none");
    heading.setAttribute("aria-sort", sign > 0 ? "ascending" : "descending");
    const body = heading.closest("table").tBodies[0];
    const column = heading.cellIndex;
    body.append(...[...body.rows].sort((a, b) => compare(a.cells[column], b.cells[column], sign)));
  }

  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sort(button.parentElement));
  }

  dark.addEventListener("change", drawAll);
  narrow.addEventListener("change", drawAll);
  drawAll();
})();
