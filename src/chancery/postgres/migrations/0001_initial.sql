-- The first schema. Forward only. History tables (serial, intent, certificate, crl, journal_*, tsa_token)
-- are insert-only by grant and by trigger; certificate_status changes forwards only.
CREATE SCHEMA chancery;

CREATE FUNCTION chancery.refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% on %.% is refused: the table is history', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'restrict_violation';
END $$;

CREATE TABLE chancery.issuer (
    issuer_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    subject      text NOT NULL,
    certificate  bytea NOT NULL,
    spki_sha256  bytea NOT NULL CHECK (octet_length(spki_sha256) = 32),
    not_before   timestamptz NOT NULL,
    not_after    timestamptz NOT NULL,
    parent_id    integer REFERENCES chancery.issuer,
    token_label  text,          -- null: the key lives elsewhere (an offline root)
    key_label    text,
    added_at     timestamptz NOT NULL,
    UNIQUE (certificate)
);

CREATE TABLE chancery.profile (
    name      text NOT NULL,
    version   integer NOT NULL CHECK (version > 0),
    sha256    bytea NOT NULL CHECK (octet_length(sha256) = 32),
    source    text NOT NULL,
    added_at  timestamptz NOT NULL,
    PRIMARY KEY (name, sha256)
);

CREATE TABLE chancery.operator (
    fingerprint  bytea PRIMARY KEY CHECK (octet_length(fingerprint) = 32),   -- SHA-256 of the certificate's DER
    name         text NOT NULL UNIQUE CHECK (length(name) BETWEEN 1 AND 200),
    roles        text[] NOT NULL CHECK (
        cardinality(roles) > 0
        AND roles <@ ARRAY['administrator', 'officer', 'requestor', 'auditor']
        -- An auditor does nothing but audit.
        AND NOT ('auditor' = ANY (roles) AND cardinality(roles) > 1)),
    profiles     text[],         -- null: every profile
    added_at     timestamptz NOT NULL,
    removed_at   timestamptz
);
-- Removed for good: neither brought back nor changed.
CREATE FUNCTION chancery.operator_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.removed_at IS NOT NULL OR NEW.removed_at IS NULL
       OR (NEW.fingerprint, NEW.name, NEW.roles, NEW.profiles, NEW.added_at)
          IS DISTINCT FROM (OLD.fingerprint, OLD.name, OLD.roles, OLD.profiles, OLD.added_at) THEN
        RAISE EXCEPTION 'operator % can only be removed, once', OLD.name USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER operator_forwards BEFORE UPDATE ON chancery.operator
    FOR EACH ROW EXECUTE FUNCTION chancery.operator_forwards();
CREATE TRIGGER operator_kept BEFORE DELETE ON chancery.operator
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();

CREATE TABLE chancery.request (
    request_id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    transaction_id  text NOT NULL CHECK (length(transaction_id) BETWEEN 1 AND 200),
    protocol        text NOT NULL,
    requestor       text NOT NULL,
    profile         text NOT NULL,
    issuer          text,
    csr             bytea NOT NULL CHECK (octet_length(csr) <= 65536),
    names           text[] NOT NULL,
    fingerprint     bytea NOT NULL,
    received_at     timestamptz NOT NULL,
    state           text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'taken', 'done', 'refused')),
    worker          text,
    taken_at        timestamptz,
    error           text,
    detail          text,
    UNIQUE (requestor, transaction_id),
    CHECK (state = 'waiting' OR worker IS NOT NULL),
    CHECK ((state = 'refused') = (error IS NOT NULL))
);
CREATE INDEX request_waiting ON chancery.request (request_id) WHERE state = 'waiting';
-- Where a worker's unmarked intents can be: a refused or returned request may have left one behind.
CREATE INDEX request_held ON chancery.request (worker) WHERE state <> 'done' AND worker IS NOT NULL;

-- Waiting -> taken -> done or refused, or back to waiting; a settled request stays settled. What was asked
-- is kept by grant.
CREATE FUNCTION chancery.request_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'request % cannot go from % to %', OLD.request_id, OLD.state, NEW.state
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER request_forwards BEFORE UPDATE ON chancery.request
    FOR EACH ROW WHEN (NOT (
        (OLD.state = 'waiting' AND NEW.state = 'taken')
        OR (OLD.state = 'taken' AND NEW.state IN ('waiting', 'done', 'refused'))))
    EXECUTE FUNCTION chancery.request_forwards();
