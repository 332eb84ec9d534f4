"use strict";
// Text from files is always set as text, never as HTML.

const byId = (id) => document.getElementById(id);
const about = JSON.parse(byId("about").textContent);
const records = Array.from(document.querySelectorAll("script.record"), (script) => JSON.parse(script.textContent));
const { classes, groups } = about;
const columns = about.columns.map(([kind, of, shown]) => ({ ...about.kinds[kind], of, shown }));
const placesOf = (list, test) => list.flatMap((item, k) => (test(item, k) ? [k] : []));
const shownClasses = new Set(placesOf(classes, (item) => item.on));
const shownColumns = new Set(placesOf(columns, (column) => column.shown));
let order = Array.from(records.keys());
let sorting = { column: null, descending: false };

function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name in made && typeof value === "boolean") made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...children);
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function link(text, address) {
  const safe = /^(\.{1,2}\/|\.\.$|file:)/.test(address); // no other scheme, such as javascript:
  return safe ? element("a", { href: address, target: "_blank", rel: "noopener" }, text) : element("span", {}, text);
}

function plural(count, word) {
  return `${count.toLocaleString("en-GB")} ${word}${count === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
}

function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en-GB");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-GB") : String(Number(value.toPrecision(4)));
}

function inColumn(value, { unit }) {
  return unit || Number.isInteger(value) ? number(value) : value.toFixed(3); // equal decimals align ratios in a column
}

function withUnit(what, { unit, grid }) {
  const details = [unit, grid].filter(Boolean).join(", "); // the grid is given if the page has several
  return details ? `${what} (${details})` : what;
}

function columnName(column) {
  const ending = column.ending.replace(/_mm2?$/, "").replaceAll("_", " ");
  const what = column.of < 0 ? ending : `${classes[column.of].name} ${ending}`;
  return withUnit(what, column);
}

function valueOf(record, k) {
  const value = record.values?.[k];
  return value === undefined ? null : value;
}

function reasonOf(record, k) {
  if (record.error) return record.error;
  if (!record.values) return "left out: the page has no room for it";
  const found = record.reasons.find(([, of]) => of.includes(k));
  if (found) return found[0];
  if (columns[k].grid) return "this image does not have this class, or was measured on other pixels";
  return "this image does not have this class, or its file does not give the size of a pixel";
}

function cell(record, k, tag = "td") {
  const value = valueOf(record, k);
  if (value !== null) return element(tag, {}, inColumn(value, columns[k]));
  return element(tag, { class: "missing", title: reasonOf(record, k) }, "–");
}

function choice(text, checked, change, colour) {
  const box = element("input", { type: "checkbox", checked, onchange: () => change(box.checked) });
  const label = element("label", {}, box);
  if (colour) label.append(swatch(colour));
  label.append(text);
  return element("li", {}, label);
}

function swatch(colour) {
  const made = element("span", { class: "swatch" });
  made.style.background = colour;
  return made;
}

function search(input, list) {
  const apply = () => {
    const wanted = input.value.trim().toLowerCase();
    for (const item of list.children) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  };
  input.addEventListener("input", apply);
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

// ---- masks to look at first

const MOST_FIRST = 12;

function median(values) {
  const sorted = Array.from(values).sort((a, b) => a - b), middle = sorted.length >> 1;
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
}

function doubtful() {
  const found = [];
  for (const k of placesOf(columns, (column) => column.ending === "confidence" && column.of >= 0)) {
    const there = placesOf(records, (record) => valueOf(record, k) !== null || (record.values && reasonOf(record, k) === "the mask is empty"));
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
  rows.forEach((row, i) => row.replaceChildren(row.firstChild, ...shown.map((k) => cell(records[i], k))));
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
  const body = element("div", { class: "body" }, element("h3", {}, record.name));
  const made = element("article", { id: `image-${i}` });
  const links = element("p", { class: "links" }, link("image", record.image));
  if (record.masks) links.append(link("masks", record.masks));
  if (record.size) {
    const figure = element("figure", { "data-number": i });
    links.append(element("span", { class: "faint" }, `${record.size[1]} × ${record.size[0]} px`));
    made.append(figure);
  }
  body.append(links);
  if (record.error) body.append(element("p", { class: "warning" }, record.error));
  else {
    if (record.warning) body.append(element("p", { class: "warning" }, record.warning));
    body.append(...measurementsOf(record));
  }
  made.append(body);
  return made;
}

function measurementsOf(record) {
  const scores = element("dl", { class: "pairs" });
  const ofClasses = [];
  columns.forEach((column, k) => {
    if (column.of >= 0) ofClasses.push(k);
    else if (valueOf(record, k) !== null || reasonIsKnown(record, k))
      scores.append(element("div", {}, element("dt", {}, columnName(column)), cell(record, k, "dd")));
  });
  if (!record.values) return [element("p", { class: "faint" }, "The measurements are left out: the page has no room for them.")];
  const missing = record.reasons.filter(([, of]) => of.some((k) => columns[k].of < 0));
  const made = [scores];
  for (const [reason, of] of missing) {
    const names = of.filter((k) => columns[k].of < 0).map((k) => columnName(columns[k])).join(", ");
    made.push(element("p", { class: "faint" }, `No ${names}: ${reason}.`));
  }
  if (ofClasses.some((k) => k < record.values.length)) made.push(classTable(record, ofClasses));
  return made;
}

function reasonIsKnown(record, k) {
  return Boolean(record.reasons?.some(([, of]) => of.includes(k)));
}

function classTable(record, ofClasses) {
  const made = element("details", {}, element("summary", {}, "All classes"));
  made.addEventListener("toggle", () => {
    if (!made.open || made.children.length > 1) return;
    const there = ofClasses.filter((k) => valueOf(record, k) !== null || reasonIsKnown(record, k));
    const endings = Array.from(new Map(there.map((k) => [columns[k].ending, k])).keys());
    const find = new Map(there.map((k) => [`${columns[k].of} ${columns[k].ending}`, k]));
    const titles = endings.map((ending) => {
      const column = columns[there.find((k) => columns[k].ending === ending)];
      return element("th", { scope: "col" }, withUnit(ending.replace(/_mm2?$/, "").replaceAll("_", " "), column));
    });
    const body = Array.from(new Set(there.map((k) => columns[k].of)), (of) => {
      const cells = endings.map((ending) => (find.has(`${of} ${ending}`) ? cell(record, find.get(`${of} ${ending}`)) : element("td")));
      return element("tr", {}, element("td", {}, classes[of].name), ...cells);
    });
    const head = element("tr", {}, element("th", { scope: "col" }, "class"), ...titles);
    made.append(element("div", {}, element("table", {}, element("thead", {}, head), element("tbody", {}, ...body))));
  });
  return made;
}

function showFigure(figure) {
  const i = Number(figure.dataset.number);
  const script = byId(`picture-${i}`);
  if (!script) {
    figure.replaceChildren(element("p", {}, "The page has no room for this picture."));
    return;
  }
  const { size: [height, width], jpeg, outlines = [] } = JSON.parse(script.textContent);
  const image = drawing("image", { href: `data:image/jpeg;base64,${jpeg}`, width, height });
  const group = drawing("g", { transform: "translate(0.5 0.5)" }); // coordinates of paths are centres of pixels
  const label = `${records[i].name}: the image with its masks`;
  const picture = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, image, group, ...sideMarks(width, height));
  const button = element("button", { type: "button" }, "Enlarge");
  button.addEventListener("click", () => {
    const large = figure.parentElement.classList.toggle("large");
    button.textContent = large ? "Reduce" : "Enlarge";
    figure.parentElement.scrollIntoView({ block: "nearest" });
  });
  if (figure.parentElement.classList.contains("large")) button.textContent = "Reduce";
  figure.replaceChildren(picture, button);
  figures.set(figure, { group, outlines });
  showOutlines(figures.get(figure));
}

function sideMarks(width, height) {
  if (!about.sides) return [];
  const size = Math.max(width, height) / 26, y = height - size / 2;
  const mark = (text, x, anchor) => drawing("text", { x, y, "text-anchor": anchor, "font-size": size, "stroke-width": size / 8 }, text);
  return [mark("R", size / 2, "start"), mark("L", width - size / 2, "end")];
}

function showOutlines({ group, outlines }) {
  const visible = outlines.filter(([k]) => shownClasses.has(k));
  group.replaceChildren(...visible.map(([k, d]) =>
    drawing("path", { d, fill: classes[k].colour, stroke: classes[k].colour, "data-class": k }, drawing("title", {}, classes[k].name))));
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

const switches = classes.map((item, k) => choice(item.name, item.on, (on) => switchClasses([k], on), item.colour));
const groupSwitches = groups.map(({ name, members }) => choice(name, false, (on) => switchClasses(members, on)));

function switchClasses(wanted, on) {
  for (const k of wanted) on ? shownClasses.add(k) : shownClasses.delete(k);
  showSwitches();
  figures.forEach(showOutlines);
}

function showSwitches() {
  switches.forEach((item, k) => { item.querySelector("input").checked = shownClasses.has(k); });
  groupSwitches.forEach((item, i) => {
    const count = groups[i].members.filter((k) => shownClasses.has(k)).length;
    const box = item.querySelector("input");
    box.checked = count === groups[i].members.length;
    box.indeterminate = count > 0 && !box.checked;
  });
  byId("shown").textContent = `${shownClasses.size} of ${classes.length} shown`;
}

function showClasses() {
  if (!about.outlined) {
    byId("switches").hidden = true;
    byId("cards").classList.add("small");
    const legend = classes.filter((item) => item.on).map((item) => element("li", {}, element("span", { class: "legend" }, swatch(item.colour), item.name)));
    byId("class-list").append(...legend);
    byId("shown").textContent = `${legend.length} of ${classes.length} shown`;
    return;
  }
  byId("class-list").append(...switches);
  byId("groups").hidden = !groups.length;
  byId("groups").querySelector("ul").append(...groupSwitches);
  search(byId("find-class"), byId("class-list"));
  const listed = () => placesOf(switches, (item) => !item.hidden);
  byId("all").addEventListener("click", () => switchClasses(listed(), true));
  byId("none").addEventListener("click", () => switchClasses(listed(), false));
  byId("default").addEventListener("click", () => {
    shownClasses.clear();
    switchClasses(placesOf(classes, (item) => item.on), true);
  });
  byId("fill").addEventListener("input", () => document.documentElement.style.setProperty("--fill", byId("fill").value));
  showSwitches();
}

showHead();
showFirst();
showColumns();
showTable();
showHistograms();
showClasses();
byId("filter").addEventListener("input", filter);
if (window.matchMedia("(max-width: 820px)").matches) byId("classes").open = false;
document.querySelectorAll("#cards figure").forEach((figure) => watcher.observe(figure));
