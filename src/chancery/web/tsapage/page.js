// The page: files come in, words and .tsr files go out. All text is set as text.
import { MAX_RESPONSE, digest, request, tokenOf, verify } from "./tsp.js";

const MAX_FILE = 2 ** 31 - 1;
const element = (id) => document.getElementById(id);
const make = (tag, text, more = {}) => Object.assign(document.createElement(tag), { textContent: text, ...more });

async function contents(file) {
  if (file.size > MAX_FILE) throw new Error(`${file.name} is too large for a browser; use chancery timestamp.`);
  return file.arrayBuffer();
}

function describe(found) {
  const list = document.createElement("dl");
  const accuracy = found.accuracy === null ? "" : ` (± ${found.accuracy} s)`;
  const rows = {
    Time: found.time + accuracy, Serial: found.serial, Policy: found.policy, Hash: found.hash, Signer: found.signer,
    "Issued by": found.issuer, "Certificate SHA-256": found.fingerprint,
  };
  for (const [name, value] of Object.entries(rows)) list.append(make("dt", name), make("dd", value));
  return list;
}

async function ask(body) {
  const headers = { "Content-Type": "application/timestamp-query" };
  const key = element("key").value.trim();
  if (key) headers.Authorization = `Bearer ${key}`;
  const answer = await fetch("tsa", { method: "POST", body, headers, cache: "no-store", credentials: "same-origin" });
  const octets = new Uint8Array(await answer.arrayBuffer());
  if (octets.length > MAX_RESPONSE || !(answer.headers.get("Content-Type") ?? "").startsWith("application/timestamp-reply")) {
    throw new Error(`The authority answered ${answer.status}, and not with a timestamp.`);
  }
  return octets;
}

async function stamp(file, hash) {
  const data = await contents(file);
  const nonce = crypto.getRandomValues(new Uint8Array(8));
  nonce[0] &= 127;
  const response = await ask(request(hash, await digest(hash, data), nonce));
  const found = await verify(tokenOf(response), data);
  if (BigInt(`0x${Array.from(found.nonce ?? [0], (one) => one.toString(16).padStart(2, "0")).join("")}`)
      !== nonce.reduce((sum, one) => sum * 256n + BigInt(one), 0n)) {
    throw new Error("The answer is to another request.");
  }
  return [response, found];
}

function offer(file, response) {
  const name = `${file.name}.tsr`;
  const link = make("a", `Save ${name}`, { download: name });
  link.href = URL.createObjectURL(new Blob([response], { type: "application/timestamp-reply" }));
  return link;
}

async function stampAll(files) {
  const result = element("stamp-result");
  result.replaceChildren();
  for (const file of files) {
    const place = document.createElement("div");
    result.append(place);
    place.append(make("p", `Stamping ${file.name} …`));
    try {
      const [response, found] = await stamp(file, element("hash").value);
      const link = offer(file, response);
      const saved = document.createElement("p");
      saved.append(link);
      place.replaceChildren(make("p", `${file.name} was stamped.`, { className: "good" }), saved, describe(found));
      link.click();
    } catch (error) {
      place.replaceChildren(make("p", `${file.name} was not stamped. ${error.message}`, { className: "bad" }));
    }
  }
}

async function check(file, tsr) {
  const result = element("check-result");
  if (!file || !tsr) {
    result.replaceChildren(make("p", "Choose the file and its timestamp.", { className: "bad" }));
    return;
  }
  result.replaceChildren(make("p", "Checking …"));
  try {
    if (tsr.size > MAX_RESPONSE) throw new Error(`${tsr.name} is too large for a timestamp.`);
    const found = await verify(tokenOf(new Uint8Array(await tsr.arrayBuffer())), await contents(file));
    result.replaceChildren(make("p", `${file.name} existed at ${found.time}.`, { className: "good" }), describe(found));
  } catch (error) {
    result.replaceChildren(make("p", `${file.name} is not proved. ${error.message}`, { className: "bad" }));
  }
}

function droppable(zone, take) {
  for (const kind of ["dragenter", "dragover"]) {
    zone.addEventListener(kind, (event) => { event.preventDefault(); zone.classList.add("over"); });
  }
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take([...event.dataTransfer.files]);
  });
}

function give(input, file) {
  const carrier = new DataTransfer();
  carrier.items.add(file);
  input.files = carrier.files;
}

if (globalThis.crypto?.subtle === undefined) {
  const words = "Browsers compute hashes only on pages that came over HTTPS (or from this machine): open the https address.";
  Object.assign(element("unfit"), { textContent: words, hidden: false });
} else {
  element("stamp").addEventListener("submit", (event) => event.preventDefault());
  element("stamp-file").addEventListener("change", ({ target }) => {
    stampAll([...target.files]);
    target.value = ""; // so that the same file can be chosen again
  });
  droppable(element("stamp-drop"), stampAll);
  element("check").addEventListener("submit", (event) => {
    event.preventDefault();
    check(element("check-file").files[0], element("check-tsr").files[0]);
  });
  droppable(element("check-drop"), (files) => {
    for (const file of files) give(element(file.name.endsWith(".tsr") ? "check-tsr" : "check-file"), file);
  });
}
