"""Every object identifier once, beside the clause it comes from."""

from __future__ import annotations

# X.520 attribute types (RFC 5280 appendix A.1), by the names RFC 4514 and openssl use
ATTRIBUTES = {
    "CN": "2.5.4.3",
    "SN": "2.5.4.4",
    "serialNumber": "2.5.4.5",
    "C": "2.5.4.6",
    "L": "2.5.4.7",
    "ST": "2.5.4.8",
    "street": "2.5.4.9",
    "O": "2.5.4.10",
    "OU": "2.5.4.11",
    "title": "2.5.4.12",
    "GN": "2.5.4.42",
    "organizationIdentifier": "2.5.4.97",
    "emailAddress": "1.2.840.113549.1.9.1",
    "DC": "0.9.2342.19200300.100.1.25",
    "UID": "0.9.2342.19200300.100.1.1",
}

# Certificate and CRL extensions (RFC 5280 4.2, 5.2, 5.3)
SUBJECT_DIRECTORY_ATTRIBUTES = "2.5.29.9"
SUBJECT_KEY_IDENTIFIER = "2.5.29.14"
KEY_USAGE = "2.5.29.15"
PRIVATE_KEY_USAGE_PERIOD = "2.5.29.16"
SUBJECT_ALT_NAME = "2.5.29.17"
ISSUER_ALT_NAME = "2.5.29.18"
BASIC_CONSTRAINTS = "2.5.29.19"
CRL_NUMBER = "2.5.29.20"
CRL_REASON = "2.5.29.21"
INVALIDITY_DATE = "2.5.29.24"
CERTIFICATE_ISSUER = "2.5.29.29"
DELTA_CRL_INDICATOR = "2.5.29.27"
ISSUING_DISTRIBUTION_POINT = "2.5.29.28"
EXPIRED_CERTS_ON_CRL = "2.5.29.60"
NAME_CONSTRAINTS = "2.5.29.30"
CRL_DISTRIBUTION_POINTS = "2.5.29.31"
CERTIFICATE_POLICIES = "2.5.29.32"
POLICY_MAPPINGS = "2.5.29.33"
POLICY_CONSTRAINTS = "2.5.29.36"
INHIBIT_ANY_POLICY = "2.5.29.54"
AUTHORITY_KEY_IDENTIFIER = "2.5.29.35"
EXTENDED_KEY_USAGE = "2.5.29.37"
FRESHEST_CRL = "2.5.29.46"
AUTHORITY_INFO_ACCESS = "1.3.6.1.5.5.7.1.1"
SUBJECT_INFO_ACCESS = "1.3.6.1.5.5.7.1.11"
ANY_POLICY = "2.5.29.32.0"
AD_OCSP = "1.3.6.1.5.5.7.48.1"
AD_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"
AD_TIME_STAMPING = "1.3.6.1.5.5.7.48.3"
AD_CA_REPOSITORY = "1.3.6.1.5.5.7.48.5"
QT_CPS = "1.3.6.1.5.5.7.2.1"
QT_NOTICE = "1.3.6.1.5.5.7.2.2"

# Extensions of other documents: EN 319 412-5 4.1, RFC 7633, RFC 6962 3
QC_STATEMENTS = "1.3.6.1.5.5.7.1.3"
TLS_FEATURE = "1.3.6.1.5.5.7.1.24"
SCT_LIST = "1.3.6.1.4.1.11129.2.4.2"
PRECERT_POISON = "1.3.6.1.4.1.11129.2.4.3"

# Names of persons (RFC 9598 3; Microsoft's user principal name)
SMTP_UTF8_MAILBOX = "1.3.6.1.5.5.7.8.9"
UPN = "1.3.6.1.4.1.311.20.2.3"

# Certificate templates of Windows ([MS-WCCE] 2.2.2.7.7)
MS_TEMPLATE_NAME = "1.3.6.1.4.1.311.20.2"
MS_TEMPLATE = "1.3.6.1.4.1.311.21.7"
MS_APPLICATION_POLICIES = "1.3.6.1.4.1.311.21.10"

# PKCS #9 (RFC 2985 5.4.2)
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"

