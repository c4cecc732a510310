"use strict";
(() => {
  // Values are read back from the drawn coordinates: data-x and data-y hold "low high log" of each axis.
  const tip = document.getElementById("tip");
  const axis = (text) => { const [low, high, log] = text.split(" ").map(Number); return { low, high, log }; };
  const back = (a, share) => a.log ? a.low * Math.pow(a.high / a.low, share) : a.low + (a.high - a.low) * share;
  const nice = (v) => {
    const size = Math.abs(v);
    if (size >= 1000) return Math.round(v).toLocaleString("en");
    if (size && size < 0.001) return v.toExponential(2);
    return Number(v.toPrecision(4)).toString();
  };
  const points = new WeakMap();
  const pointsOf = (series) => {
    if (!points.has(series)) {
      const found = [];
      for (const path of series.querySelectorAll("path.line:not([data-bars])"))
        for (const m of path.getAttribute("d").matchAll(/[ML](-?[\d.]+) (-?[\d.]+)/g)) found.push([+m[1], +m[2]]);
      if (!found.length)
        for (const dot of series.querySelectorAll("circle")) found.push([+dot.getAttribute("cx"), +dot.getAttribute("cy")]);
      points.set(series, found);
    }
    return points.get(series);
  };
  const nearest = (list, x) => {
    let best = null;
    for (const p of list) if (!best || Math.abs(p[0] - x) < Math.abs(best[0] - x)) best = p;
    return best;
  };
  for (const svg of document.querySelectorAll("svg.chart[data-box]")) {
    const [left, top, right, bottom] = svg.dataset.box.split(" ").map(Number);
    const ax = axis(svg.dataset.x), ay = axis(svg.dataset.y);
    const [xLabel] = svg.dataset.labels.split("|");
    const cursor = document.createElementNS("http://www.w3.org/2000/svg", "path");
    cursor.setAttribute("class", "cursor");
    svg.append(cursor);
    const hide = () => { tip.hidden = true; cursor.removeAttribute("d"); };
    svg.addEventListener("pointerleave", hide);
    svg.addEventListener("pointermove", (event) => {
      const box = svg.getBoundingClientRect(), scale = svg.viewBox.baseVal.width / box.width;
      const x = (event.clientX - box.left) * scale;
      if (x < left - 6 || x > right + 6) return hide();
      const rows = [];
      for (const series of svg.querySelectorAll(".series")) {
        if (series.style.display === "none") continue;
        const p = nearest(pointsOf(series), x);
        if (p && Math.abs(p[0] - x) < 24) rows.push([Math.abs(p[0] - x), p, series]);
      }
      if (!rows.length) return hide();
      rows.sort((a, b) => a[0] - b[0]);
      const at = rows[0][1][0];
      cursor.setAttribute("d", `M${at} ${top}V${bottom}`);
      tip.replaceChildren();
      const head = document.createElement("p");
      head.textContent = `${xLabel} ${nice(back(ax, (at - left) / (right - left)))}`;
      tip.append(head);
      for (const [, p, series] of rows.slice(0, 8)) {
        const row = document.createElement("p"), swatch = document.createElement("i"), value = document.createElement("b");
        swatch.className = "swatch b" + (series.querySelector("[class*=' s'],[class^=f]")?.getAttribute("class").match(/\b[sf](\d)/)?.[1] ?? 0);
        value.textContent = nice(back(ay, (bottom - p[1]) / (bottom - top)));
        row.append(swatch, [series.dataset.name, series.dataset.detail].filter(Boolean).join(", "), value);
        tip.append(row);
      }
      tip.hidden = false;
      const wide = tip.offsetWidth, high = tip.offsetHeight;
      tip.style.left = Math.max(4, Math.min(innerWidth - wide - 4, event.clientX + (event.clientX > innerWidth / 2 ? -wide - 14 : 14))) + "px";
      tip.style.top = Math.max(4, Math.min(innerHeight - high - 4, event.clientY - high / 2)) + "px";
    });
  }
  for (const button of document.querySelectorAll(".toggle"))
    button.addEventListener("click", () => {
      const shown = button.getAttribute("aria-pressed") !== "true";
      for (const other of document.querySelectorAll(".toggle"))
        if (other.dataset.name === button.dataset.name) other.setAttribute("aria-pressed", String(shown));
      for (const series of document.querySelectorAll(".series"))
        if (series.dataset.name === button.dataset.name) series.style.display = shown ? "" : "none";
    });
  // Printing shows what is folded on the screen.
  addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((d) => { d.open = true; }));
})();
