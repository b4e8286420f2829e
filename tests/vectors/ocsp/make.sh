#!/bin/sh
# Makes the vectors of this folder anew with OpenSSL and pyca/cryptography. Run it here; it wants openssl 3 and
# a python with cryptography.
set -eu
tmp=$(mktemp -d)
here=$(pwd)
cd "$tmp"
cat > ext.cnf <<'CNF'
[req]
distinguished_name=dn
[dn]
[ca]
basicConstraints=critical,CA:TRUE
keyUsage=critical,keyCertSign,cRLSign
subjectKeyIdentifier=hash
[delegate]
basicConstraints=critical,CA:FALSE
keyUsage=critical,digitalSignature
extendedKeyUsage=OCSPSigning
noCheck=ignored
subjectKeyIdentifier=hash
authorityKeyIdentifier=keyid
CNF
openssl req -x509 -newkey rsa:2048 -noenc -keyout ca.key -out ca.pem -days 3650 \
    -subj "/O=Example/CN=Vector CA" -config ext.cnf -extensions ca -set_serial 1 2>/dev/null
openssl req -newkey ec -pkeyopt ec_paramgen_curve:P-256 -noenc -keyout ocsp.key -out ocsp.csr \
    -subj "/O=Example/CN=Vector OCSP" -config ext.cnf 2>/dev/null
openssl x509 -req -in ocsp.csr -CA ca.pem -CAkey ca.key -days 3650 -extfile ext.cnf -extensions delegate \
    -set_serial 2 -out ocsp.pem 2>/dev/null
printf 'V\t360101000000Z\t\t%s\tunknown\t/CN=good\n' 0A0B0C0D0E0F101112 > index.txt
printf 'R\t360101000000Z\t250102030405Z,keyCompromise\t%s\tunknown\t/CN=revoked\n' 1A0B0C0D0E0F101112 >> index.txt
printf 'R\t360101000000Z\t250102030405Z\t%s\tunknown\t/CN=revoked\n' 2A0B0C0D0E0F101112 >> index.txt
good=0x0A0B0C0D0E0F101112
revoked=0x1A0B0C0D0E0F101112
silent=0x2A0B0C0D0E0F101112
unknown=0x3A0B0C0D0E0F101112
ask() { name=$1; shift; openssl ocsp "$@" -reqout "$here/$name.req.der" 2>/dev/null; }
answer() {
    name=$1; shift
    openssl ocsp -index index.txt -CA ca.pem -rsigner ocsp.pem -rkey ocsp.key -ndays 1 \
        -reqin "$here/$name.req.der" -respout "$here/$name.resp.der" "$@" 2>/dev/null >/dev/null
}
ask sha1 -issuer ca.pem -serial $good -no_nonce
answer sha1 -resp_key_id
ask sha256-nonce -sha256 -issuer ca.pem -serial $revoked
answer sha256-nonce
ask sha384 -sha384 -issuer ca.pem -serial $silent -no_nonce
answer sha384 -resp_key_id
ask several -issuer ca.pem -serial $good -serial $revoked -serial $unknown -sha256 -issuer ca.pem -serial $silent
answer several -resp_key_id
ask signed -issuer ca.pem -serial $good -signer ocsp.pem -signkey ocsp.key
answer signed -resp_key_id
openssl x509 -in ca.pem -outform DER -out "$here/ca.der"
openssl x509 -in ocsp.pem -outform DER -out "$here/ocsp.der"
${PYTHON:-python3} - "$here" <<'PY'
import sys
from pathlib import Path
from cryptography import x509
from cryptography.x509 import ocsp
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
here = Path(sys.argv[1])
ca = x509.load_der_x509_certificate((here / "ca.der").read_bytes())
for name, algorithm, nonce in (("pyca-sha1", hashes.SHA1(), None), ("pyca-sha512-nonce", hashes.SHA512(), bytes(range(32)))):
    request = ocsp.OCSPRequestBuilder().add_certificate(
        x509.load_der_x509_certificate((here / "ocsp.der").read_bytes()), ca, algorithm)
    if nonce:
        request = request.add_extension(x509.OCSPNonce(nonce), critical=False)
    (here / f"{name}.req.der").write_bytes(request.build().public_bytes(Encoding.DER))
PY
rm -r "$tmp"
