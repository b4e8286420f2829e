"""pkilint in this process: its lints of RFC 5280, of the TLS Baseline Requirements, or of EN 319 412."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Collection
from typing import Any, Literal

from chancery.errors import ErrorType, OperatorError, PKIError

RuleSet = Literal["rfc5280", "tls-br", "etsi"]
MAX_FINDINGS = 5
"""Most findings that are repeated; the rest are counted."""


class PkilintLinter:
    """
    Asks pkilint about each certificate; a finding above notice is something against it.

    `rules` is the set of rules, which for `tls-br` and `etsi` depend on the kind of certificate that pkilint takes
    it for. `ignore` are codes of findings that an installation explains, such as host names without a dot. pkilint
    is the installation's to add: OperatorError says so when it is not there.
    """

    def __init__(self, rules: RuleSet = "rfc5280", ignore: Collection[str] = ()) -> None:
        self._rules = rules
        self._ignore = frozenset(ignore)
        _module("pkilint")

    def __call__(self, certificate: bytes) -> str | None:
        """Return what pkilint has against this certificate (DER), or None; see `chancery.linters`."""
        try:
            found = sorted(findings(self._rules, certificate) - self._ignore)
        except Exception as error:  # noqa: BLE001 - whatever another's parser throws, it gave no answer
            what = f"the linter pkilint failed: {type(error).__name__}: {str(error)[:200]}"
            raise PKIError(ErrorType.SYSTEM_UNAVAIL, what) from None
        if not found:
            return None
        more = f" and {len(found) - MAX_FINDINGS} more" if len(found) > MAX_FINDINGS else ""
        return f"pkilint: {', '.join(found[:MAX_FINDINGS])}{more}"


def _module(name: str) -> Any:
    # Only those pay for it who ask for it: it takes about a second to load.
    try:
        return importlib.import_module(name)
    except ImportError:
        raise OperatorError(
            "a linter is pkilint, which is not installed here",
            "install the `pkilint` extra of this package beside it, or take `pkilint` out of `linters`",
        ) from None


def findings(rules: RuleSet, certificate: bytes) -> set[str]:
    """Return the codes of pkilint's findings above notice about a certificate (DER)."""
    document = (
        _module("pkilint.loader").RFC5280CertificateDocumentLoader().load_document(certificate, "certificate")
    )
    severity = _module("pkilint.validation").ValidationFindingSeverity
    if rules == "rfc5280":
        results = _rfc5280().validate(document.root)
    else:
        name = {"tls-br": "pkilint.cabf.serverauth", "etsi": "pkilint.etsi"}[rules]
        kind = _module(name).determine_certificate_type(document)
        validator, filters = _typed(rules, kind)
        results, _ = _module("pkilint.finding_filter").filter_results(filters, validator.validate(document.root))
    return {
        found.finding.code
        for result in results
        for found in result.finding_descriptions
        # Less is graver.
        if found.finding.severity < severity.NOTICE
    }


@functools.cache
def _rfc5280() -> Any:
    certificate, name = _module("pkilint.pkix.certificate"), _module("pkilint.pkix.name")
    extension = _module("pkilint.pkix.extension")
    return certificate.create_pkix_certificate_validator_container(
        certificate.create_decoding_validators(name.ATTRIBUTE_TYPE_MAPPINGS, extension.EXTENSION_MAPPINGS),
        [
            certificate.create_issuer_validator_container([]),
            certificate.create_validity_validator_container(),
            certificate.create_subject_validator_container([]),
            certificate.create_extensions_validator_container([]),
            certificate.create_spki_validator_container([]),
        ],
    )


@functools.lru_cache(maxsize=64)
def _typed(rules: RuleSet, kind: Any) -> tuple[Any, Any]:
    """Return pkilint's validator and finding filters for this kind of certificate, made once each."""
    create = _module("pkilint.pkix.certificate").create_pkix_certificate_validator_container
    if rules == "tls-br":
        rule_set = _module("pkilint.cabf.serverauth")
        validator = create(rule_set.create_decoding_validators(), rule_set.create_validators(kind))
        return validator, rule_set.create_serverauth_finding_filters(kind)
    rule_set = _module("pkilint.etsi")
    validator = create(rule_set.create_decoding_validators(kind), rule_set.create_validators(kind))
    return validator, rule_set.create_etsi_finding_filters(kind)
