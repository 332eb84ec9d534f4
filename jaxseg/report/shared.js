"use strict";
// What reports and the page of `jaxseg serve` share: how an image, its masks and its measurements are shown.
// Text from files is always set as text, never as HTML.

const byId = (id) => document.getElementById(id);
const placesOf = (list, test) => list.flatMap((item, k) => (test(item, k) ? [k] : []));

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

function plural(count, word) {
  return `${count.toLocaleString("en-GB")} ${word}${count === 1 ? "" : word.endsWith("s") ? "es" : "s"}`;
}

function number(value) {
  if (Number.isInteger(value)) return value.toLocaleString("en-GB");
  return Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en-GB") : String(Number(value.toPrecision(4)));
}

// ---- measurements; a column knows its unit, its class ("" for a score of the image) and its feature

function columnsOf({ kinds, columns, classes }) {
  return columns.map(([kind, of, shown]) => ({ ...kinds[kind], of, shown, className: of < 0 ? "" : classes[of].name }));
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
  return withUnit(column.className ? `${column.className} ${ending}` : ending, column);
}

function valueOf(record, k) {
  const value = record.values?.[k];
  return value === undefined ? null : value;
}

function reasonIsKnown(record, k) {
  return Boolean(record.reasons?.some(([, of]) => of.includes(k)));
}

function reasonOf(record, columns, k) {
  if (record.error) return record.error;
  if (!record.values) return "left out: the page has no room for it";
  const found = record.reasons.find(([, of]) => of.includes(k));
  if (found) return found[0];
  if (columns[k].grid) return "this image does not have this class, or was measured on other pixels";
  return "this image does not have this class, or its file does not give the size of a pixel";
}

function cell(record, columns, k, tag = "td") {
  const value = valueOf(record, k);
  if (value !== null) return element(tag, {}, inColumn(value, columns[k]));
  return element(tag, { class: "missing", title: reasonOf(record, columns, k) }, "–");
}

function measurementsOf(record, columns) {
  if (!record.values) return [element("p", { class: "faint" }, "The measurements are left out: the page has no room for them.")];
  const scores = element("dl", { class: "pairs" });
  const ofClasses = placesOf(columns, (column) => column.of >= 0);
  columns.forEach((column, k) => {
    if (column.of < 0 && (valueOf(record, k) !== null || reasonIsKnown(record, k)))
      scores.append(element("div", {}, element("dt", {}, columnName(column)), cell(record, columns, k, "dd")));
  });
  const made = [scores];
  for (const [reason, of] of record.reasons) {
    const names = of.filter((k) => columns[k].of < 0).map((k) => columnName(columns[k])).join(", ");
    if (names) made.push(element("p", { class: "faint" }, `No ${names}: ${reason}.`));
  }
  if (ofClasses.some((k) => k < record.values.length)) made.push(classTable(record, columns, ofClasses));
  return made;
}

function classTable(record, columns, ofClasses) {
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
    const body = Array.from(new Map(there.map((k) => [columns[k].of, columns[k].className])), ([of, name]) => {
      const cells = endings.map((ending) => (find.has(`${of} ${ending}`) ? cell(record, columns, find.get(`${of} ${ending}`)) : element("td")));
      return element("tr", {}, element("td", {}, name), ...cells);
    });
    const head = element("tr", {}, element("th", { scope: "col" }, "class"), ...titles);
    const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...body));
    made.append(element("div", { role: "region", tabindex: "0", "aria-label": "Measurements of all classes" }, table));
  });
  return made;
}

// ---- the picture of an image, with the outlines of its masks

function pictureOf({ size: [height, width], jpeg, outlines = [] }, label, sides) {
  const image = drawing("image", { href: `data:image/jpeg;base64,${jpeg}`, width, height });
  const group = drawing("g", { transform: "translate(0.5 0.5)" }); // coordinates of paths are centres of pixels
  const marks = sides ? sideMarks(width, height) : [];
  const svg = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label }, image, group, ...marks);
  return { svg, group, outlines };
}

