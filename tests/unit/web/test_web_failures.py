"""Every error has its word in every protocol, and nothing unexpected says more than systemFailure."""

from __future__ import annotations

import json
import pickle

import pytest

from chancery.errors import ErrorType, PKIError
from chancery.web import failures

# RFC 9810 5.2.3, RFC 3161 2.4.2, RFC 8894 3.2.1.4.5, RFC 6960 4.2.1, RFC 8555 6.7
CMP_WORDS = {
    "badAlg",
    "badMessageCheck",
    "badRequest",
    "badTime",
    "badCertId",
    "badDataFormat",
    "wrongAuthority",
    "incorrectData",
    "missingTimeStamp",
    "badPOP",
    "certRevoked",
    "certConfirmed",
    "wrongIntegrity",
    "badRecipientNonce",
    "timeNotAvailable",
    "unacceptedPolicy",
    "unacceptedExtension",
    "addInfoNotAvailable",
    "badSenderNonce",
    "badCertTemplate",
    "signerNotTrusted",
    "transactionIdInUse",
    "unsupportedVersion",
    "notAuthorized",
    "systemUnavail",
    "systemFailure",
    "duplicateCertReq",
}
TSP_WORDS = {
    "badAlg",
    "badRequest",
    "badDataFormat",
    "timeNotAvailable",
    "unacceptedPolicy",
    "unacceptedExtension",
    "addInfoNotAvailable",
    "systemFailure",
}
SCEP_WORDS = {"badAlg", "badMessageCheck", "badRequest", "badTime", "badCertId", None}
OCSP_WORDS = {"malformedRequest", "internalError", "tryLater", "sigRequired", "unauthorized"}
ACME_WORDS = {
    "accountDoesNotExist",
    "alreadyRevoked",
    "badCSR",
    "badNonce",
    "badPublicKey",
    "badRevocationReason",
    "badSignatureAlgorithm",
    "caa",
    "compound",
    "connection",
    "dns",
    "externalAccountRequired",
    "incorrectResponse",
    "invalidContact",
    "malformed",
    "orderNotReady",
    "rateLimited",
    "rejectedIdentifier",
    "serverInternal",
    "tls",
    "unauthorized",
    "unsupportedContact",
    "unsupportedIdentifier",
    "userActionRequired",
}
HTTP = {400, 403, 404, 409, 422, 500, 503}
TABLES = {
    "EST": (failures.EST, HTTP),
    "ACME": (failures.ACME, ACME_WORDS),
    "SCEP": (failures.SCEP, SCEP_WORDS),
    "CMP": (failures.CMP, CMP_WORDS),
    "TSP": (failures.TSP, TSP_WORDS),
    "OCSP": (failures.OCSP, OCSP_WORDS),
}


@pytest.mark.parametrize("type_", ErrorType)
@pytest.mark.parametrize("protocol", TABLES)
def test_every_error_has_a_word_in_every_protocol(protocol, type_):
    table, words = TABLES[protocol]
    assert table[type_] in words


@pytest.mark.parametrize("type_", ErrorType)
def test_every_error_is_a_problem_of_the_rest_interface(type_):
    failure = failures.of_error(PKIError(type_, "what is wrong"))
    problem = json.loads(failure.body)
    status, title = failures.REST[type_]
    assert status in HTTP
    expected = {"type": f"urn:chancery:error:{type_.value}", "title": title, "status": status}
    assert {**expected, "detail": "what is wrong"} == problem
    assert (status == 503) == (("retry-after", "5") in failure.headers)


@pytest.mark.parametrize("type_", [ErrorType.SYSTEM_UNAVAIL, ErrorType.SYSTEM_FAILURE])
def test_where_scep_has_no_word_the_http_status_is_a_server_error(type_):
    assert failures.SCEP[type_] is None
    assert failures.EST[type_] >= 500


def test_an_unexpected_exception_says_nothing():
    failure = failures.of_error(RuntimeError("the PIN is 1234"))
    assert 500 == failure.status
    assert {"type": "urn:chancery:error:systemFailure", "title": "The system failed", "status": 500} == json.loads(
        failure.body
    )


def test_a_stranger_is_challenged():
    failure = failures.of_error(failures.NotAuthenticatedError("a client certificate is needed"))
    assert 401 == failure.status
    assert "www-authenticate" in dict(failure.headers)
    again = pickle.loads(pickle.dumps(failures.NotAuthenticatedError("x")))
    assert (failures.NotAuthenticatedError, "x") == (type(again), again.detail)
