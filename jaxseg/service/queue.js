"use strict";
// The list of files: each is sent, waits for its masks, and shows how far it is, its result or its error.

const PARALLEL = 4; // requests at the same time; the service computes several images together
const MOST = 200; // files in the list, whose results the browser keeps
const VIEW = "application/vnd.jaxseg.view+json";

let items = [];
let current = null;
let service = { limits: {}, formats: [] }; // what /v1/models says

// ---- adding files: { file, name } each

function addFiles(files) {
  const room = MOST - items.length;
  const added = files.slice(0, room).map(({ file, name }) => newItem(file, name));
  items.push(...added);
  byId("items").append(...added.map((item) => item.row));
  const left = files.length - added.length;
  showNote(left > 0 ? `${plural(left, "file")} left out: the list holds ${MOST}. \`jaxseg segment\` takes folders of any size.` : "");
  if (!current && added.length) select(added[0]);
  startNext();
}

// Returns whether a file of a folder may be an X-ray; names of DICOM files often end with a number or have no suffix.
function isLikely(name) {
  return /^[^.].*\.(png|jpe?g|dcm|\d+)$|^[^.]+$/i.test(name.split("/").pop());
}

function named(files) {
  return Array.from(files, (file) => ({ file, name: file.webkitRelativePath || file.name }));
}

