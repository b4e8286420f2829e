"""Issuing and revoking: the order is the product."""