function sideMarks(width, height) {
  const size = Math.max(width, height) / 26, y = height - size / 2;
  const mark = (text, x, anchor) => drawing("text", { x, y, "text-anchor": anchor, "font-size": size, "stroke-width": size / 8 }, text);
  return [mark("R", size / 2, "start"), mark("L", width - size / 2, "end")];
}

function showOutlines({ group, outlines }, classes, shown) {
  const visible = outlines.filter(([k]) => shown.has(k));
  group.replaceChildren(...visible.map(([k, d]) =>
    drawing("path", { d, fill: classes[k].colour, stroke: classes[k].colour, "data-class": k }, drawing("title", {}, classes[k].name))));
}

// ---- switches of classes

function swatch(colour) {
  const made = element("span", { class: "swatch" });
  made.style.background = colour;
  return made;
}

function choice(text, checked, change, colour) {
  const box = element("input", { type: "checkbox", checked, onchange: () => change(box.checked) });
  const label = element("label", {}, box);
  if (colour) label.append(swatch(colour));
  label.append(text);
  return element("li", {}, label);
}

function search(input, list) {
  const apply = () => {
    const wanted = input.value.trim().toLowerCase();
    for (const item of list.children) item.hidden = !item.textContent.toLowerCase().includes(wanted);
  };
  input.addEventListener("input", apply);
}

// Fills the panel with the switches of the classes. `shown` holds the numbers of the classes that are on; `changed` is
// called when it has changed.
function fillClassPanel(panel, { classes, groups }, shown, changed) {
  const items = classes.map((item, k) => choice(item.name, shown.has(k), (on) => change([k], on), item.colour));
  const groupItems = groups.map(({ name, members }) => choice(name, false, (on) => change(members, on)));
  const count = element("span", { id: "shown", class: "faint", role: "status" });
  const list = element("ul", { id: "class-list", class: "choices" }, ...items);
  const find = element("input", { id: "find-class", type: "search", placeholder: "Find a class", "aria-label": "Find a class" });
  const listed = () => placesOf(items, (item) => !item.hidden);
  const button = (id, text, title, onclick) => element("button", { id, type: "button", title, onclick }, text);
  const standard = () => {
    shown.clear();
    change(placesOf(classes, (item) => item.on), true);
  };
  function change(wanted, on) {
    for (const k of wanted) on ? shown.add(k) : shown.delete(k);
    update();
    changed();
  }
  function update() {
    items.forEach((item, k) => { item.querySelector("input").checked = shown.has(k); });
    groupItems.forEach((item, i) => {
      const on = groups[i].members.filter((k) => shown.has(k)).length;
      const box = item.querySelector("input");
      box.checked = on === groups[i].members.length;
      box.indeterminate = on > 0 && !box.checked;
    });
    count.textContent = `${shown.size} of ${classes.length} shown`;
  }
  const fill = element("input", { id: "fill", type: "range", min: "0", max: "0.6", step: "0.05" });
  fill.value = getComputedStyle(document.documentElement).getPropertyValue("--fill").trim();
  fill.addEventListener("input", () => document.documentElement.style.setProperty("--fill", fill.value));
  const groupList = element("ul", { class: "choices" }, ...groupItems);
  const switches = element("div", { id: "switches" },
    find,
    element("div", { class: "buttons" },
      button("all", "All", "Show all classes in the list", () => change(listed(), true)),
      button("none", "None", "Hide all classes in the list", () => change(listed(), false)),
      button("default", "Default", "Show the classes that were shown first", standard)),
    element("label", { class: "range" }, "Fill ", fill),
    element("details", { id: "groups", hidden: !groups.length }, element("summary", {}, "Groups"), groupList));
  search(find, list);
  update();
  panel.replaceChildren(classSummary(count), switches, list);
}

function classSummary(count) {
  return element("summary", {}, element("h2", {}, "Classes"), " ", count);
}
