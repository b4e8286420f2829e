"""What an evidence holds for people without this program: a script of openssl commands, and what it reads."""

from __future__ import annotations

import base64
import datetime
from collections.abc import Mapping, Sequence

from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from chancery.asn1 import tsp

_README = """Evidence of a timestamp (RFC 3161)

token.tsr, token.der    the timestamp, as given out and alone
signer.pem, intermediates.pem, root.pem    the certificates it leads to
crl-N.crl               certificate revocation lists in force at the time, and the newest ones
row.txt                 what was recorded before it was signed: serial, time, hash, imprint, policy, who asked
rows.bin                SHA-256 of each row that was recorded together with it, 32 octets each
event.json              the entry of the journal over these rows
event.tlog-proof        that the entry is in the journal (C2SP tlog-proof, RFC 9162)
journal-key.pem         the public key that signs the journal

Compare root.pem and journal-key.pem with what the authority publishes: everything else rests on them. Then

    chancery timestamp-record verify ARCHIVE --file FILE --ca root.pem --journal-key journal-key.pem

or, with nothing but openssl 3 and a shell:

    sh verify.sh FILE

The script is as good as whoever gave you this archive: read it before you rely on what it says. The command above
takes nothing from here on trust.
"""
_SCRIPT = """#!/bin/sh
# Checks the evidence of a timestamp with openssl alone: sh verify.sh FILE. The last line is "all is right".
set -eu
case $1 in /*) file=$1 ;; *) file=$PWD/$1 ;; esac
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
say() { printf '%s\\n' "$1"; }
chain=""
[ ! -s intermediates.pem ] || chain="-untrusted intermediates.pem"

# 1. The timestamp is of this file and leads to root.pem, at the time that it tells.
# shellcheck disable=SC2086
openssl ts -verify -data "$file" -in token.tsr \\
    -CAfile root.pem $chain -attime @ATTIME@ >/dev/null 2>"$work/err" || {
    cat "$work/err"; exit 1; }
say "the timestamp is of this file"

# 2. Its certificates were not revoked then.
for one in crl-*.crl; do openssl crl -inform DER -in "$one" >>"$work/crls.pem"; done
# shellcheck disable=SC2086
openssl verify -CAfile root.pem $chain -CRLfile "$work/crls.pem" -crl_check_all -extended_crl \\
    -attime @ATTIME@ signer.pem >/dev/null
say "its certificates were good then"

# 3. The row is the timestamp's, and one of those that the journal's entry covers.
[ "$(cut -d'|' -f4 row.txt)" = "$(openssl dgst -@HASH@ -r "$file" | cut -d' ' -f1)" ]
[ "$(cut -d'|' -f1 row.txt)" = @SERIAL@ ]
openssl ts -reply -in token.tsr -text 2>/dev/null | grep -qi '^serial number: 0x0*@SERIALHEX@$'
openssl dgst -sha256 -binary row.txt >"$work/row"
dd if=rows.bin of="$work/listed" bs=32 skip=@ROW@ count=1 2>/dev/null
cmp "$work/row" "$work/listed"
grep -q "\\"sha256\\":\\"$(openssl dgst -sha256 -r rows.bin | cut -d' ' -f1)\\"" event.json
say "the journal's entry covers its record"

# 4. The entry is in the journal's tree (RFC 9162 2.1.3.2).
{ printf '\\000'; cat event.json; } | openssl dgst -sha256 -binary >"$work/node"
left() { { printf '\\001'; printf '%s' "$1" | openssl base64 -d -A; cat "$work/node"; } | \\
    openssl dgst -sha256 -binary >"$work/next"; mv "$work/next" "$work/node"; }
right() { { printf '\\001'; cat "$work/node"; printf '%s' "$1" | openssl base64 -d -A; } | \\
    openssl dgst -sha256 -binary >"$work/next"; mv "$work/next" "$work/node"; }
@STEPS@
[ "$(openssl base64 -A -in "$work/node")" = "$(sed -n 3p checkpoint.txt)" ]
say "the entry is in the journal's tree of $(sed -n 2p checkpoint.txt) entries"

# 5. The tree is the one that was signed.
@VERIFY@ >/dev/null
say "the tree was signed by the journal's key"
say "all is right"
"""


_HASHES = {oid: name.replace("_", "-") for name, oid in tsp.DIGEST_OIDS.items()}


def files(
    collected: Mapping[str, bytes],
    row: int,
    proof: Sequence[bytes],
    note: str,
    at: datetime.datetime,
) -> dict[str, bytes]:
    """
    Return the script, the checkpoint's text and signature that it reads, and a README.

    `row` is the place of the row's hash in rows.bin, `proof` that of the event under the checkpoint `note`.
    """
    text, _, lines = note.partition("\n\n")
    text += "\n"
    signature = base64.b64decode(lines.split("\n")[0].rsplit(" ", 1)[1])[4:]
    key = load_pem_public_key(collected["journal-key.pem"])
    verify = (
        "openssl pkeyutl -verify -pubin -inkey journal-key.pem -rawin -in checkpoint.txt -sigfile checkpoint.sig"
        if isinstance(key, ed25519.Ed25519PublicKey)
        else "openssl dgst -sha256 -verify journal-key.pem -signature checkpoint.sig checkpoint.txt"
    )
    head, size = collected["event.tlog-proof"].decode().split("\n")[1], int(text.split("\n")[1])
    script = _SCRIPT.replace("@ATTIME@", str(int(at.timestamp()))).replace("@ROW@", str(row))
    serial, _, oid, _ = collected["row.txt"].decode().split("|", 3)
    script = script.replace("@SERIALHEX@", f"{int(serial):x}").replace("@SERIAL@", serial)
    script = script.replace("@HASH@", _HASHES[oid])
    script = script.replace("@STEPS@", _steps(int(head.split(" ")[1]), size, proof)).replace("@VERIFY@", verify)
    return {
        "checkpoint.txt": text.encode(),
        "checkpoint.sig": signature,
        "verify.sh": script.encode(),
        "README.txt": _README.encode(),
    }


def _steps(index: int, size: int, proof: Sequence[bytes]) -> str:
    """Return a call for each hash of the proof, upwards: on which side of the node it stands."""
    found: list[str] = []
    fn, sn = index, size - 1
    for sibling in proof:
        left = fn & 1 or fn == sn
        found.append(f"{'left' if left else 'right'} {base64.b64encode(sibling).decode()}")
        if left:
            while not fn & 1 and fn:
                fn, sn = fn >> 1, sn >> 1
        fn, sn = fn >> 1, sn >> 1
    return "\n".join(found)