# Statements of EN 319 412-5 4.2 and 4.3; RFC 3739 3.2.6.1 and EN 319 412-1 5.1
QC_COMPLIANCE = "0.4.0.1862.1.1"
QC_LIMIT = "0.4.0.1862.1.2"
QC_RETENTION = "0.4.0.1862.1.3"
QC_SSCD = "0.4.0.1862.1.4"
QC_PDS = "0.4.0.1862.1.5"
QC_TYPE = "0.4.0.1862.1.6"
QC_TYPES = {"esign": "0.4.0.1862.1.6.1", "eseal": "0.4.0.1862.1.6.2", "web": "0.4.0.1862.1.6.3"}
QC_LEGISLATION = "0.4.0.1862.1.7"
QC_SYNTAX_V2 = "1.3.6.1.5.5.7.11.2"
QC_SEMANTICS = {"natural": "0.4.0.194121.1.1", "legal": "0.4.0.194121.1.2"}

# Extended key usages (RFC 5280 4.2.1.12)
EXTENDED_KEY_USAGES = {
    "serverAuth": "1.3.6.1.5.5.7.3.1",
    "clientAuth": "1.3.6.1.5.5.7.3.2",
    "codeSigning": "1.3.6.1.5.5.7.3.3",
    "emailProtection": "1.3.6.1.5.5.7.3.4",
    "timeStamping": "1.3.6.1.5.5.7.3.8",
    "OCSPSigning": "1.3.6.1.5.5.7.3.9",
}

# OCSP (RFC 6960 4.2.1, 4.4)
OCSP_BASIC = "1.3.6.1.5.5.7.48.1.1"
OCSP_NONCE = "1.3.6.1.5.5.7.48.1.2"
OCSP_CRL = "1.3.6.1.5.5.7.48.1.3"
OCSP_RESPONSE = "1.3.6.1.5.5.7.48.1.4"
OCSP_NOCHECK = "1.3.6.1.5.5.7.48.1.5"
OCSP_ARCHIVE_CUTOFF = "1.3.6.1.5.5.7.48.1.6"
OCSP_PREFERRED_ALGORITHMS = "1.3.6.1.5.5.7.48.1.8"
OCSP_EXTENDED_REVOKE = "1.3.6.1.5.5.7.48.1.9"

# CMS (RFC 5652) and timestamping (RFC 3161, 5816)
SIGNED_DATA = "1.2.840.113549.1.7.2"
SPC_TIME_STAMP_REQUEST = "1.3.6.1.4.1.311.3.2.1"  # of Authenticode, before RFC 3161
CONTENT_TYPE = "1.2.840.113549.1.9.3"
MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
SIGNING_TIME = "1.2.840.113549.1.9.5"
TST_INFO = "1.2.840.113549.1.9.16.1.4"
QTST_STATEMENT = "0.4.0.19422.1.1"  # EN 319 422 B: esi4-qtstStatement-1
SIGNING_CERTIFICATE_V2 = "1.2.840.113549.1.9.16.2.47"

# Keys and signatures of lattices (RFC 9881 2, RFC 9935 3): parameters absent
ML_DSA = {
    "ml-dsa-44": "2.16.840.1.101.3.4.3.17",
    "ml-dsa-65": "2.16.840.1.101.3.4.3.18",
    "ml-dsa-87": "2.16.840.1.101.3.4.3.19",
}
ML_KEM = {
    "ml-kem-512": "2.16.840.1.101.3.4.4.1",
    "ml-kem-768": "2.16.840.1.101.3.4.4.2",
    "ml-kem-1024": "2.16.840.1.101.3.4.4.3",
}

# Attributes of certification requests (RFC 2985 5.4.2, RFC 9883 3)
EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
STATEMENT_OF_POSSESSION = "1.3.6.1.4.1.22112.2.1"

# Digests (RFC 5754, RFC 8702)
SHA1 = "1.3.14.3.2.26"
SHA256 = "2.16.840.1.101.3.4.2.1"
SHA384 = "2.16.840.1.101.3.4.2.2"
SHA512 = "2.16.840.1.101.3.4.2.3"
SHA3_256 = "2.16.840.1.101.3.4.2.8"
SHA3_384 = "2.16.840.1.101.3.4.2.9"
SHA3_512 = "2.16.840.1.101.3.4.2.10"
