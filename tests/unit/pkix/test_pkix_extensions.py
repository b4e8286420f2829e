"""Extensions are, byte for byte, as pyca, asn1crypto or pyasn1 write them; a CSR is read as it stands."""

from __future__ import annotations

import ipaddress

import pytest
from asn1crypto import core
from cryptography import x509
from cryptography.x509.oid import AuthorityInformationAccessOID
from pyasn1.codec.der import decoder, encoder
from pyasn1_alt_modules import rfc3739, rfc5280

from cakit import key, make_csr
from chancery.asn1 import der, extensions, oids
from chancery.asn1 import x509 as template
from chancery.errors import PKIError
from chancery.pkix.extension_granting import ExtensionPlan
from chancery.pkix.extension_rules import Extensions, Limit, QCStatements
from chancery.pkix.general_name import subtree
from chancery.pkix.key import proof_of_possession

OID = x509.ObjectIdentifier


def _same(extension: bytes, value: x509.ExtensionType, *, critical: bool) -> None:
    assert template.extension(value.oid.dotted_string, value.public_bytes(), critical=critical) == extension


def test_policies_with_their_qualifiers():
    notice = x509.UserNotice(None, "read it \u00e4")
    policies = [
        x509.PolicyInformation(OID("1.2.3"), None),
        x509.PolicyInformation(OID("1.2.4"), ["https://example.org/cps"]),
        x509.PolicyInformation(OID("1.2.5"), ["https://example.org/cps", notice]),
        x509.PolicyInformation(OID("1.2.6"), [notice]),
    ]
    given = [
        ("1.2.3", None, None),
        ("1.2.4", "https://example.org/cps", None),
        ("1.2.5", "https://example.org/cps", "read it \u00e4"),
        ("1.2.6", None, "read it \u00e4"),
    ]
    for critical in (False, True):
        encoded = extensions.certificate_policies(given, critical=critical)
        _same(encoded, x509.CertificatePolicies(policies), critical=critical)


@pytest.mark.parametrize(("explicit", "mapping"), [(0, None), (None, 1), (0, 0), (200, 3)])
def test_policy_constraints(explicit, mapping):
    encoded = extensions.policy_constraints(explicit, mapping)
    _same(encoded, x509.PolicyConstraints(explicit, mapping), critical=True)


def test_inhibit_any_policy():
    _same(extensions.inhibit_any_policy(2), x509.InhibitAnyPolicy(2), critical=True)


def test_policy_mappings():
    encoded = extensions.policy_mappings([("1.2.3", "1.2.4"), ("1.2.5", "1.2.6")], critical=True)
    value = _value(encoded)
    found, rest = decoder.decode(value, asn1Spec=rfc5280.PolicyMappings())
    assert b"" == rest
    pairs = [(str(one["issuerDomainPolicy"]), str(one["subjectDomainPolicy"])) for one in found]
    assert [("1.2.3", "1.2.4"), ("1.2.5", "1.2.6")] == pairs
    assert value == encoder.encode(found)


def test_name_constraints():
    permitted = [x509.DNSName("example.org"), x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))]
    excluded = [x509.RFC822Name(".example.net")]
    encoded = extensions.name_constraints(
        [subtree("dns:example.org"), subtree("ip:10.0.0.0/8")], [subtree("email:.example.net")]
    )
    _same(encoded, x509.NameConstraints(permitted, excluded), critical=True)
    only = extensions.name_constraints([], [subtree("email:.example.net")])
    _same(only, x509.NameConstraints(None, excluded), critical=True)


def test_subject_info_access():
    method = AuthorityInformationAccessOID.CA_ISSUERS
    uri = x509.UniformResourceIdentifier("http://example.org/")
    encoded = extensions.subject_info_access([(method.dotted_string, "http://example.org/")])
    value = x509.SubjectInformationAccess([x509.AccessDescription(method, uri)])
    _same(encoded, value, critical=False)


def test_tls_feature():
    value = x509.TLSFeature([x509.TLSFeatureType.status_request, x509.TLSFeatureType.status_request_v2])
    _same(extensions.tls_feature({17, 5}), value, critical=False)


def test_microsoft_templates():
    value = x509.MSCertificateTemplate(OID("1.3.6.1.4.1.311.21.8.1"), 100, 3)
    _same(extensions.microsoft_template("1.3.6.1.4.1.311.21.8.1", 100, 3), value, critical=False)
    assert core.BMPString("DomainController").dump() == _value(
        extensions.microsoft_template_name("DomainController")
    )
    policies = x509.CertificatePolicies([x509.PolicyInformation(OID("1.3.6.1.5.5.7.3.2"), None)])
    assert policies.public_bytes() == _value(extensions.application_policies(["1.3.6.1.5.5.7.3.2"]))


def test_the_poison():
    _same(extensions.ct_poison(), x509.PrecertPoison(), critical=True)


