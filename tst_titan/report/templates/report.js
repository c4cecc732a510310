"use strict";
(() => {
  const json = (element) => JSON.parse(element.textContent);
  const config = json(document.getElementById("figure-config"));
  const tip = document.getElementById("tip");
  const hidden = new Set();
  const views = new Set();
  const nice = (value) => {
    const size = Math.abs(value);
    if (size >= 1000) return Math.round(value).toLocaleString("en");
    if (size && size < 0.001) return value.toExponential(2);
    return Number(value.toPrecision(5)).toString();
  };

  // What a reader points at, as text: names are those of users.
  const showTip = (event, lines) => {
    tip.replaceChildren(...lines.map(([text, value, swatch]) => {
      const line = document.createElement("p");
      if (swatch) line.append(swatch.cloneNode(true));
      line.append(text);
      if (value !== undefined) line.append(Object.assign(document.createElement("b"), { textContent: value }));
      return line;
    }));
    tip.hidden = false;
    const left = event.clientX + (event.clientX > innerWidth / 2 ? -tip.offsetWidth - 14 : 14);
    tip.style.left = Math.max(4, Math.min(innerWidth - tip.offsetWidth - 4, left)) + "px";
    tip.style.top = Math.max(4, Math.min(innerHeight - tip.offsetHeight - 4, event.clientY - tip.offsetHeight / 2)) + "px";
  };
  const hideTip = () => { tip.hidden = true; };
  const cellTip = (handler, event, item, value) => {
    if (value === null || value === undefined || value === "") hideTip();
    else showTip(event, String(value).split("\n").map((text) => [text]));
  };

  // Lines: the values of all shown ones at the step that is pointed at.
  const nearest = (line, x) => {
    let low = 0, high = line.x.length - 1;
    while (high - low > 1) {
      const middle = (low + high) >> 1;
      if (line.x[middle] < x) low = middle; else high = middle;
    }
    return Math.abs(line.x[low] - x) <= Math.abs(line.x[high] - x) ? low : high;
  };
  const lineTips = (chart, view, lines, label, swatches) => {
    const cursor = Object.assign(document.createElement("div"), { className: "cursor", hidden: true });
    chart.append(cursor);
    const hide = () => { hideTip(); cursor.hidden = true; };
    chart.addEventListener("pointerleave", hide);
    chart.addEventListener("pointermove", (event) => {
      const box = chart.querySelector(".root path.background").getBoundingClientRect();
      const at = (event.clientX - box.left) / box.width;
      if (event.buttons || at < -0.02 || at > 1.02 || event.clientY < box.top || event.clientY > box.bottom) return hide();
      const scale = view.scale("x"), width = view.width(), x = scale.invert(at * width);
      const found = [];
      for (const line of lines) {
        if (hidden.has(line.series) || !line.x.length) continue;
        const index = nearest(line, x), off = Math.abs(scale(line.x[index]) - at * width);
        if (off < 24 && line.y[index] !== null) found.push([off, line, index]);
      }
      if (!found.length) return hide();
      found.sort((one, other) => one[0] - other[0]);
      const [, first, index] = found[0];
      const outer = chart.getBoundingClientRect();
      cursor.style.cssText = `left: ${box.left - outer.left + scale(first.x[index]) / width * box.width}px; top: ${box.top - outer.top}px; height: ${box.height}px`;
      cursor.hidden = false;
      showTip(event, [[`${label} ${nice(first.x[index])}`], ...found.slice(0, 8).map(([, line, at]) =>
        [[line.series, line.detail].filter(Boolean).join(", "), nice(line.y[at]), swatches.get(line.series)])]);
    });
  };

  // The data behind a figure as a file: one row a point, a cell or a row.
  const csv = (spec) => {
    const name = Object.keys(spec.datasets).find((key) => /^(lines|cells|rows)/.test(key));
    const points = spec.datasets[name].flatMap((record) => Array.isArray(record.x)
      ? record.x.map((x, at) => ({ ...record, x, y: record.y[at], low: record.low?.[at], high: record.high?.[at] })) : [record]);
    const columns = ["series", "detail", "style", "name", "row", "column", "x", "y", "value", "low", "high", "published", "bound"]
      .filter((column) => points.some((point) => point[column] !== undefined));
    const cell = (value) => {
      let text = value === undefined || value === null ? "" : Array.isArray(value) ? value.join(", ") : String(value);
      // As in the files beside: a name that a spreadsheet would run begins with an apostrophe.
      if (typeof value !== "number" && /^[=+\-@\t\r]/.test(text)) text = `'${text}`;
      return /[",\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
    };
    return [columns, ...points.map((point) => columns.map((column) => point[column]))].map((row) => row.map(cell).join(",")).join("\n") + "\n";
  };
  const addCsv = (chart, spec, name) => {
    const link = Object.assign(document.createElement("a"), { textContent: "Save the data as CSV", download: `${name}.csv` });
    const fill = () => { URL.revokeObjectURL(link.href); link.href = URL.createObjectURL(new Blob([csv(spec)], { type: "text/csv" })); };
    link.href = "#";
    for (const event of ["pointerdown", "keydown"]) link.addEventListener(event, fill);
    chart.querySelector(".vega-actions").append(link);
  };

  const draw = async (figure) => {
    if (figure.dataset.drawn) return;
    figure.dataset.drawn = "started";
    const chart = figure.querySelector(".chart"), spec = json(figure.querySelector("script"));
    const name = `${figure.closest("section").id}-${[...figure.closest("section").querySelectorAll("figure")].indexOf(figure) + 1}`;
    spec.params[0].value = [...hidden];
    // Expressions are interpreted: the page forbids to run any text.
    const { view } = await vegaEmbed(chart, spec, {
      mode: "vega-lite", renderer: "svg", ast: true, config, tooltip: cellTip, downloadFileName: name,
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
    });
    addCsv(chart, spec, name);
    const key = Object.keys(spec.datasets).find((key) => key.startsWith("lines"));
    if (key) {
      const swatches = new Map([...figure.closest("section").querySelectorAll(".toggle")].map((button) => [button.dataset.name, button.querySelector(".swatch")]));
      lineTips(chart, view, spec.datasets[key], chart.dataset.x, swatches);
    }
    views.add(view);
    // Hidden or shown while it was drawn.
    view.signal("hidden", [...hidden]).runAsync();
    figure.dataset.drawn = "done";
  };

  const failed = (figure) => (error) => {
    figure.querySelector(".chart").textContent = `This figure could not be drawn here: ${error.message}`;
    console.error(error);
  };
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) if (entry.isIntersecting) { near.unobserve(entry.target); draw(entry.target).catch(failed(entry.target)); }
  }, { rootMargin: "600px" });
  const figures = document.querySelectorAll("figure");
  for (const figure of figures) near.observe(figure);

  for (const button of document.querySelectorAll(".toggle"))
    button.addEventListener("click", () => {
      const name = button.dataset.name, shown = hidden.delete(name);
      if (!shown) hidden.add(name);
      for (const other of document.querySelectorAll(".toggle"))
        if (other.dataset.name === name) other.setAttribute("aria-pressed", String(shown));
      for (const view of views) view.signal("hidden", [...hidden]).runAsync();
    });

  // Printing shows what is folded on the screen, and figures that nobody scrolled to.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details:not(.vega-embed details)").forEach((details) => { details.open = true; });
    figures.forEach((figure) => draw(figure).catch(failed(figure)));
  });
})();
