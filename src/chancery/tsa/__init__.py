"""The timestamping authority."""