def test_subject_directory_attributes():
    encoded = extensions.subject_directory_attributes(
        [("1.3.6.1.5.5.7.9.4", [der.printable_string("DE"), der.printable_string("AT")])]
    )
    found, rest = decoder.decode(_value(encoded), asn1Spec=rfc5280.SubjectDirectoryAttributes())
    assert b"" == rest
    assert _value(encoded) == encoder.encode(found)
    assert ["1.3.6.1.5.5.7.9.4"] == [str(one["type"]) for one in found]


def test_qualified_statements_are_those_of_en_319_412_5():
    rule = QCStatements(
        compliance=True,
        sscd=True,
        types=("esign", "web"),
        limit=Limit(currency="EUR", amount=5, exponent=4),
        retention_years=10,
        disclosures=(),
        legislation=("CH",),
        semantics="natural",
    )
    [encoded] = [
        one
        for one in ExtensionPlan(Extensions(qc_statements=rule), ["ec-p256"])._last
        if oids.QC_STATEMENTS == _oid(one)
    ]
    found, rest = decoder.decode(_value(encoded), asn1Spec=rfc3739.QCStatements())
    assert b"" == rest
    assert _value(encoded) == encoder.encode(found)
    values = {
        str(one["statementId"]): bytes(one["statementInfo"]) for one in found if one["statementInfo"].isValue
    }
    assert {
        "1.3.6.1.5.5.7.11.2",
        "0.4.0.1862.1.6",
        "0.4.0.1862.1.2",
        "0.4.0.1862.1.3",
        "0.4.0.1862.1.7",
    } == set(values)
    assert ["1.3.6.1.5.5.7.11.2", "0.4.0.1862.1.1", "0.4.0.1862.1.4"] == [str(o["statementId"]) for o in found][:3]
    assert bytes.fromhex("300b1303455552020105020104") == values["0.4.0.1862.1.2"]
    assert bytes.fromhex("02010a") == values["0.4.0.1862.1.3"]
    assert bytes.fromhex("30041302") + b"CH" == values["0.4.0.1862.1.7"]
    kinds = core.SequenceOf(
        [core.ObjectIdentifier(f"0.4.0.1862.1.6.{n}") for n in (1, 3)], spec=core.ObjectIdentifier
    )
    assert kinds.dump() == values["0.4.0.1862.1.6"]


def _value(extension: bytes) -> bytes:
    return bytes(core.Sequence.load(extension)[-1].native)


def _oid(extension: bytes) -> str:
    return str(core.Sequence.load(extension)[0].native)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x00",
        b"\x00\x00",
        b"\x00\x02\x00\x01",
        b"\x00\x02\x00\x00",
        b"\x00\x04\x00\x01\xff\xff",
        b"\x00\x01\x00",
    ],
)
def test_an_sct_list_of_another_form_is_refused(content):
    with pytest.raises(PKIError, match="SCT list"):
        extensions.check_sct_list(der.octet_string(content))
    extensions.check_sct_list(der.octet_string(b"\x00\x06\x00\x01\xff\x00\x01\xfe"))


def test_what_a_csr_asks_for_is_read_as_it_stands():
    usage = x509.ExtendedKeyUsage([OID("1.3.6.1.5.5.7.3.2"), OID("1.2.3")])
    other = x509.UnrecognizedExtension(OID("1.2.3.4"), b"\x05\x00")
    proven = proof_of_possession(make_csr("CN=a", ("dns:a.example",), key(), usage, other))
    found = {oid: value for oid, _, value in extensions.extension_request(proven.attributes)}
    assert {oids.SUBJECT_ALT_NAME, oids.EXTENDED_KEY_USAGE, "1.2.3.4"} == set(found)
    assert b"\x05\x00" == found["1.2.3.4"]
    assert ("1.3.6.1.5.5.7.3.2", "1.2.3") == extensions.read_purposes(found[oids.EXTENDED_KEY_USAGE])


def _request(*attributes: bytes) -> bytes:
    return der.implicit(0, b"".join(attributes), constructed=True)


def _asking(*asked: bytes) -> bytes:
    return der.sequence(der.oid(oids.EXTENSION_REQUEST), der.set_of([der.sequence(*asked)]))


ONE = template.extension("1.2.3", b"\x05\x00", critical=True)


@pytest.mark.parametrize(
    "attributes",
    [
        _request(_asking(ONE), _asking(ONE)),
        _request(_asking(ONE, ONE)),
        _request(_asking(*(template.extension(f"1.2.{n}", b"\x05\x00") for n in range(65)))),
        _request(der.sequence(der.oid(oids.EXTENSION_REQUEST), der.set_of([der.sequence(ONE), der.sequence()]))),
        _request(der.sequence(der.oid(oids.EXTENSION_REQUEST), der.null())),
    ],
)
def test_an_extension_request_of_another_form_is_refused(attributes):
    with pytest.raises(PKIError):
        extensions.extension_request(attributes)


def test_other_attributes_of_a_csr_are_left_alone():
    password = der.sequence(der.oid("1.2.840.113549.1.9.7"), der.set_of([der.utf8_string("secret")]))
    assert (("1.2.3", True, b"\x05\x00"),) == extensions.extension_request(_request(password, _asking(ONE)))