CREATE TRIGGER request_kept BEFORE DELETE ON chancery.request
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();

-- One notification per statement wakes the worker; PostgreSQL folds equal ones of a transaction into one.
CREATE FUNCTION chancery.work_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_request', '');
    RETURN NULL;
END $$;
CREATE TRIGGER request_notify AFTER INSERT ON chancery.request
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.work_notify();

-- The ids of settled requests, by comma; 350 ids of 20 octets stay under the 8000 of a payload.
CREATE FUNCTION chancery.request_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_outcome', string_agg(id::text, ','))
    FROM (SELECT request_id AS id, (row_number() OVER () - 1) / 350 AS part
          FROM changed WHERE state IN ('done', 'refused')) AS settled
    GROUP BY part;
    IF EXISTS (SELECT FROM changed WHERE state = 'waiting') THEN
        PERFORM pg_notify('chancery_request', '');
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER request_changed AFTER UPDATE ON chancery.request
    REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION chancery.request_changed();

CREATE TABLE chancery.serial (
    issuer_id    integer NOT NULL REFERENCES chancery.issuer,
    serial       bytea NOT NULL CHECK (octet_length(serial) BETWEEN 9 AND 20 AND get_byte(serial, 0) BETWEEN 1 AND 127),
    PRIMARY KEY (issuer_id, serial)
);

CREATE TABLE chancery.intent (
    issuer_id        integer NOT NULL,
    serial           bytea NOT NULL,
    request_id       bigint NOT NULL REFERENCES chancery.request,
    worker           text NOT NULL,
    tbs              bytea NOT NULL,
    not_after        timestamptz NOT NULL,
    profile          text NOT NULL,
    profile_version  integer NOT NULL,
    profile_sha256   bytea NOT NULL,
    recorded_at      timestamptz NOT NULL,
    PRIMARY KEY (issuer_id, serial),
    UNIQUE (request_id, issuer_id, serial),
    FOREIGN KEY (issuer_id, serial) REFERENCES chancery.serial
);

-- Only the worker that holds a request may record an intent for it, and it keeps the request until it commits.
-- "Not in prerequisite state" is an outage to the worker: it stops using the batch and recovers.
CREATE FUNCTION chancery.intent_held() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE held bigint;
BEGIN
    SELECT count(*) INTO held FROM (
        SELECT FROM chancery.request AS r JOIN added AS a USING (request_id)
        WHERE r.state = 'taken' AND r.worker = a.worker
        FOR NO KEY UPDATE OF r) AS locked;
    IF held <> (SELECT count(*) FROM added) THEN
        RAISE EXCEPTION 'an intent for a request that its worker does not hold'
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER intent_held AFTER INSERT ON chancery.intent
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chancery.intent_held();

CREATE TABLE chancery.certificate (
    certificate_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id       integer NOT NULL,
    serial          bytea NOT NULL,
    request_id      bigint NOT NULL UNIQUE REFERENCES chancery.request,
    der             bytea NOT NULL,
    subject         text NOT NULL,
    names           text[] NOT NULL,
    spki_sha256     bytea NOT NULL,
    not_before      timestamptz NOT NULL,
    not_after       timestamptz NOT NULL CHECK (not_after > not_before),
    profile         text NOT NULL,
    issued_at       timestamptz NOT NULL,
    UNIQUE (serial, issuer_id),     -- in this order it also finds a serial whose issuer is not told
    -- The certificate answers the very request that its intent names.
    FOREIGN KEY (request_id, issuer_id, serial) REFERENCES chancery.intent (request_id, issuer_id, serial)
);
CREATE INDEX certificate_spki ON chancery.certificate (spki_sha256);
CREATE INDEX certificate_subject ON chancery.certificate (subject text_pattern_ops);
CREATE INDEX certificate_names ON chancery.certificate USING gin (names);
CREATE INDEX certificate_fingerprint ON chancery.certificate (sha256(der));   -- finds an operator's certificate

