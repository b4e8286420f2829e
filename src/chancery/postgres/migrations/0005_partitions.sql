-- What grows with every certificate lies by year, and is checked once a statement (docs/adr/0010). A serial number begins
-- with the day its certificate expires, so that intents and certificates lie by the year of their expiry:
-- (issuer, serial) is unique over all of them, a look-up by serial touches one partition, and retention drops a
-- partition whole. Serials of earlier releases lie in the first partition. All partitions are made here, for all
-- time: none is ever missing, and no process has the right to make one.
ALTER TABLE chancery.intent RENAME TO old_intent;
ALTER TABLE chancery.certificate RENAME TO old_certificate;
ALTER TABLE chancery.journal_event RENAME TO old_event;
ALTER TABLE chancery.tsa_token RENAME TO old_token;
DO $$
DECLARE one record;
BEGIN
    -- Every serial has the intent that it was reserved for; the intent's own key says the same from here on (R2).
    IF EXISTS (SELECT FROM chancery.serial AS s WHERE NOT EXISTS (
            SELECT FROM chancery.old_intent AS i WHERE (i.issuer_id, i.serial) = (s.issuer_id, s.serial))) THEN
        RAISE EXCEPTION 'a serial is reserved without an intent: no release wrote that, see `chancery auditor run`';
    END IF;
    -- Index names are the schema's; those of the new tables are the old ones.
    FOR one IN SELECT i.relname FROM pg_catalog.pg_index AS x JOIN pg_catalog.pg_class AS i ON i.oid = x.indexrelid
        JOIN pg_catalog.pg_class AS t ON t.oid = x.indrelid
        WHERE t.relnamespace = 'chancery'::regnamespace AND t.relname LIKE 'old\_%' LOOP
        EXECUTE format('ALTER INDEX chancery.%I RENAME TO %I', one.relname, 'old_' || one.relname);
    END LOOP;
END $$;

CREATE TABLE chancery.intent (
    issuer_id        integer NOT NULL,
    serial           bytea NOT NULL,
    request_id       bigint NOT NULL,
    worker           text NOT NULL,
    tbs              bytea NOT NULL,
    not_after        timestamptz NOT NULL,
    profile          text NOT NULL,
    profile_version  integer NOT NULL,
    profile_sha256   bytea NOT NULL,
    recorded_at      timestamptz NOT NULL,
    PRIMARY KEY (serial, issuer_id),
    CHECK (octet_length(serial) BETWEEN 9 AND 20 AND get_byte(serial, 0) BETWEEN 1 AND 127)
) PARTITION BY RANGE (serial);
CREATE INDEX intent_request ON chancery.intent (request_id);

CREATE TABLE chancery.certificate (
    certificate_id  bigint GENERATED ALWAYS AS IDENTITY,
    issuer_id       integer NOT NULL,
    serial          bytea NOT NULL,
    request_id      bigint NOT NULL,
    der             bytea NOT NULL,
    subject         text NOT NULL,
    names           text[] NOT NULL,
    spki_sha256     bytea NOT NULL,
    not_before      timestamptz NOT NULL,
    not_after       timestamptz NOT NULL CHECK (not_after > not_before),
    profile         text NOT NULL,
    issued_at       timestamptz NOT NULL,
    PRIMARY KEY (serial, issuer_id)     -- in this order it also finds a serial whose issuer is not told
) PARTITION BY RANGE (serial);
CREATE INDEX certificate_id ON chancery.certificate (certificate_id);
CREATE INDEX certificate_spki ON chancery.certificate (spki_sha256);
CREATE INDEX certificate_subject ON chancery.certificate (subject text_pattern_ops);
CREATE INDEX certificate_names ON chancery.certificate USING gin (names);
CREATE INDEX certificate_fingerprint ON chancery.certificate (sha256(der));   -- finds an operator's certificate

CREATE TABLE chancery.journal_event (
    event_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body      text NOT NULL,
    kind      text NOT NULL GENERATED ALWAYS AS ((body::json) ->> 'kind') STORED,
    subject   text NOT NULL GENERATED ALWAYS AS ((body::json) ->> 'subject') STORED,
    writer    name NOT NULL DEFAULT current_user,
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id()
) PARTITION BY RANGE (event_id);
CREATE INDEX journal_event_xid ON chancery.journal_event (xid, event_id);
CREATE INDEX journal_event_subject ON chancery.journal_event (subject);

CREATE TABLE chancery.tsa_token (
    serial    numeric(50) NOT NULL CHECK (serial > 0),
    gen_time  timestamptz NOT NULL,
    hash_oid  text NOT NULL,
    imprint   bytea NOT NULL CHECK (octet_length(imprint) <= 64),
    policy    text NOT NULL,
    client    text NOT NULL,
    PRIMARY KEY (serial, gen_time)      -- the serial holds the time, to the microsecond
) PARTITION BY RANGE (gen_time);
CREATE INDEX tsa_token_imprint ON chancery.tsa_token (imprint);

