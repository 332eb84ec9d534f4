// The page of a report. `shared.js` comes before it.

const about = JSON.parse(byId("about").textContent);
const records = Array.from(document.querySelectorAll("script.record"), (script) => JSON.parse(script.textContent));
const { classes } = about;
const columns = columnsOf(about);
const shownClasses = new Set(placesOf(classes, (item) => item.on));
const shownColumns = new Set(placesOf(columns, (column) => column.shown));
let order = Array.from(records.keys());
let sorting = { column: null, descending: false };

function link(text, address) {
  const safe = /^(\.{1,2}\/|\.\.$|file:)/.test(address); // no other scheme, such as javascript:
  return safe ? element("a", { href: address, target: "_blank", rel: "noopener" }, text) : element("span", {}, text);
}

// ---- header

function settingValue(name, value) {
  if (!name.endsWith("sha256")) return element("dd", {}, value);
  const short = element("span", { class: "short", "aria-hidden": true }, `${value.slice(0, 12)}…`); // readers read the whole
  return element("dd", { class: "digest", title: value, tabindex: 0 }, short, element("span", { class: "whole" }, value));
}

function showHead() {
  const failed = records.filter((record) => record.error);
  byId("title").textContent = about.title;
  byId("version").textContent = `jaxseg ${about.version}`;
  byId("facts").textContent = [
    plural(records.length, "image"),
    plural(classes.length, "class"),
    failed.length ? `${failed.length} could not be shown` : "",
  ].filter(Boolean).join(" · ");
  for (const [name, value] of Object.entries(about.settings))
    byId("settings").append(element("div", {}, element("dt", {}, name), settingValue(name, value)));
  byId("model-note").textContent = about.note;
  byId("model-note").hidden = !about.note;
  const notes = about.notes.map((note) => `${note}, to limit the size of the page.`);
  if (!about.outlined) notes.push("The pictures are small and show a fixed choice of classes, because there are many images.");
  byId("notes").textContent = notes.join(" ");
  byId("notes").hidden = !notes.length;
  byId("pixels").textContent = about.pixels.join(" ");
  if (failed.length) {
    byId("failures").hidden = false;
    byId("failures").open = failed.length <= 5;
    byId("failures").querySelector("summary").textContent = `${plural(failed.length, "image")} could not be shown`;
    byId("failures").querySelector("ul").append(
      ...failed.map((record) => element("li", {}, element("b", {}, record.name), `: ${record.error}`)),
    );
  }
}

// ---- tables of the run

function showTables() {
  byId("tables").hidden = !about.tables.length;
  for (const { title, header, rows } of about.tables) {
    const head = element("tr", {}, ...header.map((cell) => element("th", { scope: "col" }, cell)));
    const body = rows.map((row) => element("tr", {}, ...row.map((cell) => element("td", {}, cell))));
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
    byId("tables").append(element("h2", {}, title), element("div", { class: "table", role: "region", tabindex: 0, "aria-label": title }, table));
  }
}

// ---- masks to look at first

const MOST_FIRST = 12;

