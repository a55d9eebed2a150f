"use strict";

// Charts: the legend shows the values at the pointer, or at the position set by the arrow keys.
for (const chart of document.querySelectorAll(".chart")) {
  const readouts = JSON.parse(chart.dataset.readouts);
  const svg = chart.querySelector("svg");
  const cursor = chart.querySelector(".cursor");
  const probes = [...chart.querySelectorAll(".probe")];
  const position = chart.querySelector(".position");
  const keys = [...chart.querySelectorAll(".key")];
  const values = keys.map((key) => key.querySelector("b"));
  const start = Number(chart.dataset.start);
  let shown = start;

  const show = (index, marked) => {
    const [x, label, texts, heights] = readouts[index];
    shown = index;
    position.textContent = label;
    values.forEach((value, number) => { value.textContent = texts[number]; });
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.style.visibility = marked ? "visible" : "";
    probes.forEach((probe, number) => {
      const height = heights[number];
      probe.style.visibility = marked && height !== null ? "visible" : "";
      probe.setAttribute("cx", x);
      probe.setAttribute("cy", height === null ? 0 : height);
    });
    svg.setAttribute("aria-valuenow", index + 1);
    svg.setAttribute("aria-valuetext", [label, ...keys.map((key) => key.textContent.trim())].join(", "));
  };
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const x = (event.clientX - box.left) / box.width * svg.viewBox.baseVal.width;
    let nearest = 0;
    readouts.forEach((readout, index) => {
      if (Math.abs(readout[0] - x) < Math.abs(readouts[nearest][0] - x)) nearest = index;
    });
    show(nearest, true);
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", () => show(start, false));
  svg.addEventListener("blur", () => show(start, false));
  svg.addEventListener("keydown", (event) => {
    const last = readouts.length - 1;
    const places = {
      ArrowLeft: shown - 1, ArrowDown: shown - 1, ArrowRight: shown + 1, ArrowUp: shown + 1,
      PageDown: shown - 10, PageUp: shown + 10, Home: 0, End: last,
    };
    if (!(event.key in places)) return;
    event.preventDefault();
    show(Math.min(Math.max(places[event.key], 0), last), true);
  });
}

// Tables: a click on a header sorts, the search box filters.
const collator = new Intl.Collator(undefined, { numeric: true, sensitivity: "base" });

for (const frame of document.querySelectorAll("[data-sortable]")) {
  const body = frame.querySelector("tbody");
  const headers = [...frame.querySelectorAll("thead th")];
  const search = frame.querySelector("input");
  const count = frame.querySelector("output");
  const rows = [...body.rows].map((row) => ({
    row,
    text: row.cells[0].textContent.toLowerCase(),
    keys: [...row.cells].map((cell, index) => (
      headers[index].classList.contains("n")
        ? Number(cell.dataset.value ?? NaN)
        : cell.textContent.trim()
    )),
  }));

  const compare = (a, b) => {
    if (typeof a === "string") return collator.compare(a, b);
    return a - b;
  };
  const isEmpty = (key) => key === "" || key === "–" || Number.isNaN(key);
  const sort = (column, direction) => {
    headers.forEach((header, index) => {
      header.setAttribute("aria-sort", index !== column ? "none" : direction > 0 ? "ascending" : "descending");
    });
    const sorted = rows.slice().sort((one, other) => {
      const a = one.keys[column], b = other.keys[column];
      if (isEmpty(a) || isEmpty(b)) return isEmpty(a) - isEmpty(b);
      return direction * compare(a, b);
    });
    body.append(...sorted.map((entry) => entry.row));
  };
  headers.forEach((header, column) => {
    header.querySelector("button").addEventListener("click", () => {
      const now = header.getAttribute("aria-sort");
      const first = header.classList.contains("n") ? -1 : 1;
      sort(column, now === "none" ? first : now === "ascending" ? -1 : 1);
    });
  });
  search.addEventListener("input", () => {
    const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const { row, text } of rows) {
      row.hidden = !words.every((word) => text.includes(word));
      found += !row.hidden;
    }
    count.textContent = `${found.toLocaleString("en")} of ${rows.length.toLocaleString("en")}`;
  });
}
