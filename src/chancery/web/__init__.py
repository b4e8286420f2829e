"""Transport only, HTTP in, one call, HTTP out."""
