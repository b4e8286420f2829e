"""
Evidence of one timestamp: all that somebody needs to be convinced, years later and without this installation.

The token and its certificates, CRLs of its time and of today, the recorded row, the event that covers the row's
batch, and the proof that the event is in the journal under a signed checkpoint (C2SP tlog-proof).
"""

from __future__ import annotations

import base64
import dataclasses
import datetime
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from chancery.asn1 import cms, der, tsp
from chancery.asn1.signature import PublicKey
from chancery.audit import evidence_script
from chancery.audit.merkle import inclusion_holds, inclusion_proof, leaf_hash
from chancery.audit.note import TreeHead, open_checkpoint
from chancery.errors import ErrorType, PKIError
from chancery.ports import Checkpoint, IssuerRecord, JournalStore, TokenRecord
from chancery.ports.timestamps import BatchEvent, TokenQuery, TokenReader
from chancery.tsa import rows, verification
from chancery.tsa.renewal import chain_above
from chancery.tsa.revocation import Checked, check_revocation

TLOG_PROOF = "c2sp.org/tlog-proof@v1"
CANDIDATES = 16
PAGE = 16384
_PROOF = re.compile(
    re.escape(TLOG_PROOF) + r"\nindex (0|[1-9][0-9]{0,18})\n((?:[A-Za-z0-9+/]{43}=\n){0,64})\n(.*)", re.DOTALL
)


@dataclasses.dataclass(frozen=True, slots=True)
class Proven:
    """What an evidence proves: the token and its path, CRLs for it, the row, the journal's tree that has it."""

    stamp: verification.Timestamp
    revocation: Sequence[Checked]
    row: str
    head: TreeHead
    leaf_index: int


def collect(
    response: bytes, reader: TokenReader, journal: JournalStore, origin: str, key: PublicKey
) -> dict[str, bytes]:
    """
    Return the files of the evidence by name, for a TimeStampResp (DER) that was given out here.

    Raises PKIError: what is wrong with the token; BAD_CERT_ID when it is not recorded here, or its certificate is
    not known; ADD_INFO_NOT_AVAILABLE when no event covers it, or none that is under a checkpoint yet;
    SYSTEM_FAILURE when the journal is not what was signed.
    """
    token = verification.granted_token(response)
    signed = cms.decode(token)
    info = tsp.decode_tst_info(signed.content)
    record = _recorded(reader, info)
    path, issuers = _path(signed, reader)
    crls = [crl for issuer in issuers for crl in reader.crls(issuer.issuer_id, info.gen_time)]
    event, hashes = _batch(reader, record)
    index, checkpoint, proof = _proof(journal, event, origin, key)
    files = {
        "token.tsr": response,
        "token.der": token,
        "signer.pem": _pem(path[:1]),
        "intermediates.pem": _pem(path[1:-1]),
        "root.pem": _pem(path[-1:]),
        "row.txt": rows.row_line(record).encode(),
        "rows.bin": b"".join(hashes),
        "event.json": event.body.encode(),
        "event.tlog-proof": _tlog_proof(index, proof, checkpoint.note).encode(),
        "journal-key.pem": key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        **{f"crl-{number}.crl": crl for number, crl in enumerate(crls, 1)},
    }
    files |= evidence_script.files(
        files, hashes.index(rows.row_hash(record)), proof, checkpoint.note, info.gen_time
    )
    # Not whether it was revoked since: then more than ever somebody wants to know what was recorded, and when.
    digests = {info.hash_oid: info.hashed_message}
    prove(files, digests=digests, anchors=[path[-1]], origin=origin, key=key, revocation=False)
    return files


def _recorded(reader: TokenReader, info: tsp.TSTInfo) -> TokenRecord:
    found = reader.find(TokenQuery(serial=info.serial, limit=1))
    if not found or not _same(found[0], info):
        raise PKIError(
            ErrorType.BAD_CERT_ID, "this timestamp is not recorded here: another authority's, or forged"
        )
    return found[0]


def _same(record: TokenRecord, info: tsp.TSTInfo) -> bool:
    told = (info.serial, info.gen_time, info.hash_oid, info.hashed_message, info.policy)
    return told == (record.serial, record.gen_time, record.hash_oid, record.imprint, record.policy)


def _path(signed: cms.SignedData, reader: TokenReader) -> tuple[list[bytes], list[IssuerRecord]]:
    """Return the signer's certificate and those above it, the root last, and who issued each of them."""
    serial = der.integer_octets(der.Reader(signed.serial).integer())
    pool = [*signed.certificates, *reader.certificates(serial)]
    signer = next((one for one in pool if cms.issuer_and_serial(one) == (signed.issuer, signed.serial)), None)
    if signer is None:
        raise PKIError(ErrorType.BAD_CERT_ID, "the certificate of the timestamp's signer is not known here")
    records = reader.issuers()
    by_certificate = {record.certificate: record for record in records}
    path = [signer, *chain_above(signer, records)]
    lowest = path[-1]
    root = next((one for one in records if _is_issuer(one, lowest)), None)
    if root is None:
        raise PKIError(ErrorType.BAD_CERT_ID, "the issuer of the timestamp's signer is not known here")
    path.append(root.certificate)
    return path, [by_certificate[one] for one in path[1:]]


def _is_issuer(record: IssuerRecord, certificate: bytes) -> bool:
    issuer = x509.load_der_x509_certificate(record.certificate)
    try:
        x509.load_der_x509_certificate(certificate).verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return record.parent_id is None


