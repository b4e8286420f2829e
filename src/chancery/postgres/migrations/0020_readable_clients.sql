-- As 0016: what the registration side writes, the timestamping authority reads all at once. A client with a time that no
-- calendar has, or a hole in a list, would keep every client out for good. Rows of before stay (NOT VALID).
ALTER TABLE chancery.tsa_client ADD CONSTRAINT tsa_client_readable CHECK (
    added_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z'
    AND (revoked_at IS NULL OR revoked_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z')
    AND length(added_by) <= 200 AND (per_second IS NULL OR per_second < 'Infinity')
    AND coalesce(array_ndims(networks), 1) = 1 AND array_position(networks, NULL) IS NULL
    AND (policies IS NULL OR array_ndims(policies) = 1 AND array_position(policies, NULL) IS NULL)
    AND octet_length(networks::text) <= 8192 AND octet_length(coalesce(policies, '{}')::text) <= 16384) NOT VALID;