-- By year at first, then in longer stretches that a later migration divides while they are next to empty.
DO $$
DECLARE
    starts integer[] := ARRAY[2026, 2027, 2028, 2029, 2030, 2031, 2032, 2037, 2047];
    days text; following text; n integer; name text; t text; lower text; upper text;
BEGIN
    FOR n IN 0 .. cardinality(starts) LOOP
        FOREACH t IN ARRAY ARRAY['intent', 'certificate', 'journal_event', 'tsa_token'] LOOP
            SELECT bound[1], bound[2] INTO lower, upper FROM (SELECT array_agg(
                CASE WHEN year IS NULL THEN NULL
                     -- As `ca.issuance.serial_prefix`: days since 1970 in two octets.
                     WHEN t IN ('intent', 'certificate')
                     THEN quote_literal(substring(int4send(make_date(year, 1, 1) - DATE '1970-01-01') FROM 3))
                     -- As `begin_year`.
                     WHEN t = 'journal_event' THEN (year * 1000000000000)::text
                     ELSE quote_literal(make_timestamptz(year, 1, 1, 0, 0, 0, 'UTC')) END ORDER BY place) AS bound
                FROM unnest(ARRAY[starts[n], starts[n + 1]]) WITH ORDINALITY AS ends (year, place)) AS bounds;
            name := t || '_' || CASE WHEN n = 0 THEN 'before' WHEN n = cardinality(starts) THEN 'later' ELSE starts[n]::text END;
            EXECUTE format('CREATE TABLE chancery.%I PARTITION OF chancery.%I FOR VALUES FROM (%s) TO (%s)',
                name, t, coalesce(lower, 'MINVALUE'), coalesce(upper, 'MAXVALUE'));
            -- Statement triggers are not inherited: what is called by its own name must not be emptied either.
            EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                            FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', name);
        END LOOP;
    END LOOP;
END $$;

INSERT INTO chancery.intent (issuer_id, serial, request_id, worker, tbs, not_after, profile, profile_version,
    profile_sha256, recorded_at)
SELECT issuer_id, serial, request_id, worker, tbs, not_after, profile, profile_version, profile_sha256, recorded_at
FROM chancery.old_intent ORDER BY recorded_at, request_id;
INSERT INTO chancery.certificate (certificate_id, issuer_id, serial, request_id, der, subject, names, spki_sha256,
    not_before, not_after, profile, issued_at) OVERRIDING SYSTEM VALUE
SELECT certificate_id, issuer_id, serial, request_id, der, subject, names, spki_sha256, not_before, not_after,
    profile, issued_at
FROM chancery.old_certificate ORDER BY certificate_id;
INSERT INTO chancery.journal_event (event_id, body, writer, xid) OVERRIDING SYSTEM VALUE
SELECT event_id, body, writer, xid FROM chancery.old_event ORDER BY event_id;
INSERT INTO chancery.tsa_token SELECT serial, gen_time, hash_oid, imprint, policy, client FROM chancery.old_token;
DO $$
DECLARE t text; key text; last bigint;
BEGIN
    -- Where each sequence was, not where its rows end: a number that was drawn and rolled back is not drawn again.
    FOR t, key IN VALUES ('certificate', 'certificate_id'), ('event', 'event_id') LOOP
        SELECT pg_sequence_last_value(pg_get_serial_sequence('chancery.old_' || t, key)::regclass) INTO last;
        PERFORM setval(pg_get_serial_sequence('chancery.' || CASE t WHEN 'event' THEN 'journal_event' ELSE t END, key),
            last) WHERE last IS NOT NULL;
    END LOOP;
END $$;

-- A request says which certificate answers it: one look-up, in one partition.
ALTER TABLE chancery.request ADD certificate_issuer_id integer, ADD certificate_serial bytea;
ALTER TABLE chancery.request DISABLE TRIGGER USER;
UPDATE chancery.request AS r SET certificate_issuer_id = c.issuer_id, certificate_serial = c.serial
FROM chancery.certificate AS c WHERE c.request_id = r.request_id AND r.state = 'done';
ALTER TABLE chancery.request ENABLE TRIGGER USER;
ALTER TABLE chancery.request ADD CHECK ((certificate_issuer_id IS NULL) = (certificate_serial IS NULL)
    AND (certificate_serial IS NULL OR state = 'done'));

ALTER TABLE chancery.certificate_status DROP CONSTRAINT certificate_status_issuer_id_serial_fkey;
DROP TABLE chancery.old_certificate, chancery.old_intent, chancery.serial, chancery.old_event,
    chancery.old_token;

