"use strict";
// One image: its picture with the masks and lines, its measurements, warnings, tags and downloads.

const shownNames = new Map(); // name of a class -> whether it is shown; kept from image to image
let shownPicture = null;

function hideViewer() {
  byId("viewer").hidden = byId("side").hidden = true;
}

// Shows a file that has no result: what happens to it, or why it failed.
function showMessage(name, text, failed) {
  byId("viewer").hidden = false;
  byId("side").hidden = byId("lines").hidden = byId("picture").hidden = byId("viewer-warnings").hidden = true;
  byId("viewer-name").textContent = name;
  byId("viewer-facts").textContent = "";
  byId("viewer-message").textContent = text;
  byId("viewer-message").className = failed ? "error" : "faint";
  byId("viewer-message").hidden = false;
}

function showView(view, name) {
  const { record, warnings } = view;
  byId("viewer").hidden = byId("side").hidden = byId("picture").hidden = false;
  byId("viewer-message").hidden = true;
  byId("viewer-name").textContent = name;
  byId("viewer-facts").textContent = `${record.size[1]} × ${record.size[0]} pixels`;
  byId("viewer-warnings").hidden = !warnings.length;
  byId("viewer-warnings").replaceChildren(...warnings.map((text) => element("li", {}, sentenceOf(text))));
  showPicture(view, name);
  showValues(view);
  showTags(view.tags);
}

function showPicture({ about, picture, lines }, name) {
  const shown = new Set(placesOf(about.classes, ({ name: of, on }) => shownNames.get(of) ?? on));
  const made = pictureOf(picture, `${name}: the image with its masks`, about.sides);
  const update = () => {
    about.classes.forEach(({ name: of }, k) => shownNames.set(of, shown.has(k)));
    showOutlines(made, about.classes, shown);
  };
  const drawn = drawing("g", { class: "lines", transform: "translate(0.5 0.5)" }, ...lines.flatMap((line) => lineOf(line, Math.max(...picture.size))));
  made.svg.append(drawn);
  const enlarge = element("button", { type: "button", "aria-pressed": "false" }, "Enlarge");
  enlarge.addEventListener("click", () => {
    const large = byId("xrays").classList.toggle("large");
    showEnlarged(enlarge, large);
    byId("viewer").scrollIntoView({ block: "nearest" });
  });
  showEnlarged(enlarge, byId("xrays").classList.contains("large"));
  byId("picture").style.aspectRatio = `${picture.size[1]} / ${picture.size[0]}`;
  byId("picture").replaceChildren(made.svg, enlarge);
  shownPicture = { lines: drawn };
  fillClassPanel(byId("classes"), about, shown, update);
  showOutlines(made, about.classes, shown);
  showLegend(lines, about.names);
}

function showEnlarged(button, large) {
  button.textContent = large ? "Reduce" : "Enlarge";
  button.setAttribute("aria-pressed", String(large));
}

// ---- the lines of the scores

function lineOf({ kind, colour, points, text }, side) {
  const title = () => drawing("title", {}, text);
  if (kind === "centres") return points.map(([cx, cy]) => drawing("circle", { cx, cy, r: side / 180, fill: colour }, title()));
  const path = [points];
  if (["heart right", "heart left", "thorax"].includes(kind))
    for (const [x, y] of points) path.push([[x, y - side / 80], [x, y + side / 80]]);
  const d = path.map((part) => "M" + part.map((point) => point.join(" ")).join("L")).join("");
  const dashed = kind === "midline" ? { "stroke-dasharray": "8 6" } : {};
  return [drawing("path", { d, class: "rim" }), drawing("path", { d, stroke: colour, ...dashed }, title())];
}

// One line of text per score: its name, and what its lines mean.
function showLegend(lines, names) {
  const ofScores = Map.groupBy(lines, ({ feature }) => feature);
  const rows = Array.from(ofScores, ([feature, own]) => {
    const once = new Map(own.map((line) => [line.text, line]));
    const items = Array.from(once.values(), ({ colour, text }) => element("span", {}, swatch(colour), text));
    return element("li", {}, element("b", {}, `${feature}, ${names[feature]}`), ...items);
  });
  byId("lines").hidden = !lines.length;
  byId("lines-legend").replaceChildren(...rows);
  showLines();
}

function showLines() {
  const on = byId("lines-on").checked;
  byId("lines-legend").hidden = !on;
  shownPicture?.lines.setAttribute("visibility", on ? "visible" : "hidden");
}

// ---- measurements and tags

const DOUBTFUL = 3; // classes that are named because the network is least certain of them

function showValues({ about, record }) {
  const columns = columnsOf(about);
  byId("values").replaceChildren(...measurementsOf(record, columns));
  const sure = placesOf(columns, ({ ending, of }, k) => ending === "confidence" && of >= 0 && valueOf(record, k) !== null);
  const lowest = sure.sort((a, b) => valueOf(record, a) - valueOf(record, b)).slice(0, DOUBTFUL);
  const words = lowest.map((k) => `${columns[k].className} (${valueOf(record, k).toFixed(2)})`);
  if (sure.length > DOUBTFUL) byId("values").querySelector("dl").after(element("p", { class: "doubtful" }, `Least confident: ${words.join(", ")}.`));
  const unit = record.spacing ? "" : " The file does not state the size of a pixel, so that lengths in mm are unknown.";
  byId("values").append(element("p", { class: "faint" }, `${about.pixels.join(" ")}${unit}`));
}

function showTags(tags) {
  byId("tags").hidden = !tags.length;
  const words = (name) => name.replace(/([a-z])([A-Z])/g, "$1 $2");
  byId("tags").querySelector("dl").replaceChildren(...tags.map(([name, value]) =>
    element("div", {}, element("dt", {}, words(name)), element("dd", {}, value))));
}
