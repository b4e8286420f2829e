"""Every endpoint of the REST interface, once: the application serves this table and OpenAPI describes it."""

from __future__ import annotations

from typing import Final

from chancery.ra.requestor import Operation
from chancery.web import bulk, certificates, hierarchy, issuers, keys, management, mass
from chancery.web.certificates import PKCS10
from chancery.web.forms import CERTS_ONLY, MEDIA_TYPES, PEM, PEM_CHAIN, PKCS7, PKIX_CERT
from chancery.web.hierarchy import HierarchyList
from chancery.web.issuers import PKIX_CRL
from chancery.web.service import API, JSON, Answer, Endpoint
from chancery.web.views import (
    BlockedKeyList,
    BlockedKeySearch,
    BlockedKeyView,
    BulkAnswer,
    BulkChoice,
    BulkEnd,
    BulkLine,
    CertificateChoice,
    CertificateList,
    CertificateRequest,
    CertificateSearch,
    CertificateView,
    CRLAsked,
    HealthView,
    IssuerChoice,
    IssuerFormat,
    IssuerList,
    IssuerView,
    KeyAsked,
    OperatorAsked,
    OperatorList,
    OperatorView,
    ProfileChoice,
    ProfileList,
    ProfileView,
    RawRequest,
    RequestView,
    RevocationAsked,
    RevocationChoice,
    RevocationView,
    StatusView,
    SwitchAsked,
    SwitchView,
)

_ONE: Final = f"{API}/certificates/{{serial}}"
_ISSUER: Final = f"{API}/issuers/{{name}}"

_CERTIFICATES = (
    Endpoint(
        "POST",
        f"{API}/certificates",
        "Request a certificate",
        (
            Answer(
                201, "Issued; the same transaction id gives the same certificate again.", RequestView, MEDIA_TYPES
            ),
            Answer(202, "Not yet; Location says where to ask again.", RequestView),
        ),
        Operation.SUBMIT,
        certificates.request_certificate,
        body=CertificateRequest,
        raw_body=PKCS10,
        query=RawRequest,
        headers=(("Idempotency-Key", "The transaction id, in place of `transaction_id`."),),
    ),
    Endpoint(
        "POST",
        f"{API}/certificates/bulk",
        "Request many certificates, a line each",
        (Answer(200, "A line for each as soon as it is settled, then a last one.", (BulkAnswer, BulkEnd)),),
        Operation.SUBMIT,
        bulk.request_certificates,
        body=BulkLine,
        lines=True,
        query=BulkChoice,
    ),
    Endpoint(
        "GET",
        f"{API}/certificates",
        "Search certificates",
        (Answer(200, "One page, newest first.", CertificateList),),
        Operation.SEARCH,
        certificates.search,
        query=CertificateSearch,
    ),
    Endpoint(
        "GET",
        f"{API}/requests/{{request_id}}",
        "See where a request stands",
        (Answer(200, "The request.", RequestView),),
        Operation.SEE_REQUEST,
        certificates.see_request,
    ),
    # Longest suffix first: the first path that matches is taken.
    Endpoint(
        "GET",
        f"{_ONE}.chain.pem",
        "Fetch a certificate and the CAs above it (PEM)",
        (Answer(200, "Certificate first, without the trust anchor.", PEM_CHAIN),),
        Operation.SHOW,
        certificates.fetch_chain,
        query=IssuerChoice,
    ),
    Endpoint(
        "GET",
        f"{_ONE}.pem",
        "Fetch a certificate (PEM)",
        (Answer(200, "The certificate.", PEM),),
        Operation.SHOW,
        certificates.fetch_pem,
        query=IssuerChoice,
    ),
    Endpoint(
        "GET",
        f"{_ONE}.cer",
        "Fetch a certificate (DER)",
        (Answer(200, "The certificate.", PKIX_CERT),),
        Operation.SHOW,
        certificates.fetch_der,
        query=IssuerChoice,
    ),
    Endpoint(
        "GET",
        f"{_ONE}.p7b",
        "Fetch a certificate and the CAs above it (PKCS#7)",
        (Answer(200, "certs-only SignedData, without the trust anchor.", CERTS_ONLY),),
        Operation.SHOW,
        certificates.fetch_pkcs7,
        query=IssuerChoice,
    ),
    Endpoint(
        "GET",
        _ONE,
        "See a certificate and its status",
        (Answer(200, "The certificate.", CertificateView, MEDIA_TYPES),),
        Operation.SHOW,
        certificates.show,
        query=CertificateChoice,
    ),
    Endpoint(
        "POST",
        f"{_ONE}/revocation",
        "Revoke or suspend a certificate",
        (
            Answer(200, "Revoked.", RevocationView),
            Answer(202, "Not settled yet; the certificate's state will say.", RevocationView),
        ),
        Operation.REVOKE,
        certificates.revoke,
        body=RevocationAsked,
        query=RevocationChoice,
    ),
    Endpoint(
        "POST",
        f"{_ONE}/reinstatement",
        "Reinstate a suspended certificate",
        (
            Answer(200, "It is good again.", RevocationView),
            Answer(202, "Not settled yet; the certificate's state will say.", RevocationView),
        ),
        Operation.REINSTATE,
        certificates.reinstate,
        query=RevocationChoice,
    ),
)

