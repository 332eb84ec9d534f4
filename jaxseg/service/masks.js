"use strict";
// The tab of masks: masks whose shape is restored, and masks of a CT whose quality is predicted.

// ---- restoring masks, one file after the other

const VIEW_OF_MASKS = "application/vnd.jaxseg.view+json";

async function restoreAll(files) {
  const status = byId("denoise-status");
  let done = 0;
  for (const file of files) {
    status.textContent = `Restoring ${file.name}: ${done} of ${plural(files.length, "file")} done`;
    const card = element("article", { class: "card" }, element("h3", {}, file.name));
    byId("denoise-results").append(card);
    try {
      const view = JSON.parse(await (await sendMask(file, VIEW_OF_MASKS)).response.text());
      card.append(...changesOf(view), restoredButton(file, view.masks.length));
    } catch (failure) {
      card.append(element("p", { class: "error" }, failure.message));
    }
    done += 1;
  }
  status.textContent = `${plural(done, "file")} done.`;
}

function sendMask(file, accept) {
  const body = new FormData();
  body.append("mask", file, file.name);
  return ask({ method: "POST", path: "v1/denoise", accept, body });
}

function changesOf({ masks, colours, notes }) {
  const legend = element("p", { class: "legend faint" });
  for (const [name, colour] of Object.entries(colours)) legend.append(element("span", {}, swatch(colour), name));
  const made = masks.map(({ name, before, after, change, pixels }) => {
    const figures = [["before", before], ["after", after], ["change", change]].filter(([, address]) => address)
      .map(([what, address]) => element("figure", {}, element("img", { src: address, alt: `${name}, ${what}` }), element("figcaption", {}, what)));
    const counts = pixels.after === undefined
      ? "It was not restored."
      : `${number(pixels.before)} pixels before, ${number(pixels.after)} after: ${number(pixels.added)} added, ${number(pixels.removed)} removed.`;
    return element("div", {}, element("div", { class: "triple" }, ...figures), element("p", {}, masks.length > 1 ? `${name}: ${counts}` : counts));
  });
  const remarks = notes.map((note) => element("p", { class: "warning" }, sentenceOf(note)));
  return [...made, legend, ...remarks];
}

function restoredButton(file, count) {
  const [type, suffix] = count > 1 ? ["application/x-npz", ".restored.npz"] : ["image/png", ".restored.png"];
  const status = element("span", { class: "faint", role: "status" });
  const button = element("button", { type: "button" }, "Download the restored mask");
  button.addEventListener("click", async () => {
    try {
      save((await sendMask(file, type)).response, file.name.replace(/\.[^.]*$/, "") + suffix);
    } catch (failure) {
      status.textContent = failure.message;
    }
  });
  return element("p", { class: "choose" }, button, status);
}

// ---- the predicted Dice of a mask of a CT

async function predict(event) {
  event.preventDefault();
  const status = byId("score-status"), error = byId("score-error"), body = new FormData();
  for (const file of byId("ct").files) body.append("ct", file, file.name);
  body.append("mask", byId("ct-mask").files[0], byId("ct-mask").files[0].name);
  body.append("organ", byId("organ").value.trim());
  error.hidden = true;
  byId("score-result").replaceChildren();
  const progress = (share) => { status.textContent = share < 1 ? `Sending, ${Math.floor(100 * share)} %` : "Predicting"; };
  try {
    showScore(await askJson({ method: "POST", path: "v1/score", body, progress, busy: () => { status.textContent = "The service is busy; waiting"; } }));
    status.textContent = "Done.";
  } catch (failure) {
    status.textContent = "";
    error.textContent = failure.message;
    error.hidden = false;
  }
}

function showScore({ organ, mean, slices, dice, warnings }) {
  const remarks = warnings.map((text) => element("p", { class: "warning" }, sentenceOf(text)));
  if (mean === null) {
    byId("score-result").replaceChildren(...remarks, element("p", {}, `The mask of ${organ} is empty, so it has no score.`));
    return;
  }
  const worst = slices[dice.indexOf(Math.min(...dice))];
  const facts = `${organ}: predicted Dice ${mean.toFixed(3)}, the mean of ${plural(slices.length, "slice")}. The lowest is in slice ${worst}.`;
  const rows = slices.map((slice, i) => element("tr", {}, element("td", {}, String(slice)), element("td", {}, dice[i].toFixed(3))));
  const head = element("tr", {}, element("th", { scope: "col" }, "slice"), element("th", { scope: "col" }, "predicted Dice"));
  const table = element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  byId("score-result").replaceChildren(
    ...remarks, element("p", { class: "result" }, facts), curve(slices, dice),
    element("div", { class: "rows", role: "region", tabindex: "0", "aria-label": "Predicted Dice of each slice" }, table));
}

function curve(slices, dice) {
  const [width, height, left, bottom, top] = [640, 220, 44, 34, 10];
  const low = Math.min(0, ...dice), high = Math.max(1, ...dice), last = slices.at(-1), first = slices[0];
  const x = (slice) => left + ((width - left - 12) * (slice - first)) / Math.max(1, last - first);
  const y = (value) => top + (height - bottom - top) * (1 - (value - low) / (high - low));
  const made = drawing("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": "Predicted Dice of each slice; the table has the values", class: "curve" });
  for (const value of [0, 0.5, 1]) {
    made.append(drawing("line", { x1: left, x2: width - 12, y1: y(value), y2: y(value) }));
    made.append(drawing("text", { x: left - 8, y: y(value) + 4, "text-anchor": "end" }, String(value)));
  }
  const points = slices.map((slice, i) => [x(slice), y(dice[i])]);
  if (points.length > 1) made.append(drawing("path", { d: "M" + points.map((point) => point.join(" ")).join("L") }));
  points.forEach(([cx, cy], i) => made.append(drawing("circle", { cx, cy, r: 3.5 }, drawing("title", {}, `slice ${slices[i]}: ${dice[i].toFixed(3)}`))));
  for (const slice of new Set([first, last])) made.append(drawing("text", { x: x(slice), y: height - bottom + 18, "text-anchor": slice === first ? "start" : "end" }, String(slice)));
  made.append(drawing("text", { x: left + (width - left) / 2, y: height - 6, "text-anchor": "middle" }, "slice"));
  return made;
}
