-- The life of issuers. A row of `issuer` is one name with one key, for ever; what happens to it is added beside it.
-- All of these tables are insert-only: who issues now is read from the newest act.

-- Further certificates of the same name and key: made anew (the newest of these is the current one), or issued by
-- another CA (cross-certification). The foreign key says that name and key are the issuer's.
ALTER TABLE chancery.issuer ADD UNIQUE (issuer_id, subject, spki_sha256);
CREATE TABLE chancery.issuer_certificate (
    certificate_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id       integer NOT NULL,
    kind            text NOT NULL CHECK (kind IN ('renewal', 'cross')),
    subject         text NOT NULL,
    certificate     bytea NOT NULL UNIQUE,
    spki_sha256     bytea NOT NULL,
    not_before      timestamptz NOT NULL,
    not_after       timestamptz NOT NULL,
    parent_id       integer REFERENCES chancery.issuer CHECK (parent_id <> issuer_id),
    added_at        timestamptz NOT NULL,
    FOREIGN KEY (issuer_id, subject, spki_sha256) REFERENCES chancery.issuer (issuer_id, subject, spki_sha256)
);
CREATE INDEX issuer_certificate_issuer ON chancery.issuer_certificate (issuer_id, certificate_id);

-- Where an issuer's key lives, as it was when the issuer came in.
CREATE TABLE chancery.issuer_key (
    issuer_id  integer PRIMARY KEY REFERENCES chancery.issuer,
    place      text NOT NULL CHECK (place IN ('token', 'offline', 'external')),
    module     text CHECK (length(module) BETWEEN 1 AND 500),
    device     text CHECK (length(device) BETWEEN 1 AND 200),
    software   boolean,
    imported   boolean NOT NULL DEFAULT false,      -- R7: a key that was outside a token once
    CHECK ((place = 'token') = (software IS NOT NULL)),
    CHECK (place = 'token' OR NOT imported)
);

CREATE TABLE chancery.issuer_act (
    act_id     integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    issuer_id  integer NOT NULL REFERENCES chancery.issuer,
    act        text NOT NULL CHECK (act IN ('activate', 'deactivate', 'default')),
    at         timestamptz NOT NULL,
    actor      text NOT NULL CHECK (length(actor) BETWEEN 1 AND 200),
    reason     text NOT NULL CHECK (length(reason) <= 1000)
);
CREATE INDEX issuer_act_issuer ON chancery.issuer_act (issuer_id, act_id);
CREATE INDEX issuer_act_default ON chancery.issuer_act (act_id) WHERE act = 'default';
-- The lock makes two who act at once take turns. There is one default at most: the newest act says which. While it is
-- deactivated, requests that name no issuer are refused.
CREATE FUNCTION chancery.issuer_act_fits() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE held text; active boolean;
BEGIN
    PERFORM pg_advisory_xact_lock(1128814341, 0);
    SELECT key_label INTO held FROM chancery.issuer WHERE issuer_id = NEW.issuer_id;
    SELECT act = 'activate' INTO active FROM chancery.issuer_act
        WHERE issuer_id = NEW.issuer_id AND act <> 'default' ORDER BY act_id DESC LIMIT 1;
    active := coalesce(active, true);
    IF held IS NULL THEN
        RAISE EXCEPTION 'the key of issuer % is elsewhere: it cannot issue here', NEW.issuer_id
            USING ERRCODE = 'restrict_violation';
    ELSIF (NEW.act = 'activate') = active AND NEW.act <> 'default' THEN
        RAISE EXCEPTION 'issuer % is so already: %', NEW.issuer_id, NEW.act USING ERRCODE = 'restrict_violation';
    ELSIF NEW.act = 'default' AND NOT active THEN
        RAISE EXCEPTION 'issuer % is deactivated and cannot be the default', NEW.issuer_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER issuer_act_fits BEFORE INSERT ON chancery.issuer_act
    FOR EACH ROW EXECUTE FUNCTION chancery.issuer_act_fits();

-- What a CA that was taken over had revoked before: its certificates were never issued here, so that no intent
-- stands behind these statuses but this row.
CREATE TABLE chancery.imported_revocation (
    issuer_id        integer NOT NULL REFERENCES chancery.issuer,
    serial           bytea NOT NULL CHECK (octet_length(serial) BETWEEN 1 AND 20),
    revoked_at       timestamptz NOT NULL,
    reason           smallint NOT NULL,
    invalidity_date  timestamptz,
    crl_sha256       bytea NOT NULL CHECK (octet_length(crl_sha256) = 32),
    PRIMARY KEY (issuer_id, serial)
);
-- As before, but an imported revocation stands in for the intent.
CREATE OR REPLACE FUNCTION chancery.status_intended() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE serials bytea[]; lowest bytea; highest bytea; founded bigint;
BEGIN
    SELECT array_agg(serial ORDER BY serial) INTO serials FROM added;
    lowest := serials[1];
    highest := serials[cardinality(serials)];
    SELECT count(*) INTO founded FROM added AS a CROSS JOIN LATERAL (
        SELECT FROM chancery.intent AS i
        WHERE i.serial = a.serial AND i.issuer_id = a.issuer_id AND i.serial BETWEEN lowest AND highest OFFSET 0) AS known;
    IF founded = cardinality(serials) THEN
        RETURN NULL;
    END IF;
    IF EXISTS (SELECT FROM added AS a
               WHERE NOT EXISTS (SELECT FROM chancery.intent AS i WHERE i.serial = a.serial AND i.issuer_id = a.issuer_id)
               AND (a.state <> 'revoked' OR NOT EXISTS (
                   SELECT FROM chancery.imported_revocation AS m
                   WHERE m.issuer_id = a.issuer_id AND m.serial = a.serial))) THEN
        RAISE EXCEPTION 'a status of a serial that was never used' USING ERRCODE = 'foreign_key_violation';
    END IF;
    RETURN NULL;
END $$;

-- Every process looks again when something about issuers changed.
CREATE FUNCTION chancery.issuer_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_issuer', '');
    RETURN NULL;
END $$;
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['issuer', 'issuer_certificate', 'issuer_act'] LOOP
        EXECUTE format('CREATE TRIGGER issuer_notify AFTER INSERT ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.issuer_notify()', t);
    END LOOP;
    FOREACH t IN ARRAY ARRAY['issuer_certificate', 'issuer_key', 'issuer_act', 'imported_revocation'] LOOP
        EXECUTE format('CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.%I
                        FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change()', t);
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
END $$;
