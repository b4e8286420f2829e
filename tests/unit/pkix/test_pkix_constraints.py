"""Name constraints (RFC 5280 4.2.1.10) as granting keeps them."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509

from chancery.errors import ErrorType, PKIError
from chancery.pkix.constraints import NameConstraints, check_names
from chancery.pkix.name import attributes_of, parse_name

DNS, MAIL, URI = x509.DNSName, x509.RFC822Name, x509.UniformResourceIdentifier
TEN = x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))
ANY_MAIL = MAIL._init_without_validation("")  # as pyca reads it in a certificate
MAILBOX = x509.OtherName(x509.ObjectIdentifier("1.3.6.1.5.5.7.8.9"), b"\x0c\x0bexample.org")
ORG = x509.DirectoryName(parse_name("O=Example,C=DE"))


@pytest.mark.parametrize(
    ("permitted", "excluded", "subject", "names", "fits"),
    [
        ([DNS("example.org")], [], "CN=x", ["dns:example.org", "dns:a.b.example.org"], True),
        ([DNS("example.org")], [], "CN=x", ["dns:badexample.org"], False),
        ([DNS("example.org")], [], "CN=x", ["dns:*.example.org"], True),
        ([DNS("example.org")], [], "CN=x", ["ip:10.0.0.1", "email:a@b.example"], True),
        ([], [DNS("secret.example.org")], "CN=x", ["dns:a.secret.example.org"], False),
        ([], [DNS("secret.example.org")], "CN=x", ["dns:*.example.org"], False),
        ([], [DNS("secret.example.org")], "CN=x", ["dns:www.example.org"], True),
        ([], [DNS("")], "CN=x", ["dns:www.example.org"], False),
        ([TEN], [], "CN=x", ["ip:10.1.2.3"], True),
        ([TEN], [], "CN=x", ["ip:11.1.2.3"], False),
        ([TEN], [], "CN=x", ["ip:::1"], False),
        ([MAIL("example.org")], [], "CN=x", ["email:a@example.org"], True),
        ([MAIL("example.org")], [], "CN=x", ["email:a@mx.example.org"], False),
        ([MAIL(".example.org")], [], "CN=x", ["email:a@mx.example.org"], True),
        ([MAIL("a@example.org")], [], "CN=x", ["email:b@example.org"], False),
        ([MAIL("example.org")], [], "emailAddress=a@elsewhere.example,CN=x", [], False),
        ([URI(".example.org")], [], "CN=x", ["uri:https://www.example.org/x"], True),
        ([URI("example.org")], [], "CN=x", ["uri:https://www.example.org/x"], False),
        ([DNS(".example.org")], [], "CN=x", ["dns:example.org"], False),
        ([DNS(".example.org")], [], "CN=x", ["dns:www.example.org"], True),
        ([], [DNS(".example.org")], "CN=x", ["dns:example.org"], False),
        ([], [ANY_MAIL], "CN=x", ["email:a@example.org"], False),
        ([ANY_MAIL], [], "CN=x", ["email:a@example.org"], False),
        ([], [URI("")], "CN=x", ["uri:https://www.example.org/x"], False),
        # RFC 5280 4.2.1.10: a URI without a host name is refused by whoever knows the constraint.
        ([], [URI("example.org")], "CN=x", ["uri:urn:x:y"], False),
        ([], [URI("example.org")], "CN=x", ["uri:https://192.0.2.1/"], False),
        ([], [URI("example.org")], "CN=x", ["uri:https://[2001:db8::1]/"], False),
        ([], [URI("example.org")], "CN=x", ["uri:https://example.org@example.net/"], True),
        ([], [URI("example.net")], "CN=x", ["uri:https://example.org@EXAMPLE.net:8443/"], False),
        ([MAIL("example.org")], [], "CN=x", ["smtputf8:\u00e9@example.org"], True),
        ([MAIL("example.org")], [], "CN=x", ["smtputf8:\u00e9@example.net"], False),
        ([], [MAILBOX], "CN=x", ["smtputf8:\u00e9@example.org"], False),
        ([], [MAILBOX], "CN=x", ["email:a@example.org"], True),
        ([ORG], [], "CN=x,O=Example,C=DE", [], True),
        # RFC 5280 7.1, RFC 4518 2: case, inner spaces and compatible characters make no other name.
        ([], [ORG], "CN=x,O=\uff25xample,C=DE", [], False),
        ([], [x509.DirectoryName(parse_name("O=A  b,C=DE"))], "CN=x,O=a B,C=DE", [], False),
        ([ORG], [], "CN=x,O=Other,C=DE", [], False),
        ([], [ORG], "CN=x,O=example,C=DE", [], False),
        ([x509.OtherName(x509.ObjectIdentifier("1.2.3"), b"\x05\x00")], [], "CN=x", ["upn:a@b"], False),
    ],
)
def test_names_inside_and_outside(permitted, excluded, subject, names, fits):
    constraints = [NameConstraints(tuple(permitted), tuple(excluded))]
    given = attributes_of(parse_name(subject))
    if fits:
        check_names(constraints, given, names)
        return
    with pytest.raises(PKIError, match=r"4\.2\.1\.10") as caught:
        check_names(constraints, given, names)
    assert ErrorType.BAD_CERT_TEMPLATE is caught.value.type


def test_an_empty_subject_is_not_constrained_and_all_constraints_hold():
    check_names([NameConstraints((ORG,), ())], (), ["dns:example.org"])
    both = [NameConstraints((DNS("example.org"),), ()), NameConstraints((DNS("a.example.org"),), ())]
    check_names(both, (), ["dns:x.a.example.org"])
    with pytest.raises(PKIError):
        check_names(both, (), ["dns:b.example.org"])
