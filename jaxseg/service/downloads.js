"use strict";
// Files to save: the formats of a result, one table of several, and an archive of several files.

const FORMATS = [
  { type: "application/zip", text: "PNG masks", suffix: ".masks.zip" },
  { type: "application/x-npz", text: "NumPy", suffix: ".npz" },
  { type: "application/json", text: "COCO JSON", suffix: ".json" },
  { type: "application/dicom", text: "DICOM SEG", suffix: ".seg.dcm" }, // of DICOM files only
  { type: "text/csv", text: "Measurements (CSV)", suffix: ".csv" },
];

function fileName(name, suffix) {
  return name.replace(/\.(png|jpe?g|dcm)$/i, "") + suffix;
}

function save(blob, name) {
  const address = URL.createObjectURL(blob);
  const link = element("a", { href: address, download: name.split("/").pop(), hidden: true });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 60_000);
}

// Saves several files, [name, blob] each: tables as one table, others as one archive.
async function saveAll(files, format) {
  if (format.type === "text/csv") {
    const tables = await Promise.all(files.map(([, blob]) => blob.text()));
    save(new Blob([joinTables(tables)], { type: "text/csv" }), "jaxseg-measurements.csv");
  } else {
    save(await archive(distinct(files)), `jaxseg${format.suffix.replace(/\.zip$/, "")}.zip`);
  }
}

function distinct(files) {
  const seen = new Map();
  return files.map(([name, blob]) => {
    const count = (seen.get(name) ?? 0) + 1;
    seen.set(name, count);
    return [count > 1 ? name.replace(/(\.[^/]*)?$/, ` (${count})$1`) : name, blob];
  });
}

// ---- tables

function cellsOf(text) {
  const rows = [[]];
  for (const [, quoted, plain, end] of text.matchAll(/(?:"((?:[^"]|"")*)"|([^",\r\n]*))(,|\r?\n|$)/g)) {
    rows.at(-1).push(quoted === undefined ? plain : quoted.replaceAll('""', '"'));
    if (end === "") break;
    if (end !== ",") rows.push([]);
  }
  return rows.filter((row) => row.length > 1 || row[0]);
}

// Joins tables by the names of their columns: a table may lack columns, such as those in mm.
function joinTables(texts) {
  const tables = texts.map(cellsOf).filter((rows) => rows.length);
  const head = Array.from(new Set(tables.flatMap(([names]) => names)));
  const rows = tables.flatMap(([names, ...body]) => body.map((row) => head.map((name) => row[names.indexOf(name)] ?? "")));
  const quote = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
  return [head, ...rows].map((row) => row.map(quote).join(",") + "\r\n").join("");
}

// ---- archives: ZIP without compression, which PNG and NumPy files do not need

const REMAINDERS = Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let i = 0; i < 8; i += 1) value = value & 1 ? 0xedb88320 ^ (value >>> 1) : value >>> 1;
  return value >>> 0;
});

function checksum(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = REMAINDERS[(value ^ byte) & 255] ^ (value >>> 8);
  return (value ^ 0xffffffff) >>> 0;
}

// Returns little-endian numbers: [bytes, value] each.
function packed(...fields) {
  const view = new DataView(new ArrayBuffer(fields.reduce((sum, [size]) => sum + size, 0)));
  let place = 0;
  for (const [size, value] of fields) {
    size === 4 ? view.setUint32(place, value, true) : view.setUint16(place, value, true);
    place += size;
  }
  return view;
}

async function archive(files) {
  const parts = [], entries = [];
  let place = 0, listed = 0;
  for (const [name, blob] of files) {
    const bytes = new Uint8Array(await blob.arrayBuffer()), path = new TextEncoder().encode(name);
    // version 2.0, names in UTF-8, stored, 1 January 1980
    const facts = [[2, 20], [2, 0x800], [2, 0], [2, 0], [2, 33], [4, checksum(bytes)], [4, bytes.length], [4, bytes.length], [2, path.length], [2, 0]];
    parts.push(packed([4, 0x04034b50], ...facts), path, bytes);
    entries.push(packed([4, 0x02014b50], [2, 20], ...facts, [2, 0], [2, 0], [2, 0], [4, 0], [4, place]), path);
    place += 30 + path.length + bytes.length;
    listed += 46 + path.length;
  }
  const end = packed([4, 0x06054b50], [2, 0], [2, 0], [2, files.length], [2, files.length], [4, listed], [4, place], [2, 0]);
  return new Blob([...parts, ...entries, end], { type: "application/zip" });
}
