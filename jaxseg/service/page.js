"use strict";
// The start of the page: tabs, buttons, drops and pastes, and what the service can do.

// ---- tabs, as the ARIA practices describe them: arrow keys, Home and End choose the tab

const TABS = ["xrays", "masks"];

function showTab(name, focus) {
  for (const other of TABS) {
    const tab = byId(`tab-${other}`);
    tab.setAttribute("aria-selected", String(other === name));
    tab.tabIndex = other === name ? 0 : -1;
    byId(other).hidden = other !== name;
    if (other === name && focus) tab.focus();
  }
}

function onTabKey(event) {
  const place = TABS.findIndex((name) => event.target.id === `tab-${name}`);
  const next = { ArrowRight: place + 1, ArrowLeft: place - 1, Home: 0, End: TABS.length - 1 }[event.key];
  if (next === undefined) return;
  event.preventDefault();
  showTab(TABS[(next + TABS.length) % TABS.length], true);
}

function offerTabs({ denoise, score }) {
  if (!denoise && !score) return;
  byId("tabs").hidden = false;
  for (const name of TABS) {
    byId(`tab-${name}`).addEventListener("click", () => showTab(name, false));
    byId(`tab-${name}`).addEventListener("keydown", onTabKey);
    for (const [attribute, value] of [["role", "tabpanel"], ["aria-labelledby", `tab-${name}`]]) byId(name).setAttribute(attribute, value);
  }
  byId("denoise").hidden = !denoise;
  byId("score").hidden = !score;
  if (denoise?.channels > 1)
    byId("denoise-hint").textContent = `Choose NumPy files, each with the masks of ${denoise.classes.join(", ")} in this order.`;
  byId("organs").append(...(score?.organs ?? []).map((organ) => element("option", { value: organ })));
}

// ---- choosing, dropping and pasting files

function chooses(button, input, take) {
  byId(button).addEventListener("click", () => byId(input).click());
  byId(input).addEventListener("change", () => {
    const files = Array.from(byId(input).files);
    byId(input).value = ""; // so that the same file can be chosen again
    if (files.length) take(files);
  });
}

function ofFolder(files) {
  const likely = named(files).filter(({ name }) => isLikely(name));
  if (likely.length) addFiles(likely);
  else showError("The folder holds no PNG, JPEG or DICOM file. Choose another folder.");
}

function takeTransfer(event, transfer) {
  if (document.querySelector("dialog[open]") || !transfer?.files.length) return;
  event.preventDefault();
  showError("");
  if (byId("xrays").hidden) {
    if (!byId("denoise").hidden) restoreAll(Array.from(transfer.files));
    return;
  }
  transferred(transfer).then(addFiles, (error) => showError(`The files cannot be read: ${error.message}`));
}

function watchDrops() {
  let depth = 0; // dragenter and dragleave come for every element below the pointer
  const over = (change) => {
    depth = Math.max(0, change ? depth + change : 0);
    document.body.classList.toggle("dropping", depth > 0);
  };
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => hasFiles(event) && over(1));
  document.addEventListener("dragleave", (event) => hasFiles(event) && over(-1));
  document.addEventListener("dragover", (event) => hasFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    over(0);
    if (hasFiles(event)) event.preventDefault(); // the browser would leave the page and open the file
    takeTransfer(event, event.dataTransfer);
  });
  document.addEventListener("paste", (event) => takeTransfer(event, event.clipboardData));
}

// ---- examples

async function offerExamples(paths) {
  const list = byId("examples").querySelector("ul");
  for (const [i, path] of paths.entries()) {
    const image = (await ask({ path: path.replace(/^\//, ""), accept: "image/png" })).response;
    const name = path.split("/").pop();
    const picture = element("img", { alt: "", src: URL.createObjectURL(image), width: "72", height: "72" });
    const use = () => addFiles([{ file: new File([image], name, { type: "image/png" }), name }]);
    list.append(element("li", {}, element("button", { type: "button", "aria-label": `Try phantom ${i + 1}`, onclick: use }, picture)));
    byId("examples").hidden = false;
  }
}

// ---- what the service can do

function showError(text) {
  byId("page-error").textContent = text;
  byId("page-error").hidden = !text;
}

function showModel({ segment: { title, classes, input_size: size, weights, note }, version }) {
  const digest = weights?.sha256 ? `weights ${weights.sha256.slice(0, 12)}…` : "";
  const licence = weights?.licence ? `licence ${weights.licence}` : "";
  byId("model").textContent = ["Model " + title, plural(classes.length, "class"), size && `${size.join(" × ")} pixels`, digest, licence].filter(Boolean).join(" · ");
  byId("version").textContent = version ?? "";
  byId("model-note").textContent = note ? sentenceOf(`This model: ${note}`) : "";
  byId("model-note").hidden = !note;
}

async function start() {
  chooses("choose-files", "files", (files) => addFiles(named(files)));
  chooses("choose-folder", "folder", ofFolder);
  chooses("choose-masks", "mask-files", restoreAll);
  byId("clear").addEventListener("click", removeAll);
  byId("lines-on").addEventListener("change", showLines);
  byId("score-form").addEventListener("submit", predict);
  watchDrops();
  if (!("webkitdirectory" in byId("folder")) || matchMedia("(pointer: coarse)").matches) byId("choose-folder").hidden = true;
  if (matchMedia("(max-width: 820px)").matches) byId("classes").open = false;
  try {
    service = await askJson({ path: "v1/models" });
    showModel(service);
    offerTabs(service);
    showStatus();
    await offerExamples(service.examples ?? []);
  } catch (failure) {
    showError(failure.message);
  }
}

start();
