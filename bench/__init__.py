"""One program per headline figure; each prints one JSON object with its limit as its last line."""
