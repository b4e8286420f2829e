// RFC 3161 in a browser: a request in DER, what a response says, and the signature of a token by WebCrypto.
// Nothing here knows the page. Every function throws an Error whose message is for the user.

const HASHES = {
  "2.16.840.1.101.3.4.2.1": "SHA-256", "2.16.840.1.101.3.4.2.2": "SHA-384", "2.16.840.1.101.3.4.2.3": "SHA-512",
  "2.16.840.1.101.3.4.2.8": "SHA3-256", "2.16.840.1.101.3.4.2.9": "SHA3-384", "2.16.840.1.101.3.4.2.10": "SHA3-512",
};
const HASH_OIDS = Object.fromEntries(Object.entries(HASHES).map(([oid, name]) => [name, oid]));
const CURVES = {
  "1.2.840.10045.3.1.7": ["P-256", 32], "1.3.132.0.34": ["P-384", 48], "1.3.132.0.35": ["P-521", 66],
};
const RSA = {
  "1.2.840.113549.1.1.11": "SHA-256", "1.2.840.113549.1.1.12": "SHA-384", "1.2.840.113549.1.1.13": "SHA-512",
};
const ECDSA = { "1.2.840.10045.4.3.2": "SHA-256", "1.2.840.10045.4.3.3": "SHA-384", "1.2.840.10045.4.3.4": "SHA-512" };
const PLAIN = {
  "1.3.101.112": "Ed25519", "2.16.840.1.101.3.4.3.17": "ML-DSA-44", "2.16.840.1.101.3.4.3.18": "ML-DSA-65",
  "2.16.840.1.101.3.4.3.19": "ML-DSA-87",
};
const FAIL = {
  0: "badAlg", 2: "badRequest", 5: "badDataFormat", 14: "timeNotAvailable", 15: "unacceptedPolicy",
  16: "unacceptedExtension", 17: "addInfoNotAvailable", 25: "systemFailure",
};
const NAMES = { "2.5.4.3": "CN", "2.5.4.6": "C", "2.5.4.7": "L", "2.5.4.8": "ST", "2.5.4.10": "O", "2.5.4.11": "OU" };
export const MAX_RESPONSE = 256 * 1024;

// -- writing DER

function der(tag, ...parts) {
  const length = parts.reduce((sum, part) => sum + part.length, 0);
  const head = length < 128 ? [tag, length] : length < 256 ? [tag, 0x81, length] : [tag, 0x82, length >> 8, length & 255];
  const made = new Uint8Array(head.length + length);
  made.set(head);
  let at = head.length;
  for (const part of parts) { made.set(part, at); at += part.length; }
  return made;
}

function oid(text) {
  const [first, second, ...rest] = text.split(".").map(Number);
  const octets = [];
  for (const arc of [first * 40 + second, ...rest]) {
    const groups = [arc % 128];
    for (let left = Math.floor(arc / 128); left > 0; left = Math.floor(left / 128)) groups.unshift(128 + left % 128);
    octets.push(...groups);
  }
  return der(6, octets);
}

/** A TimeStampReq (DER) that asks for the certificates; `nonce` is 8 octets of which the first is less than 128. */
export function request(hashName, digest, nonce) {
  const algorithm = der(0x30, oid(HASH_OIDS[hashName]));
  let from = 0;
  while (from < nonce.length - 1 && nonce[from] === 0 && nonce[from + 1] < 128) from += 1;
  return der(0x30, [2, 1, 1], der(0x30, algorithm, der(4, digest)), der(2, nonce.subarray(from)), [1, 1, 0xff]);
}

// -- reading DER

class Value {
  constructor(data, start, content, end) {
    this.data = data; this.start = start; this.content = content; this.end = end;
    this.tag = data[start];
  }
  get octets() { return this.data.subarray(this.content, this.end); }
  get whole() { return this.data.subarray(this.start, this.end); }
  get children() {
    if (!(this.tag & 0x20)) throw new Error("The data is not in the form of a timestamp.");
    const found = [];
    for (let at = this.content; at < this.end;) { const one = read(this.data, at, this.end); found.push(one); at = one.end; }
    return found;
  }
  expect(tag) {
    if (this.tag !== tag) throw new Error("The data is not in the form of a timestamp.");
    return this;
  }
}