def _batch(reader: TokenReader, record: TokenRecord) -> tuple[BatchEvent, list[bytes]]:
    """Return the event that covers a row, and the hashes of the rows of its batch."""
    highest = rows.batch_subject(record.unit, record.serial)
    for event in reader.batches(rows.batch_subject(record.unit, 0), highest, CANDIDATES):
        detail = json.loads(event.body)["detail"]
        first, last = int(detail["first"]), int(detail["last"])
        if not first <= record.serial <= last:
            continue
        day = datetime.timedelta(days=1)
        batch = reader.rows(first, last, record.gen_time - day, record.gen_time + day)
        hashes = [rows.row_hash(one) for one in batch if one.unit == record.unit]
        if rows.rows_digest(hashes) == detail["sha256"]:
            return event, hashes
    raise PKIError(
        ErrorType.ADD_INFO_NOT_AVAILABLE,
        "no event of the journal covers this row as it now stands; run `chancery audit verify`",
    )


def _proof(
    journal: JournalStore, event: BatchEvent, origin: str, key: PublicKey
) -> tuple[int, Checkpoint, list[bytes]]:
    """Return the event's leaf, the first checkpoint over it, and the proof that it holds the leaf."""
    index = event.leaf_index
    found = [] if index is None else journal.checkpoints(after=index, limit=1)
    if index is None or not found:
        raise PKIError(
            ErrorType.ADD_INFO_NOT_AVAILABLE, "the event is under no checkpoint yet; try again in a few seconds"
        )
    checkpoint = found[0]
    head = open_checkpoint(checkpoint.note, origin, key)
    proof = inclusion_proof(_leaves(journal, head.size), index, head.size)
    if not inclusion_holds(leaf_hash(event.body.encode()), index, head.size, proof, head.root):
        raise PKIError(
            ErrorType.SYSTEM_FAILURE, "the journal is not the one that was signed; run `chancery audit verify`"
        )
    return index, checkpoint, proof


def _leaves(journal: JournalStore, size: int) -> Iterator[bytes]:
    for start in range(0, size, PAGE):
        yield from journal.leaf_hashes(start, min(PAGE, size - start))


def _pem(certificates: Sequence[bytes]) -> bytes:
    return b"".join(x509.load_der_x509_certificate(one).public_bytes(Encoding.PEM) for one in certificates)


def _tlog_proof(index: int, proof: Sequence[bytes], note: str) -> str:
    hashes = "".join(base64.b64encode(one).decode() + "\n" for one in proof)
    return f"{TLOG_PROOF}\nindex {index}\n{hashes}\n{note}"


def _read_proof(text: str) -> tuple[int, list[bytes], str]:
    """Return leaf index, hashes and checkpoint of a tlog-proof; PKIError(BAD_DATA_FORMAT)."""
    found = _PROOF.fullmatch(text)
    if found is None:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "event.tlog-proof is none")
    return int(found[1]), [base64.b64decode(one) for one in found[2].split()], found[3]


def prove(
    files: Mapping[str, bytes],
    *,
    digests: dict[str, bytes],
    anchors: Sequence[bytes],
    origin: str | None = None,
    key: PublicKey,
    revocation: bool = True,
) -> Proven:
    """
    Check an evidence against a document's digests (by OID), trust anchors (DER) and the journal's key.

    `origin` is the log's name, taken from the checkpoint when it is None; `revocation` has the CRLs looked at.
    Raises PKIError saying what is wrong.
    """
    try:
        token = verification.granted_token(files["token.tsr"])
        others = [
            one.public_bytes(Encoding.DER)
            for name in ("signer.pem", "intermediates.pem")
            if files[name]
            for one in x509.load_pem_x509_certificates(files[name])
        ]
        row, event = files["row.txt"].decode(), files["event.json"].decode()
        index, proof, note = _read_proof(files["event.tlog-proof"].decode())
        hashes = files["rows.bin"]
    except KeyError as error:
        raise PKIError(ErrorType.BAD_DATA_FORMAT, f"the evidence has no {error.args[0]}") from None
    except (ValueError, x509.InvalidVersion):
        raise PKIError(ErrorType.BAD_DATA_FORMAT, "the evidence has a file that cannot be read") from None
    stamp = verification.verify(token, digests=digests, anchors=anchors, certificates=others)
    crls = [data for name, data in sorted(files.items()) if name.endswith(".crl")]
    checked = check_revocation(stamp.path, crls, stamp.info.gen_time) if revocation else ()
    _check_row(stamp.info, row, hashes, event)
    head = open_checkpoint(note, origin or note.partition("\n")[0], key)
    if not inclusion_holds(leaf_hash(event.encode()), index, head.size, proof, head.root):
        raise PKIError(ErrorType.NOT_AUTHORIZED, "the event is not in the journal that was signed")
    return Proven(stamp, checked, row, head, index)


def _check_row(info: tsp.TSTInfo, row: str, hashes: bytes, event: str) -> None:
    """Raise PKIError(NOT_AUTHORIZED) unless the row is the token's, and the event covers the row."""
    client = row.rstrip("\n").split("|", 5)[-1]
    expected = TokenRecord(info.serial, info.gen_time, info.hash_oid, info.hashed_message, info.policy, client)
    if row != rows.row_line(expected):
        raise PKIError(ErrorType.NOT_AUTHORIZED, "the recorded row is not that of the timestamp")
    each = [hashes[start : start + 32] for start in range(0, len(hashes), 32)]
    try:
        value = json.loads(event)
        covered = value["kind"] == "tsa.tokens" and value["detail"]["sha256"] == rows.rows_digest(each)
    except (ValueError, TypeError, KeyError):
        covered = False
    if not covered or hashlib.sha256(row.encode()).digest() not in each:
        raise PKIError(ErrorType.NOT_AUTHORIZED, "the event of the journal does not cover the recorded row")
