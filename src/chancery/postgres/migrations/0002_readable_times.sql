-- What the registration side writes, the worker reads: a time that no calendar of its language has (infinity, before
-- the year 1, after 9999) would stop it at that row for good.
UPDATE chancery.revocation_request SET invalidity_date = NULL
WHERE state = 'waiting' AND NOT invalidity_date BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z';
-- RFC 5280 4.1.2.5: its times begin in 1950.
ALTER TABLE chancery.revocation_request
    ADD CHECK (invalidity_date BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z'),
    ADD CHECK (received_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z');
ALTER TABLE chancery.request
    ADD CHECK (received_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z');