function read(data, at, limit) {
  const wrong = new Error("The data is cut off, or not in the form of a timestamp.");
  if (at + 2 > limit || (data[at] & 0x1f) === 0x1f) throw wrong;
  let length = data[at + 1];
  let content = at + 2;
  if (length >= 0x80) {
    const octets = length & 0x7f;
    if (octets < 1 || octets > 3 || content + octets > limit) throw wrong;
    length = 0;
    for (let n = 0; n < octets; n += 1) length = length * 256 + data[content + n];
    content += octets;
    if (length < (octets === 1 ? 128 : 256 ** (octets - 1))) throw wrong;
  }
  if (content + length > limit) throw wrong;
  return new Value(data, at, content, content + length);
}

function parse(data) {
  const found = read(data, 0, data.length);
  if (found.end !== data.length) throw new Error("There is something after the timestamp.");
  return found;
}

function oidText(value) {
  value.expect(6);
  const arcs = [];
  let arc = 0;
  for (const octet of value.octets) {
    arc = arc * 128 + (octet & 127);
    if (octet < 128) { arcs.push(arc); arc = 0; }
  }
  const first = Math.min(2, Math.floor(arcs[0] / 40));
  return [first, arcs[0] - 40 * first, ...arcs.slice(1)].join(".");
}

export const hex = (octets) => Array.from(octets, (one) => one.toString(16).padStart(2, "0")).join("");
const same = (one, other) => one.length === other.length && one.every((octet, at) => octet === other[at]);
const number = (value) => value.octets.reduce((sum, octet) => sum * 256 + octet, 0);

function time(value) {
  const text = new TextDecoder("ascii").decode(value.octets);
  const full = value.tag === 0x17 ? (Number(text.slice(0, 2)) < 50 ? "20" : "19") + text : text;
  const found = /^(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)(\.\d+)?Z$/.exec(full);
  if (!found) throw new Error("A time in the timestamp cannot be read.");
  const [, year, month, day, hour, minute, second, fraction] = found;
  return `${year}-${month}-${day}T${hour}:${minute}:${second}${fraction ?? ""}Z`;
}

function nameText(value) {
  const parts = value.children.flatMap((set) => set.children).map((pair) => {
    const [type, text] = pair.children;
    const label = NAMES[oidText(type)] ?? oidText(type);
    return `${label}=${new TextDecoder().decode(text.octets)}`;
  });
  // What cannot be seen must not change how the rest is read.
  return parts.join(", ").replace(/[\p{C}]/gu, "\ufffd");
}

// -- what a response says

/** The token of a TimeStampResp (or a bare TimeStampToken), as octets; throws the authority's refusal. */
export function tokenOf(data) {
  if (data.length > MAX_RESPONSE) throw new Error("This is too large for a timestamp.");
  const top = parse(data).expect(0x30).children;
  if (top[0]?.tag === 6) return data;
  const status = top[0].expect(0x30).children;
  const code = number(status[0].expect(2));
  if (code === 0 || code === 1) {
    if (!top[1]) throw new Error("The response grants a timestamp but has none.");
    return top[1].whole;
  }
  const words = [];
  for (const part of status.slice(1)) {
    if (part.tag === 0x30) words.push(...part.children.map((one) => new TextDecoder().decode(one.octets)));
    if (part.tag === 3) {
      const bits = part.octets.subarray(1);
      for (const [bit, name] of Object.entries(FAIL)) if (bits[bit >> 3] >> (7 - bit % 8) & 1) words.unshift(name);
    }
  }
  throw new Error(`The authority refused: ${words.join(": ").replace(/[\p{C}]/gu, "\ufffd") || `status ${code}`}`);
}

