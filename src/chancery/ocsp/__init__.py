"""The OCSP responder as a function of its arguments, and its cache."""
