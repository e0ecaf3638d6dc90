// Draws the figures in the colours of the theme, and again whenever that changes.
(() => {
  "use strict";
  const TOKENS = {
    "#1a1a1b": "--ink",
    "#5a5a5b": "--muted",
    "#d6d6d3": "--line",
    "#fffffe": "--paper",
  };
  const CONFIG = { displayModeBar: false, responsive: true };
  const PRINT_WIDTH = 660; // of a page of A4, in CSS pixels
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const darkScheme = matchMedia("(prefers-color-scheme: dark)");
  const printing = matchMedia("print");
  const figures = JSON.parse(document.getElementById("figures").textContent);

  const plotOf = (name) => document.getElementById(`plot-${name}`);

  const themed = (value, style) => {
    if (typeof value === "string" && value in TOKENS) {
      return style.getPropertyValue(TOKENS[value]).trim();
    }
    if (Array.isArray(value)) {
      return value.map((item) => themed(item, style));
    }
    if (value !== null && typeof value === "object") {
      return Object.fromEntries(
        Object.entries(value).map(([key, item]) => [key, themed(item, style)])
      );
    }
    return value;
  };

  // Names come as plotly wants them, which reads HTML.
  const decoded = (name) =>
    name.replaceAll("&lt;", "<").replaceAll("&gt;", ">").replaceAll("&amp;", "&");

  // A legend of buttons: it wraps on a phone, and hears the keyboard.
  const addLegend = (plot, { data }) => {
    const groups = new Map();
    data.forEach((trace, index) => {
      const group = trace.legendgroup ?? trace.name;
      if (trace.showlegend !== false && trace.name && !groups.has(group)) {
        groups.set(group, { trace, indices: [] });
      }
      groups.get(group)?.indices.push(index);
    });
    if (groups.size < 2) {
      return;
    }
    const list = document.createElement("ul");
    list.className = "legend";
    for (const { trace, indices } of groups.values()) {
      const entry = document.createElement("button");
      const swatch = document.createElement("span");
      entry.type = "button";
      entry.setAttribute("aria-pressed", "true");
      swatch.dataset.colour = trace.marker?.color ?? trace.line?.color;
      swatch.dataset.symbol = trace.marker?.symbol ?? "";
      entry.append(swatch, decoded(trace.name));
      entry.addEventListener("click", () => {
        const wasShown = entry.getAttribute("aria-pressed") === "true";
        entry.setAttribute("aria-pressed", String(!wasShown));
        Plotly.restyle(plot, { visible: wasShown ? "legendonly" : true }, indices);
      });
      const item = document.createElement("li");
      item.append(entry);
      list.append(item);
    }
    plot.before(list);
  };

  const draw = () => {
    const style = getComputedStyle(root);
    for (const [name, figure] of Object.entries(figures)) {
      const { data, layout } = themed(figure, style);
      if (layout.meta?.zooms && matchMedia("(pointer: fine)").matches) {
        layout.dragmode = "zoom"; // a finger scrolls the page
      }
      layout.showlegend = false;
      if (printing.matches) {
        layout.width = PRINT_WIDTH;
      }
      layout.hoverlabel = {
        ...layout.hoverlabel,
        bgcolor: style.getPropertyValue("--raised").trim(),
        bordercolor: style.getPropertyValue("--muted").trim(),
        font: { color: style.getPropertyValue("--ink").trim() },
      };
      const plot = plotOf(name);
      const drawn = plot.data ?? [];
      drawn.forEach((trace, index) => {
        data[index].visible = trace.visible ?? true; // as the legend has it
      });
      Plotly.react(plot, data, layout, CONFIG);
    }
    for (const swatch of document.querySelectorAll(".legend span")) {
      swatch.style.color = themed(swatch.dataset.colour, style);
    }
  };

  const isDark = () =>
    root.dataset.theme ? root.dataset.theme === "dark" : darkScheme.matches;
  const label = () => {
    button.textContent = isDark() ? "Light theme" : "Dark theme";
  };
  const changed = () => {
    label();
    draw();
  };

  document.getElementById("unscripted").hidden = true;
  button.hidden = false;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    changed();
  });
  darkScheme.addEventListener("change", changed);
  printing.addEventListener("change", draw);
  for (const [name, figure] of Object.entries(figures)) {
    addLegend(plotOf(name), figure);
  }
  changed();
})();
