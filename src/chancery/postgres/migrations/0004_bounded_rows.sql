-- What the registration side writes, the worker reads, 128 requests or 4096 events at a time: each has its bound, or
-- a few rows would take the worker's memory. Rows of before are history and stay (NOT VALID).
ALTER TABLE chancery.request
    ADD CHECK (length(protocol) <= 64) NOT VALID,
    ADD CHECK (length(requestor) <= 200) NOT VALID,
    ADD CHECK (length(profile) <= 200) NOT VALID,
    ADD CHECK (length(issuer) <= 200) NOT VALID,
    ADD CHECK (octet_length(fingerprint) <= 64) NOT VALID,
    -- As many as a profile can grant (`rules.MAX_NAMES`), in one row, none of them null.
    ADD CHECK (cardinality(names) <= 1000 AND coalesce(array_ndims(names), 1) = 1
        AND array_position(names, NULL) IS NULL AND octet_length(names::text) <= 524288) NOT VALID;
ALTER TABLE chancery.revocation_request ADD CHECK (length(requestor) <= 200) NOT VALID;
ALTER TABLE chancery.crl_wish
    ADD CHECK (length(requestor) <= 200) NOT VALID,
    -- After now, a wish could never be fulfilled: a CRL that was signed elsewhere is judged by its time.
    ADD CHECK (asked_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z') NOT VALID;
ALTER TABLE chancery.journal_event ADD CHECK (octet_length(body) <= 1048576) NOT VALID;