// Returns the files of a drop or a paste; those in folders only if their names look like X-rays.
async function transferred(transfer) {
  const entries = Array.from(transfer.items ?? [], (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return named(transfer.files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (found.length > MOST) return;
  const promised = (method, of) => new Promise((resolve, reject) => of[method](resolve, reject));
  if (entry.isFile) {
    const name = entry.fullPath.replace(/^\//, "");
    if (!name.includes("/") || isLikely(name)) found.push({ file: await promised("file", entry), name });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    const part = await promised("readEntries", reader); // at most 100 at a time
    if (!part.length) return;
    for (const inner of part) await walk(inner, found);
  }
}

// ---- one file: its state is waiting, running, done or failed

function newItem(file, name) {
  const item = { file, name, state: "waiting", text: "Waiting", share: 0, view: null, result: "", stop: new AbortController() };
  item.thumbnail = element("span", { class: "thumbnail", "aria-hidden": "true" });
  item.status = element("span", { class: "state" }, item.text);
  item.bar = element("progress", { max: "1", value: "0", "aria-label": `Progress of ${name}`, hidden: true });
  const words = element("span", { class: "words" }, element("span", { class: "name" }, name), item.status);
  item.button = element("button", { type: "button", class: "file", onclick: () => choose(item) }, item.thumbnail, words);
  item.again = element("button", { type: "button", class: "again", hidden: true, onclick: () => tryAgain(item) }, "Try again");
  item.remove = element("button", { type: "button", class: "remove", onclick: () => removeItem(item) }, "×");
  item.row = element("li", {}, item.button, item.again, item.remove, item.bar);
  show(item);
  return item;
}

function show(item, changes = {}) {
  Object.assign(item, changes);
  const ended = item.state === "done" || item.state === "failed";
  item.status.textContent = item.text;
  item.row.className = item.state;
  item.bar.hidden = item.state !== "running";
  if (item.share < 1) item.bar.value = item.share;
  else item.bar.removeAttribute("value"); // sent; how long the rest takes is unknown
  const word = ended ? "Remove" : "Cancel";
  item.remove.title = word;
  item.remove.setAttribute("aria-label", `${word} ${item.name}`);
  item.again.hidden = !item.mayWork;
  item.again.setAttribute("aria-label", `Try again: ${item.name}`);
  if (item === current) showCurrent();
}

function showCurrent() {
  if (!current) hideViewer();
  else if (current.view) {
    if (current.shown === current.view) return;
    current.shown = current.view;
    showView(current.view, current.name);
    showDownloads();
  } else showMessage(current.name, current.text, current.state === "failed");
}

function select(item) {
  if (current) {
    current.button.removeAttribute("aria-current");
    current.shown = null;
  }
  current = item;
  item?.button.setAttribute("aria-current", "true");
  showCurrent();
  showStatus();
}

function choose(item) {
  select(item);
  if (matchMedia("(max-width: 820px)").matches) byId("viewer").scrollIntoView(); // it is below the list
}

function removeItem(item) {
  const place = items.indexOf(item);
  const hadFocus = item.row.contains(document.activeElement);
  item.stop.abort();
  items = items.filter((other) => other !== item);
  item.row.remove();
  const next = items[Math.min(place, items.length - 1)] ?? null;
  if (item === current) select(next);
  if (hadFocus) (next ? next.button : byId("choose-files")).focus();
  startNext();
}

function removeAll() {
  for (const item of items) item.stop.abort();
  items = [];
  byId("items").replaceChildren();
  showNote("");
  select(null);
  byId("choose-files").focus();
}

// ---- sending

function startNext() {
  const running = items.filter((item) => item.state === "running").length;
  for (const item of items.filter(({ state }) => state === "waiting").slice(0, PARALLEL - running)) run(item);
  showStatus();
}

function tryAgain(item) {
  item.button.focus(); // the button that was pressed disappears
  show(item, { state: "waiting", text: "Waiting", share: 0, mayWork: false });
  startNext();
}

async function run(item) {
  show(item, { state: "running", text: "Sending" });
  try {
    const limit = service.limits.bytes;
    if (limit && item.file.size > limit)
      throw new Failure(413, `The file has ${number(Math.ceil(item.file.size / 1e6))} MB; up to ${number(Math.floor(limit / 1e6))} MB are allowed.`);
    const answer = await segment(item, VIEW);
    item.result = answer.getResponseHeader("Location") ?? "";
    item.view = JSON.parse(await answer.response.text());
    showThumbnail(item);
    const count = item.view.warnings.length;
    show(item, { state: "done", text: count ? `Done, ${plural(count, "warning")}` : "Done", share: 1 });
  } catch (error) {
    if (error.status === CANCELLED) return; // it was removed from the list
    const failure = error instanceof Failure ? error : new Failure(500, `The answer cannot be shown: ${error.message}.`);
    const mayWork = failure.status === UNREACHABLE || failure.status === 401 || failure.status === 408 || failure.status >= 500;
    show(item, { state: "failed", text: failure.message, mayWork });
  } finally {
    startNext();
  }
}

// Sends a file and returns the answer in a format.
function segment(item, accept) {
  const body = new FormData();
  body.append("image", item.file, item.name.split("/").pop());
  return ask({
    method: "POST",
    path: "v1/segment",
    accept,
    body,
    signal: item.stop.signal,
    progress: (share) => item.state === "running" && show(item, { share, text: share < 1 ? `Sending, ${Math.floor(100 * share)} %` : "Segmenting" }),
    busy: (seconds) => item.state === "running" && show(item, { text: `The service is busy; next try in ${plural(seconds, "second")}` }),
  });
}

function showThumbnail(item) {
  const made = element("img", { alt: "", src: `data:image/jpeg;base64,${item.view.picture.jpeg}` });
  item.thumbnail.replaceChildren(made);
}

// ---- the state of the whole list

function showNote(text) {
  byId("note")?.remove();
  if (text) byId("items").before(element("p", { id: "note", class: "warning", role: "alert" }, text));
}

function showStatus() {
  const of = (state) => items.filter((item) => item.state === state).length;
  const done = of("done"), failed = of("failed");
  document.body.classList.toggle("empty", !items.length);
  byId("list").hidden = !items.length;
  const parts = [`${done} of ${plural(items.length, "file")} done`, failed ? `${failed} failed` : ""];
  const text = items.length ? `${parts.filter(Boolean).join(", ")}.` : "";
  if (byId("status").textContent !== text) byId("status").textContent = text; // so that it is read once
  byId("all-downloads").hidden = done < 2;
  fillDownloads(byId("all-downloads").querySelector("div"), items.filter((item) => item.state === "done"));
}

// ---- downloads

function showDownloads() {
  byId("downloads-status").textContent = "";
  fillDownloads(byId("downloads"), [current]);
}

function fillDownloads(place, chosen) {
  const offered = FORMATS.filter(({ type }) => service.formats.includes(type))
    .filter(({ type }) => type !== "application/dicom" || chosen.some((item) => item.view?.tags.length));
  const key = offered.map(({ type }) => type).join();
  place.onSave = chosen;
  if (place.dataset.key === key && key) return; // the buttons stay, so that they keep the focus
  place.dataset.key = key;
  place.replaceChildren(...offered.map((format) =>
    element("button", { type: "button", onclick: () => download(place.onSave, format) }, format.text)));
}

async function download(chosen, format) {
  const status = byId(chosen.length > 1 ? "status" : "downloads-status"), files = [];
  const wanted = chosen.filter((item) => format.type !== "application/dicom" || item.view.tags.length);
  try {
    for (const item of wanted) {
      status.textContent = `Fetching ${format.text}: ${files.length} of ${wanted.length}`;
      files.push([fileName(item.name, format.suffix), await resultOf(item, format.type)]);
    }
    if (wanted.length === 1) save(files[0][1], files[0][0]);
    else await saveAll(files, format);
    status.textContent = `${format.text}: ${plural(files.length, "file")} saved.`;
  } catch (failure) {
    if (failure.status !== CANCELLED) status.textContent = `${format.text}: ${failure.message}`;
  }
}

async function resultOf(item, accept) {
  const options = { path: item.result, accept, signal: item.stop.signal };
  try {
    return (await ask(options)).response;
  } catch (failure) {
    if (failure.status !== 404) throw failure;
    return (await segment(item, accept)).response; // the service keeps results only for some minutes
  }
}