function tstInfo(octets) {
  const fields = parse(octets).expect(0x30).children;
  const [version, policy, imprint, serial, genTime, ...rest] = fields;
  if (number(version) !== 1) throw new Error("The timestamp is of an unknown version.");
  const [algorithm, digest] = imprint.expect(0x30).children;
  const found = {
    policy: oidText(policy), hash: HASHES[oidText(algorithm.children[0])], imprint: digest.expect(4).octets,
    serial: hex(serial.expect(2).octets).replace(/^(00)+(?=..)/, "").toUpperCase(), time: time(genTime.expect(0x18)),
    accuracy: null, nonce: null,
  };
  for (const one of rest) {
    if (one.tag === 0x30) {
      const micros = { 2: 1e6, 0x80: 1e3, 0x81: 1 };
      found.accuracy = one.children.reduce((sum, part) => sum + number(part) * (micros[part.tag] ?? 0), 0) / 1e6;
    }
    if (one.tag === 2) found.nonce = one.octets;
  }
  return found;
}

function certificate(value) {
  const tbs = value.expect(0x30).children[0].children;
  const at = tbs[0].tag === 0xa0 ? 1 : 0;
  const [serial, , issuer, validity, subject, spki] = tbs.slice(at);
  const extensions = tbs.find((one) => one.tag === 0xa3)?.children[0].children ?? [];
  const usage = extensions.map((one) => one.children).find((one) => oidText(one[0]) === "2.5.29.37");
  const purposes = usage ? parse(usage.at(-1).octets).children.map(oidText) : [];
  return {
    der: value.whole, serial: serial.octets, issuer, subject, spki, valid: validity.children.map(time),
    onlyTimestamps: usage?.length === 3 && purposes.length === 1 && purposes[0] === "1.3.6.1.5.5.7.3.8",
  };
}

function signedData(token) {
  const [type, content] = parse(token).expect(0x30).children;
  if (oidText(type) !== "1.2.840.113549.1.7.2") throw new Error("This is not a timestamp.");
  const fields = content.children[0].children;
  const [infoType, info] = fields[2].children;
  if (oidText(infoType) !== "1.2.840.113549.1.9.16.1.4") throw new Error("This is signed data, but not a timestamp.");
  const signers = fields.at(-1).expect(0x31).children;
  if (signers.length !== 1) throw new Error("A timestamp has one signature.");
  const signer = signers[0].children;
  const attributes = signer.find((one) => one.tag === 0xa0);
  const after = signer.slice(signer.indexOf(attributes) + 1);
  if (!attributes || after.length < 2) throw new Error("The timestamp has no signed attributes.");
  const certificates = fields.find((one) => one.tag === 0xa0)?.children.filter((one) => one.tag === 0x30) ?? [];
  return {
    content: info.children[0].expect(4).octets, identifier: signer[1], digest: HASHES[oidText(signer[2].children[0])],
    attributes, algorithm: after[0], signature: after[1].expect(4).octets, certificates: certificates.map(certificate),
  };
}

function attribute(signed, wanted) {
  const found = signed.attributes.children.map((one) => one.children).filter((one) => oidText(one[0]) === wanted);
  if (found.length !== 1 || found[0][1].children.length !== 1) throw new Error("A signed attribute is missing.");
  return found[0][1].children[0];
}

// -- checking

export async function digest(name, data) {
  try {
    return new Uint8Array(await crypto.subtle.digest(name, data));
  } catch {
    throw new Error(`This browser cannot compute ${name}; use chancery verify-timestamp.`);
  }
}

function ecdsaRaw(signature, size) {
  const raw = new Uint8Array(2 * size);
  parse(signature).expect(0x30).children.forEach((value, at) => {
    const octets = value.expect(2).octets;
    const from = octets[0] === 0 ? 1 : 0;
    if (at > 1 || octets.length - from > size) throw new Error("The signature is not right.");
    raw.set(octets.subarray(from), (at + 1) * size - (octets.length - from));
  });
  return raw;
}