CREATE TABLE chancery.certificate_status (
    issuer_id        integer NOT NULL,
    serial           bytea NOT NULL,
    state            text NOT NULL CHECK (state IN ('good', 'revoked', 'unconfirmed')),
    not_after        timestamptz NOT NULL,
    revoked_at       timestamptz,
    reason           smallint CHECK (reason IN (0, 1, 2, 3, 4, 5, 9, 10)),
    invalidity_date  timestamptz,
    changed_at       timestamptz NOT NULL,
    changed_xid      xid8 NOT NULL DEFAULT pg_current_xact_id(),      -- see crl.snapshot
    PRIMARY KEY (issuer_id, serial),
    FOREIGN KEY (issuer_id, serial) REFERENCES chancery.intent,
    CHECK ((state = 'revoked') = (revoked_at IS NOT NULL)),
    CHECK ((state = 'revoked') = (reason IS NOT NULL))
);
CREATE INDEX certificate_status_revoked ON chancery.certificate_status (issuer_id, serial) WHERE state = 'revoked';
CREATE INDEX certificate_status_changed ON chancery.certificate_status (issuer_id, changed_at) WHERE state = 'revoked';
CREATE INDEX certificate_status_xid ON chancery.certificate_status (issuer_id, changed_xid) WHERE state = 'revoked';

CREATE FUNCTION chancery.status_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.issuer_id, NEW.serial, NEW.not_after) IS DISTINCT FROM (OLD.issuer_id, OLD.serial, OLD.not_after)
       OR OLD.state = 'revoked' OR NEW.state <> 'revoked' THEN
        RAISE EXCEPTION 'certificate status goes forwards only: % to %', OLD.state, NEW.state
            USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END $$;
CREATE TRIGGER status_forwards BEFORE UPDATE ON chancery.certificate_status
    FOR EACH ROW EXECUTE FUNCTION chancery.status_forwards();
CREATE TRIGGER status_kept BEFORE DELETE ON chancery.certificate_status
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();

-- 'issuer_id:serial in hex', so that every responder drops its cached answer at commit.
CREATE FUNCTION chancery.status_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_status', NEW.issuer_id || ':' || encode(NEW.serial, 'hex'));
    RETURN NULL;
END $$;
CREATE TRIGGER status_notify AFTER UPDATE ON chancery.certificate_status
    FOR EACH ROW EXECUTE FUNCTION chancery.status_notify();
-- A serial is revoked without a status before it when only its intent is known.
CREATE TRIGGER status_notify_new AFTER INSERT ON chancery.certificate_status
    FOR EACH ROW WHEN (NEW.state <> 'good') EXECUTE FUNCTION chancery.status_notify();

CREATE TABLE chancery.revocation_request (
    revocation_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id        integer NOT NULL REFERENCES chancery.issuer,
    serial           bytea NOT NULL CHECK (octet_length(serial) BETWEEN 1 AND 20),
    reason           smallint NOT NULL CHECK (reason IN (0, 1, 2, 3, 4, 5, 9, 10)),
    invalidity_date  timestamptz,
    requestor        text NOT NULL,
    received_at      timestamptz NOT NULL,
    state            text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'done', 'refused')),
    detail           text
);
CREATE INDEX revocation_waiting ON chancery.revocation_request (revocation_id) WHERE state = 'waiting';
CREATE FUNCTION chancery.revocation_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'revocation request % is settled', OLD.revocation_id USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER revocation_forwards BEFORE UPDATE ON chancery.revocation_request
    FOR EACH ROW WHEN (OLD.state <> 'waiting') EXECUTE FUNCTION chancery.revocation_forwards();
CREATE TRIGGER revocation_kept BEFORE DELETE ON chancery.revocation_request
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER revocation_notify AFTER INSERT ON chancery.revocation_request
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.work_notify();
CREATE FUNCTION chancery.revocation_settled() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_outcome', 'r' || NEW.revocation_id);
    RETURN NULL;
END $$;
CREATE TRIGGER revocation_settled AFTER UPDATE ON chancery.revocation_request
    FOR EACH ROW EXECUTE FUNCTION chancery.revocation_settled();

CREATE TABLE chancery.crl_number (
    issuer_id  integer NOT NULL REFERENCES chancery.issuer,
    number     bigint NOT NULL CHECK (number > 0),
    PRIMARY KEY (issuer_id, number)
);

CREATE TABLE chancery.crl (
    issuer_id    integer NOT NULL,
    number       bigint NOT NULL,
    this_update  timestamptz NOT NULL,
    next_update  timestamptz NOT NULL CHECK (next_update > this_update),
    covers       timestamptz NOT NULL,
    -- What the entries were read from: a revocation that commits later is told by it even when its clock was
    -- behind. Null when the CRL was read from elsewhere; then `covers` decides.
    snapshot     pg_snapshot,
    der          bytea NOT NULL,
    PRIMARY KEY (issuer_id, number),
    FOREIGN KEY (issuer_id, number) REFERENCES chancery.crl_number
);

