#!/bin/sh
# Makes the vectors of this folder again (see README.md). New keys, so new bytes: the tests read them, not these.
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat >"$work/ts.cnf" <<EOF
[req]
distinguished_name = dn
prompt = no
[dn]
[ca]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical,CA:FALSE
keyUsage = critical,digitalSignature
extendedKeyUsage = critical,timeStamping
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
[tsa]
serial = $work/serial
default_policy = 1.3.6.1.4.1.99999.1.1
other_policies = 1.3.6.1.4.1.99999.1.2
digests = sha256, sha384, sha512
accuracy = secs:1, millisecs:500, microsecs:100
clock_precision_digits = 3
ordering = yes
tsa_name = yes
ess_cert_id_chain = no
ess_cert_id_alg = sha256
signer_digest = sha256
EOF
printf 'a document\n' >document.txt
for kind in rsa p256; do
    case $kind in
        rsa) new="rsa:2048" ;;
        *) new="ec -pkeyopt ec_paramgen_curve:P-256" ;;
    esac
    # shellcheck disable=SC2086
    openssl req -x509 -newkey $new -nodes -keyout "$work/ca.key" -out "$kind-ca.pem" -days 36500 \
        -subj "/O=Vectors/CN=Root $kind" -config "$work/ts.cnf" -extensions ca 2>/dev/null
    # shellcheck disable=SC2086
    openssl req -newkey $new -nodes -keyout "$work/tsa.key" -out "$work/tsa.csr" \
        -subj "/O=Vectors/CN=TSA $kind" -config "$work/ts.cnf" 2>/dev/null
    openssl x509 -req -in "$work/tsa.csr" -CA "$kind-ca.pem" -CAkey "$work/ca.key" -days 36499 -out "$kind-tsa.pem" \
        -extfile "$work/ts.cnf" -extensions leaf 2>/dev/null
    for hash in sha256 sha384 sha512; do
        openssl ts -query -data document.txt -$hash -cert -out "$kind-$hash.tsq" 2>/dev/null
        (cd "$work" && echo 0A >serial)
        openssl ts -reply -config "$work/ts.cnf" -section tsa -queryfile "$kind-$hash.tsq" -signer "$kind-tsa.pem" \
            -inkey "$work/tsa.key" -out "$kind-$hash.tsr" 2>/dev/null
    done
    openssl ts -query -data document.txt -sha256 -no_nonce -tspolicy 1.3.6.1.4.1.99999.1.2 -out "$kind-bare.tsq"
    openssl ts -reply -config "$work/ts.cnf" -section tsa -queryfile "$kind-bare.tsq" -signer "$kind-tsa.pem" \
        -inkey "$work/tsa.key" -out "$kind-bare.tsr" 2>/dev/null
done
openssl ts -query -data document.txt -sha256 -tspolicy 1.2.3 -out refused-policy.tsq
openssl ts -query -data document.txt -sha1 -out refused-digest.tsq
for what in policy digest; do
    openssl ts -reply -config "$work/ts.cnf" -section tsa -queryfile refused-$what.tsq -signer p256-tsa.pem \
        -inkey "$work/tsa.key" -out refused-$what.tsr 2>/dev/null || true
done