/** What WebCrypto calls this signature: [to import the key with, to verify with, the signature in its form]. */
function scheme(signed, spki) {
  const [id, parameters] = signed.algorithm.expect(0x30).children;
  const name = oidText(id);
  if (name === "1.2.840.113549.1.1.1" || name in RSA) {
    const algorithm = { name: "RSASSA-PKCS1-v1_5", hash: RSA[name] ?? signed.digest };
    return [algorithm, algorithm, signed.signature];
  }
  if (name === "1.2.840.113549.1.1.10") {
    const fields = parameters.expect(0x30).children;
    const hash = HASHES[oidText(fields.find((one) => one.tag === 0xa0).children[0].children[0])];
    const saltLength = number(fields.find((one) => one.tag === 0xa2).children[0]);
    return [{ name: "RSA-PSS", hash }, { name: "RSA-PSS", saltLength }, signed.signature];
  }
  if (name in ECDSA) {
    const [curve, size] = CURVES[oidText(spki.children[0].children[1])] ?? [];
    if (!curve) throw new Error("The signer's curve is not known here; use chancery verify-timestamp.");
    const raw = ecdsaRaw(signed.signature, size);
    return [{ name: "ECDSA", namedCurve: curve }, { name: "ECDSA", hash: ECDSA[name] }, raw];
  }
  if (name in PLAIN) return [{ name: PLAIN[name] }, { name: PLAIN[name] }, signed.signature];
  throw new Error("The signature algorithm is not known here; use chancery verify-timestamp.");
}

function findSigner(signed) {
  const [issuer, serial] = signed.identifier.expect(0x30).children;
  const found = signed.certificates.find((one) => same(one.issuer.whole, issuer.whole) && same(one.serial, serial.octets));
  if (!found) throw new Error("The signer's certificate is not in the timestamp; use chancery verify-timestamp.");
  return found;
}

async function checkSigningCertificate(signed, signer) {
  // RFC 5816: ESSCertIDv2, whose hash is SHA-256 when it is not named.
  const first = attribute(signed, "1.2.840.113549.1.9.16.2.47").children[0].children[0].children;
  const named = first[0].tag === 0x30;
  const hash = named ? HASHES[oidText(first[0].children[0])] : "SHA-256";
  if (!same(await digest(hash, signer.der), first[named ? 1 : 0].expect(4).octets)) {
    throw new Error("The timestamp was signed for another certificate.");
  }
}

async function checkSignature(signed, signer) {
  const attributes = signed.attributes.whole.slice();
  attributes[0] = 0x31; // RFC 5652 5.4: signed as a SET OF, whatever its tag inside
  const [forKey, forSignature, signature] = scheme(signed, signer.spki);
  let key;
  try {
    key = await crypto.subtle.importKey("spki", signer.spki.whole, forKey, false, ["verify"]);
  } catch {
    throw new Error(`This browser does not know ${forKey.name} keys; use chancery verify-timestamp.`);
  }
  if (!await crypto.subtle.verify(forSignature, key, signature, attributes)) {
    throw new Error("The signature of the timestamp is not right: it was changed, or is not the signer's.");
  }
}

/** Check a token against a file (ArrayBuffer) and say what it proves. Throws what is wrong. */
export async function verify(token, file) {
  const signed = signedData(token);
  const info = tstInfo(signed.content);
  if (!info.hash) throw new Error("The timestamp uses a hash that is not known here.");
  if (!same(await digest(info.hash, file), info.imprint)) throw new Error("The timestamp is of another file.");
  const signer = findSigner(signed);
  if (oidText(attribute(signed, "1.2.840.113549.1.9.3")) !== "1.2.840.113549.1.9.16.1.4") {
    throw new Error("The signed type is not that of a timestamp.");
  }
  if (!same(await digest(signed.digest, signed.content), attribute(signed, "1.2.840.113549.1.9.4").octets)) {
    throw new Error("The content of the timestamp was changed.");
  }
  await checkSigningCertificate(signed, signer);
  await checkSignature(signed, signer);
  if (!signer.onlyTimestamps) throw new Error("The signer's certificate is not for timestamps alone.");
  const moment = Date.parse(info.time);
  if (!(Date.parse(signer.valid[0]) <= moment && moment <= Date.parse(signer.valid[1]) + 999)) {
    throw new Error("The signer's certificate was not valid at that time.");
  }
  return {
    ...info, signer: nameText(signer.subject), issuer: nameText(signer.issuer),
    fingerprint: hex(await digest("SHA-256", signer.der)),
  };
}