_MASS = (
    Endpoint(
        "POST",
        f"{API}/revocations",
        "Revoke many certificates: look, rehearse, confirm",
        (
            Answer(200, "What would be revoked; nothing was done.", mass.ChosenView),
            Answer(202, "A job for the worker.", mass.JobView),
        ),
        Operation.REVOKE_MANY,
        mass.revoke_many,
        body=mass.MassAsked,
    ),
    Endpoint(
        "GET",
        f"{API}/revocations",
        "List mass revocations",
        (Answer(200, "The newest first.", mass.JobList),),
        Operation.SEE_REVOCATIONS,
        mass.list_jobs,
    ),
    Endpoint(
        "GET",
        f"{API}/revocations/{{job_id}}",
        "See a mass revocation and its progress",
        (Answer(200, "The job.", mass.JobView),),
        Operation.SEE_REVOCATIONS,
        mass.see_job,
    ),
    Endpoint(
        "POST",
        f"{API}/revocations/{{job_id}}/approval",
        "Approve a mass revocation as the second person",
        (Answer(202, "Given; the worker judges it.", mass.JobView),),
        Operation.APPROVE_REVOCATION,
        mass.approve_job,
        body=mass.ApprovalAsked,
    ),
)

_KEYS = (
    Endpoint(
        "POST",
        f"{API}/blocked-keys",
        "Block a key for good",
        (
            Answer(201, "Blocked; with every certificate that has the key.", BlockedKeyView),
            Answer(200, "It was blocked before, or this is a dry run.", BlockedKeyView),
        ),
        Operation.BLOCK_KEY,
        keys.block_key,
        body=KeyAsked,
    ),
    Endpoint(
        "GET",
        f"{API}/blocked-keys",
        "List blocked keys",
        (Answer(200, "One page, in the order of their hashes.", BlockedKeyList),),
        Operation.SEE_BLOCKED_KEYS,
        keys.list_blocked_keys,
        query=BlockedKeySearch,
    ),
)

