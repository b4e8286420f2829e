"""Keys in a PKCS#11 token that look like any other private key."""
