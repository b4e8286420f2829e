"""Chancery: a PKI suite that an organisation can run itself."""