_ISSUERS = (
    Endpoint(
        "GET",
        f"{API}/hierarchy",
        "See the hierarchy of issuers and where their keys are",
        (Answer(200, "Each root before what is below it.", HierarchyList),),
        Operation.SEE_HIERARCHY,
        hierarchy.show_hierarchy,
    ),
    Endpoint(
        "GET",
        f"{API}/issuers",
        "List issuers",
        (Answer(200, "Every issuer.", IssuerList),),
        Operation.SEE_ISSUERS,
        issuers.list_issuers,
    ),
    Endpoint(
        "GET",
        f"{_ISSUER}/crl",
        "Fetch an issuer's CRL (DER)",
        (Answer(200, "The current CRL.", PKIX_CRL),),
        Operation.SEE_ISSUERS,
        issuers.fetch_crl,
    ),
    Endpoint(
        "POST",
        f"{_ISSUER}/crl",
        "Have a fresh CRL published",
        (Answer(202, "Asked for.", CRLAsked),),
        Operation.PUBLISH_CRL,
        issuers.publish_crl,
    ),
    Endpoint(
        "GET",
        f"{_ISSUER}/certificate",
        "Fetch an issuer's certificate",
        (Answer(200, "The certificate.", PEM, (PKIX_CERT, PKCS7)),),
        Operation.SEE_ISSUERS,
        issuers.fetch_issuer_certificate,
        query=IssuerFormat,
    ),
    Endpoint(
        "GET",
        f"{_ISSUER}/chain",
        "Fetch an issuer's certificate and those above it",
        (Answer(200, "The issuer first, the trust anchor last.", PEM_CHAIN, (PKCS7,)),),
        Operation.SEE_ISSUERS,
        issuers.fetch_issuer_chain,
        query=IssuerFormat,
    ),
    Endpoint(
        "GET",
        _ISSUER,
        "See an issuer",
        (Answer(200, "The issuer.", IssuerView),),
        Operation.SEE_ISSUERS,
        issuers.show_issuer,
    ),
    Endpoint(
        "GET",
        f"{API}/profiles",
        "List profiles",
        (Answer(200, "The profiles that the caller may request.", ProfileList),),
        Operation.SEE_PROFILES,
        issuers.list_profiles,
    ),
    Endpoint(
        "GET",
        f"{API}/profiles/{{name}}",
        "See a profile",
        (Answer(200, "The profile.", ProfileView),),
        Operation.SEE_PROFILES,
        issuers.show_profile,
        query=ProfileChoice,
    ),
    Endpoint(
        "POST",
        f"{API}/profiles/{{name}}/deactivation",
        "Deactivate a profile",
        (Answer(200, "Deactivated.", SwitchView),),
        Operation.DEACTIVATE_PROFILE,
        issuers.deactivate_profile,
        body=SwitchAsked,
    ),
    Endpoint(
        "POST",
        f"{API}/profiles/{{name}}/activation",
        "Activate a profile again",
        (Answer(200, "Active.", SwitchView),),
        Operation.ACTIVATE_PROFILE,
        issuers.activate_profile,
        body=SwitchAsked,
    ),
)

_MANAGEMENT = (
    Endpoint(
        "GET",
        f"{API}/operators",
        "List operators",
        (Answer(200, "Every operator.", OperatorList),),
        Operation.SEE_OPERATORS,
        management.list_operators,
    ),
    Endpoint(
        "POST",
        f"{API}/operators",
        "Enrol an operator",
        (Answer(201, "Enrolled.", OperatorView),),
        Operation.ADD_OPERATOR,
        management.add_operator,
        body=OperatorAsked,
    ),
    Endpoint(
        "DELETE",
        f"{API}/operators/{{name}}",
        "Remove an operator",
        (Answer(204, "Removed.", None),),
        Operation.REMOVE_OPERATOR,
        management.remove_operator,
    ),
    Endpoint(
        "GET",
        f"{API}/status",
        "See the status",
        (Answer(200, "Counts and CRLs.", StatusView),),
        Operation.STATUS,
        management.status,
    ),
    Endpoint(
        "GET",
        f"{API}/me",
        "See who the caller is taken for",
        (Answer(200, "The caller.", OperatorView),),
        None,
        management.me,
    ),
    Endpoint(
        "GET",
        "/healthz",
        "See whether the process can work",
        (Answer(200, "It can.", HealthView),),
        public=management.health,
    ),
    Endpoint(
        "GET",
        "/openapi.json",
        "This description",
        (Answer(200, "The OpenAPI document.", JSON),),
        public=management.description,
    ),
    Endpoint(
        "GET",
        "/",
        "A page for people",
        (Answer(200, "What this is.", "text/html"),),
        public=management.home,
    ),
)

ENDPOINTS: Final = (*_CERTIFICATES, *_MASS, *_KEYS, *_ISSUERS, *_MANAGEMENT)
