"""The CA without a network, and the signed bundles that leave it."""
