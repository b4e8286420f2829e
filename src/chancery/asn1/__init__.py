"""Bytes to values and back; the only importer of ASN.1 libraries."""