-- Only the worker that holds a request may record an intent for it, and it keeps the request until it commits.
-- "Not in prerequisite state" is an outage to the worker: it stops using the batch and recovers. This also proves
-- that the request exists; what it points to is never deleted, so no row needs a lock for it but the request.
-- The inner FOR NO KEY UPDATE keeps the planner from making a join of it, which would read the whole table for every
-- batch; IS NOT DISTINCT FROM from using the index on worker, where all of the batch and its dead entries stand.
CREATE OR REPLACE FUNCTION chancery.intent_held() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE held bigint; wanted bigint; strange bigint;
BEGIN
    SELECT count(locked), count(*), count(*) FILTER (WHERE i.issuer_id IS NULL) INTO held, wanted, strange
    FROM added AS a LEFT JOIN chancery.issuer AS i USING (issuer_id) LEFT JOIN LATERAL (
        SELECT true FROM chancery.request AS r
        WHERE r.request_id = a.request_id AND r.state = 'taken' AND r.worker IS NOT DISTINCT FROM a.worker
        FOR NO KEY UPDATE OF r) AS locked ON true;
    IF strange > 0 THEN
        RAISE EXCEPTION 'an intent of an issuer that does not exist' USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF held <> wanted THEN
        RAISE EXCEPTION 'an intent for a request that its worker does not hold'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER intent_held AFTER INSERT ON chancery.intent
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chancery.intent_held();

-- A certificate answers the very request that its intent names, and that request says so: it is settled once, which
-- is why no request has two certificates. Between the least and the greatest serial no other partition is opened, and
-- OFFSET 0 makes it one look by the key for each.
CREATE FUNCTION chancery.certificate_intended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE serials bytea[]; lowest bytea; highest bytea; intended bigint; answered bigint;
BEGIN
    SELECT array_agg(serial ORDER BY serial) INTO serials FROM added;
    lowest := serials[1];
    highest := serials[cardinality(serials)];
    SELECT count(intent), count(request) INTO intended, answered FROM added AS a LEFT JOIN LATERAL (
        SELECT true FROM chancery.intent AS i
        WHERE i.serial = a.serial AND i.issuer_id = a.issuer_id AND i.request_id = a.request_id
          AND i.serial BETWEEN lowest AND highest OFFSET 0) AS intent ON true LEFT JOIN LATERAL (
        SELECT true FROM chancery.request AS r
        WHERE r.request_id = a.request_id AND r.state = 'done'
          AND r.certificate_issuer_id = a.issuer_id AND r.certificate_serial = a.serial
        OFFSET 0) AS request ON true;
    IF intended <> cardinality(serials) THEN
        RAISE EXCEPTION 'a certificate without an intent' USING ERRCODE = 'foreign_key_violation';
    END IF;
    IF answered <> cardinality(serials) THEN
        RAISE EXCEPTION 'a certificate that is not the one of its request' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER certificate_intended AFTER INSERT ON chancery.certificate
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chancery.certificate_intended();

CREATE FUNCTION chancery.status_intended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE serials bytea[]; lowest bytea; highest bytea; intended bigint;
BEGIN
    SELECT array_agg(serial ORDER BY serial) INTO serials FROM added;
    lowest := serials[1];
    highest := serials[cardinality(serials)];
    SELECT count(*) INTO intended FROM added AS a CROSS JOIN LATERAL (
        SELECT FROM chancery.intent AS i
        WHERE i.serial = a.serial AND i.issuer_id = a.issuer_id AND i.serial BETWEEN lowest AND highest OFFSET 0) AS known;
    IF intended <> cardinality(serials) THEN
        RAISE EXCEPTION 'a status without an intent' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER status_intended AFTER INSERT ON chancery.certificate_status
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chancery.status_intended();
ALTER TABLE chancery.journal_event ADD CHECK (octet_length(body) <= 1048576) NOT VALID;

-- What retention took away (`chancery db retention`); the same is in the journal. `below` is what the partition's key
-- is below, in text: a serial in hex, an event_id, a time.
CREATE TABLE chancery.retired (
    partition   text PRIMARY KEY,
    source      text NOT NULL CHECK (source IN ('certificate', 'journal_event', 'tsa_token')),
    at_least    text,
    below       text NOT NULL,
    rows        bigint NOT NULL CHECK (rows >= 0),
    newest      timestamptz,
    retired_at  timestamptz NOT NULL
);
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['intent', 'certificate', 'journal_event', 'tsa_token', 'retired'] LOOP
        EXECUTE format('CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.%I
                        FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['intent', 'certificate', 'journal_event', 'tsa_token', 'retired'] LOOP
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
END $$;

-- The events of a year are numbered from the year and twelve digits, which is how they come to lie in its partition.
-- The worker calls this; as long as nobody does, events go on in the year before, and nothing stops.
CREATE FUNCTION chancery.begin_year() RETURNS void LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    numbers regclass := pg_get_serial_sequence('chancery.journal_event', 'event_id');
    first bigint := extract(year FROM now() AT TIME ZONE 'UTC')::bigint * 1000000000000;
BEGIN
    -- Two at once take turns. Forwards only: a number that was passed is not drawn again.
    PERFORM pg_advisory_xact_lock(1128814340);
    IF coalesce(pg_sequence_last_value(numbers), 0) < first THEN
        PERFORM setval(numbers, first);
    END IF;
END $$;