-- R15. The lock makes two writers take turns, so that each sees the other's number.
CREATE FUNCTION chancery.crl_number_increasing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1128814339, NEW.issuer_id);
    IF EXISTS (SELECT FROM chancery.crl_number WHERE issuer_id = NEW.issuer_id AND number >= NEW.number) THEN
        RAISE EXCEPTION 'CRLNumber % of issuer % was passed before', NEW.number, NEW.issuer_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER crl_number_increasing BEFORE INSERT ON chancery.crl_number
    FOR EACH ROW EXECUTE FUNCTION chancery.crl_number_increasing();
CREATE FUNCTION chancery.crl_increasing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1128814339, NEW.issuer_id);
    IF EXISTS (SELECT FROM chancery.crl WHERE issuer_id = NEW.issuer_id AND number >= NEW.number) THEN
        RAISE EXCEPTION 'CRLNumber % of issuer % is not above the published one', NEW.number, NEW.issuer_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM pg_notify('chancery_crl', NEW.issuer_id::text);
    RETURN NEW;
END $$;
CREATE TRIGGER crl_increasing BEFORE INSERT ON chancery.crl
    FOR EACH ROW EXECUTE FUNCTION chancery.crl_increasing();

CREATE TABLE chancery.crl_wish (
    wish_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id  integer NOT NULL REFERENCES chancery.issuer,
    requestor  text NOT NULL,
    asked_at   timestamptz NOT NULL,
    xid        xid8 NOT NULL DEFAULT pg_current_xact_id()             -- see crl.snapshot
);
CREATE INDEX crl_wish_asked ON chancery.crl_wish (issuer_id, asked_at);
CREATE INDEX crl_wish_xid ON chancery.crl_wish (issuer_id, xid);
CREATE TRIGGER crl_wish_notify AFTER INSERT ON chancery.crl_wish
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.work_notify();

-- The leaf of an event is SHA-256(00 || body): kind and subject are derived from the body; writer and xid are
-- not in the leaf. By xid the sequencer knows which events it has not seen: ids are drawn before they commit,
-- so a lower id may appear after a higher one.
CREATE TABLE chancery.journal_event (
    event_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    body      text NOT NULL,
    kind      text NOT NULL GENERATED ALWAYS AS ((body::json) ->> 'kind') STORED,
    subject   text NOT NULL GENERATED ALWAYS AS ((body::json) ->> 'subject') STORED,
    writer    name NOT NULL DEFAULT current_user,
    xid       xid8 NOT NULL DEFAULT pg_current_xact_id()
);
CREATE INDEX journal_event_xid ON chancery.journal_event (xid, event_id);
CREATE INDEX journal_event_subject ON chancery.journal_event (subject);

CREATE TABLE chancery.journal_leaf (
    leaf_index  bigint PRIMARY KEY CHECK (leaf_index >= 0),
    event_id    bigint NOT NULL UNIQUE,     -- no foreign key: a deleted event must not take its leaf along
    hash        bytea NOT NULL CHECK (octet_length(hash) = 32)
);

CREATE TABLE chancery.journal_checkpoint (
    tree_size  bigint PRIMARY KEY CHECK (tree_size > 0),
    root       bytea NOT NULL CHECK (octet_length(root) = 32),
    note       text NOT NULL,
    at         timestamptz NOT NULL
);

CREATE TABLE chancery.tsa_token (
    serial    numeric(50) PRIMARY KEY CHECK (serial > 0),
    gen_time  timestamptz NOT NULL,
    hash_oid  text NOT NULL,
    imprint   bytea NOT NULL CHECK (octet_length(imprint) <= 64),
    policy    text NOT NULL,
    client    text NOT NULL
);
CREATE INDEX tsa_token_imprint ON chancery.tsa_token (imprint);

DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['issuer', 'profile', 'serial', 'intent', 'certificate', 'crl_number', 'crl', 'crl_wish',
                             'journal_event', 'journal_leaf', 'journal_checkpoint', 'tsa_token'] LOOP
        EXECUTE format('CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.%I
                        FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change()', t);
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['operator', 'request', 'certificate_status', 'revocation_request'] LOOP
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
END $$;