function median(values) {
  const sorted = Array.from(values).sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function doubtful() {
  const found = [];
  for (const k of placesOf(columns, (column) => column.ending === "confidence" && column.of >= 0)) {
    const there = placesOf(records, (record) => valueOf(record, k) !== null || (record.values && reasonOf(record, columns, k) === "the mask is empty"));
    const usual = median(there.map((i) => valueOf(records[i], k) ?? 0));
    for (const i of there) {
      const value = valueOf(records[i], k) ?? 0;
      if (value < usual || there.length === 1) found.push({ i, k, value, usual, below: usual - value });
    }
  }
  return found.sort((a, b) => b.below - a.below || a.value - b.value || a.i - b.i || a.k - b.k).slice(0, MOST_FIRST);
}

function showFirst() {
  const items = doubtful().map(({ i, k, value, usual }) => element("li", {},
    element("a", { href: `#image-${i}` }, records[i].name), `: ${classes[columns[k].of].name} ${value.toFixed(2)} (median ${usual.toFixed(2)})`));
  byId("first").querySelector("ol").append(...items);
  byId("first").hidden = !items.length;
}

// ---- table

const rows = records.map((record, i) => {
  const name = element("td", { title: record.name }, element("a", { href: `#image-${i}` }, record.name));
  return element("tr", {}, name);
});

function showTable() {
  const shown = Array.from(shownColumns).sort((a, b) => a - b);
  const heads = [heading(null, "File")];
  for (const k of shown) heads.push(heading(k, columnName(columns[k]), about.names[columns[k].feature]));
  document.querySelector("#measurements thead tr").replaceChildren(...heads);
  rows.forEach((row, i) => row.replaceChildren(row.firstChild, ...shown.map((k) => cell(records[i], columns, k))));
  showOrder();
}

function heading(column, text, title = "") {
  const active = sorting.column === column && sorting.active;
  const sort = active ? (sorting.descending ? "descending" : "ascending") : "none";
  const button = element("button", { type: "button", title, onclick: () => sortBy(column) }, text);
  return element("th", { scope: "col", "aria-sort": sort }, button);
}

function sortBy(column) {
  const again = sorting.active && sorting.column === column;
  sorting = { column, descending: again && !sorting.descending, active: true };
  const direction = sorting.descending ? -1 : 1;
  const compareNames = new Intl.Collator("en", { numeric: true }).compare;
  order.sort((a, b) => {
    if (column === null) return direction * compareNames(records[a].name, records[b].name) || a - b;
    const [first, second] = [valueOf(records[a], column), valueOf(records[b], column)];
    if (first === null || second === null) return (first === null) - (second === null) || a - b; // missing values come last
    return direction * (first - second) || a - b;
  });
  showTable();
  const place = column === null ? 0 : 1 + Array.from(shownColumns).filter((k) => k < column).length;
  document.querySelectorAll("#measurements thead button")[place].focus();
}

function showOrder() {
  document.querySelector("#measurements tbody").replaceChildren(...order.map((i) => rows[i]));
  byId("cards").replaceChildren(...order.map((i) => cards[i]));
}

function filter() {
  const wanted = byId("filter").value.trim().toLowerCase();
  records.forEach((record, i) => {
    rows[i].hidden = cards[i].hidden = !record.name.toLowerCase().includes(wanted);
  });
  const count = rows.filter((row) => !row.hidden).length;
  byId("matches").textContent = wanted ? `${count.toLocaleString("en-GB")} of ${plural(rows.length, "image")}` : "";
  showHistograms();
}

function showColumns() {
  const list = byId("columns").querySelector("ul");
  const change = (k) => (on) => {
    on ? shownColumns.add(k) : shownColumns.delete(k);
    showTable();
    showHistograms();
  };
  list.append(...columns.map((column, k) => choice(columnName(column), shownColumns.has(k), change(k))));
  search(byId("columns").querySelector("input[type=search]"), list);
  byId("columns").hidden = !columns.length;
  document.addEventListener("click", (event) => {
    if (!byId("columns").contains(event.target)) byId("columns").open = false;
  });
  byId("columns").addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    byId("columns").open = false;
    byId("columns").querySelector("summary").focus();
  });
}

// ---- histograms

function bins(values) {
  const low = Math.min(...values), high = Math.max(...values);
  const rough = (high - low || Math.abs(high) * 0.1 || 1) / Math.min(24, Math.max(4, Math.ceil(Math.sqrt(values.length))));
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const start = Math.floor(low / step);
  const counts = new Array(Math.floor(high / step) - start + 1).fill(0);
  for (const value of values) counts[Math.min(counts.length - 1, Math.max(0, Math.floor(value / step) - start))] += 1;
  return { counts, step, edge: (i) => Number(((start + i) * step).toPrecision(12)) };
}

