"use strict";
// Requests to the service: with the token, with progress, and again when the service is busy.

const CANCELLED = -1, UNREACHABLE = 0;
const STORED = "jaxseg token"; // in sessionStorage, which the browser forgets with the tab

class Failure extends Error {
  constructor(status, text) {
    super(text);
    this.status = status;
  }
}

// Sends one request and returns its answer, or throws a Failure with a sentence for the user.
// Options: method, path, accept, body, progress (called with the sent share), busy (called with the seconds until the
// next try), signal (of an AbortController).
async function ask(options) {
  for (;;) {
    const token = sessionStorage.getItem(STORED);
    const request = await send(options, token);
    if (request.status === 200) return request;
    const text = await sentence(request);
    if (request.status === 401) await askToken(token);
    else if (request.status === 429) await waitForTurn(request, options);
    else throw new Failure(request.status, text);
  }
}

async function askJson(options) {
  return JSON.parse(await (await ask(options)).response.text());
}

function send({ method = "GET", path, accept = "application/json", body = null, progress, signal }, token) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // fetch does not report how much it has sent
    const stop = () => request.abort();
    request.open(method, path);
    request.responseType = "blob";
    request.setRequestHeader("Accept", accept);
    if (token) request.setRequestHeader("Authorization", `Bearer ${token}`);
    request.onload = () => resolve(request);
    request.onerror = () => reject(new Failure(UNREACHABLE, "The service cannot be reached. Check that it still runs, and try again."));
    request.onabort = () => reject(new Failure(CANCELLED, "Cancelled."));
    request.onloadend = () => signal?.removeEventListener("abort", stop);
    if (progress) request.upload.onprogress = ({ loaded, total }) => progress(total ? loaded / total : 0);
    signal?.addEventListener("abort", stop);
    if (signal?.aborted) reject(new Failure(CANCELLED, "Cancelled."));
    else request.send(body);
  });
}

async function sentence(request) {
  try {
    const { error } = JSON.parse(await request.response.text());
    if (typeof error === "string" && error) return sentenceOf(error);
  } catch {
    // not an answer of the service, but of a program in between
  }
  return `The service answered with the status ${request.status}.`;
}

function sentenceOf(text) {
  return text.charAt(0).toUpperCase() + text.slice(1) + (/[.!?]$/.test(text) ? "" : ".");
}

function waitForTurn(request, { busy, signal }) {
  const given = Number(request.getResponseHeader("Retry-After"));
  const seconds = Math.min(60, Math.max(1, given || 1));
  busy?.(seconds);
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, 1000 * seconds);
    signal?.addEventListener("abort", () => {
      clearTimeout(timer);
      reject(new Failure(CANCELLED, "Cancelled."));
    }, { once: true });
  });
}

// ---- the token; requests that are refused at the same time share one dialog

let asking = null;

function askToken(used) {
  if (sessionStorage.getItem(STORED) !== used) return Promise.resolve(); // the dialog was answered meanwhile
  asking ??= showTokenDialog(Boolean(used)).finally(() => { asking = null; });
  return asking;
}

function showTokenDialog(again) {
  const dialog = byId("token"), field = byId("token-field");
  byId("token-hint").textContent = again
    ? "This token is wrong. Check it, and enter it again."
    : "This service needs a token. Whoever started it knows it.";
  field.value = "";
  dialog.showModal();
  field.focus();
  return new Promise((resolve, reject) => {
    byId("token-form").onsubmit = (event) => {
      event.preventDefault();
      sessionStorage.setItem(STORED, field.value.trim());
      dialog.close("given");
    };
    byId("token-cancel").onclick = () => dialog.close("");
    dialog.oncancel = () => { dialog.returnValue = ""; };
    dialog.onclose = () => {
      field.value = "";
      if (dialog.returnValue === "given") resolve();
      else reject(new Failure(401, "The service needs a token. Load this page again to enter it."));
      dialog.returnValue = "";
    };
  });
}