function histogram(values, unit) {
  const { counts, edge } = bins(values);
  const edgeText = (i) => edge(i).toLocaleString("en-GB", { maximumFractionDigits: 12 });
  const [width, height, left, bottom, top] = [300, 150, 40, 36, 8];
  const most = Math.max(...counts), inner = width - left - 10, tall = height - bottom - top;
  const x = (i) => left + (inner * i) / counts.length, y = (count) => top + tall * (1 - count / most);
  const made = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Histogram of ${plural(values.length, "value")}` });
  for (const count of new Set([0, most])) {
    made.append(drawing("line", { x1: left, x2: width - 10, y1: y(count), y2: y(count) }));
    made.append(drawing("text", { x: left - 6, y: y(count) + 4, "text-anchor": "end" }, number(count)));
  }
  counts.forEach((count, i) => {
    const title = drawing("title", {}, `${edgeText(i)} to ${edgeText(i + 1)}: ${plural(count, "image")}`);
    const box = { x: x(i) + 0.5, y: y(count), width: inner / counts.length - 1, height: y(0) - y(count), "data-count": count };
    made.append(drawing("rect", box, title));
  });
  const widest = 6.5 * Math.max(...[...counts, 0].map((_, i) => edgeText(i).length)); // upper bound in pixels
  const room = Math.max(widest + 6, 1.5 * widest - 4); // the last label ends at the border, the others are centred
  const every = Math.ceil(counts.length * Math.max(1 / 5, room / inner));
  for (let i = 0; i <= counts.length; i += every) {
    const anchor = i === counts.length ? "end" : "middle";
    made.append(drawing("text", { x: anchor === "end" ? width : x(i), y: height - bottom + 15, "text-anchor": anchor }, edgeText(i)));
  }
  made.append(drawing("text", { x: left + inner / 2, y: height - 4, "text-anchor": "middle" }, unit));
  const middle = top + tall / 2;
  made.append(drawing("text", { x: 11, y: middle, "text-anchor": "middle", transform: `rotate(-90 11 ${middle})` }, "images"));
  return made;
}

function showHistograms() {
  const figures = [], empty = [];
  const listed = records.filter((record, i) => !rows[i].hidden && !record.error);
  for (const k of Array.from(shownColumns).sort((a, b) => a - b)) {
    const values = listed.map((record) => valueOf(record, k)).filter((value) => value !== null).sort((a, b) => a - b);
    if (!values.length) {
      empty.push(columnName(columns[k]));
      continue;
    }
    const half = values.length >> 1;
    const median = values.length % 2 ? values[half] : (values[half - 1] + values[half]) / 2;
    const facts = [`n = ${values.length.toLocaleString("en-GB")}`, `median ${inColumn(median, columns[k])}`];
    if (values.length < listed.length) facts.push(`not measured in ${listed.length - values.length}`);
    const caption = element("figcaption", {}, element("b", {}, columnName(columns[k])), element("div", { class: "faint" }, facts.join(" · ")));
    figures.push(element("figure", {}, caption, histogram(values, columns[k].unit || "ratio")));
  }
  byId("histograms").replaceChildren(...figures);
  byId("histograms").hidden = records.length < 2; // a histogram of one image is useless
  byId("without-values").textContent = `Without a value: ${empty.join(", ")}.`;
  byId("without-values").hidden = records.length < 2 || !empty.length;
}

// ---- images; a figure exists only while it is near the screen

const figures = new Map();
const cards = records.map(card);

function card(record, i) {
  const body = element("div", { class: "body facts" }, element("h3", {}, record.name));
  const made = element("article", { id: `image-${i}` });
  const links = element("p", { class: "links" }, link("image", record.image));
  if (record.masks) links.append(link("masks", record.masks));
  if (record.size) {
    const figure = element("figure", { class: "picture", "data-number": i });
    links.append(element("span", { class: "faint" }, `${record.size[1]} × ${record.size[0]} px`));
    made.append(figure);
  }
  body.append(links);
  if (record.error) body.append(element("p", { class: "warning" }, record.error));
  else {
    if (record.warning) body.append(element("p", { class: "warning" }, record.warning));
    body.append(...measurementsOf(record, columns));
  }
  made.append(body);
  return made;
}

function showFigure(figure) {
  const i = Number(figure.dataset.number);
  const script = byId(`picture-${i}`);
  if (!script) {
    figure.replaceChildren(element("p", {}, "The page has no room for this picture."));
    return;
  }
  const picture = pictureOf(JSON.parse(script.textContent), `${records[i].name}: the image with its masks`, about.sides);
  const button = element("button", { type: "button" }, "Enlarge");
  button.addEventListener("click", () => {
    const large = figure.parentElement.classList.toggle("large");
    button.textContent = large ? "Reduce" : "Enlarge";
    figure.parentElement.scrollIntoView({ block: "nearest" });
  });
  if (figure.parentElement.classList.contains("large")) button.textContent = "Reduce";
  figure.replaceChildren(picture.svg, button);
  figures.set(figure, picture);
  showOutlines(picture, classes, shownClasses);
}

const watcher = new IntersectionObserver((changes) => {
  for (const { target, isIntersecting } of changes) {
    if (isIntersecting) {
      if (!target.firstChild) showFigure(target);
    } else {
      figures.delete(target);
      target.replaceChildren();
    }
  }
}, { rootMargin: "900px 0px" });

// ---- classes

function showClasses() {
  const panel = byId("classes");
  if (about.outlined) {
    fillClassPanel(panel, about, shownClasses, () => figures.forEach((picture) => showOutlines(picture, classes, shownClasses)));
    return;
  }
  byId("cards").classList.add("small");
  const legend = classes.filter((item) => item.on).map((item) => element("li", {}, element("span", { class: "legend" }, swatch(item.colour), item.name)));
  const count = element("span", { id: "shown", class: "faint" }, `${legend.length} of ${classes.length} shown`);
  panel.replaceChildren(classSummary(count), element("ul", { id: "class-list", class: "choices" }, ...legend));
}

showHead();
showTables();
showFirst();
showColumns();
showTable();
showHistograms();
showClasses();
byId("filter").addEventListener("input", filter);
if (window.matchMedia("(max-width: 820px)").matches) byId("classes").open = false;
document.querySelectorAll("#cards figure").forEach((figure) => watcher.observe(figure));
