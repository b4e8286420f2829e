-- CAs whose keys are elsewhere, and what their CRLs say: the responder answers for them from here (RFC 6960 2.2).
-- Only what was signed under the pinned certificate comes in; the program that fetches it is `chancery_foreign`.
CREATE TABLE chancery.foreign_issuer (
    foreign_id   integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name         text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    certificate  bytea NOT NULL CHECK (octet_length(certificate) BETWEEN 1 AND 65536),
    spki_sha256  bytea NOT NULL CHECK (octet_length(spki_sha256) = 32),
    added_at     timestamptz NOT NULL CHECK (added_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z'),
    ended_at     timestamptz CHECK (ended_at >= added_at)
);
CREATE UNIQUE INDEX foreign_issuer_name ON chancery.foreign_issuer (name) WHERE ended_at IS NULL;
CREATE UNIQUE INDEX foreign_issuer_key ON chancery.foreign_issuer (spki_sha256) WHERE ended_at IS NULL;

-- The distribution points whose CRLs together list everything that this CA revokes.
CREATE TABLE chancery.foreign_point (
    point_id    integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    foreign_id  integer NOT NULL REFERENCES chancery.foreign_issuer,
    url         text NOT NULL CHECK (length(url) BETWEEN 1 AND 1000),
    UNIQUE (foreign_id, url)
);

-- Delegate certificates that this CA made for a key of the responder.
CREATE TABLE chancery.foreign_delegate (
    delegate_id  integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    foreign_id   integer NOT NULL REFERENCES chancery.foreign_issuer,
    certificate  bytea NOT NULL CHECK (octet_length(certificate) BETWEEN 1 AND 65536),
    spki_sha256  bytea NOT NULL CHECK (octet_length(spki_sha256) = 32),
    added_at     timestamptz NOT NULL,
    UNIQUE (foreign_id, certificate)
);

CREATE TABLE chancery.foreign_crl (
    crl_id       integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    point_id     integer NOT NULL REFERENCES chancery.foreign_point,
    number       numeric(50) NOT NULL CHECK (number >= 0),
    base_number  numeric(50) CHECK (base_number < number),
    this_update  timestamptz NOT NULL,
    next_update  timestamptz NOT NULL CHECK (next_update > this_update),
    sha256       bytea NOT NULL CHECK (octet_length(sha256) = 32),
    freshest     text CHECK (length(freshest) BETWEEN 1 AND 1000),
    imported_at  timestamptz NOT NULL
);
CREATE INDEX foreign_crl_point ON chancery.foreign_crl (point_id, number);

CREATE TABLE chancery.foreign_revoked (
    crl_id           integer NOT NULL REFERENCES chancery.foreign_crl,
    serial           bytea NOT NULL CHECK (octet_length(serial) BETWEEN 1 AND 64),
    revoked_at       timestamptz NOT NULL,
    reason           smallint NOT NULL CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 8, 9, 10)),
    invalidity_date  timestamptz,
    PRIMARY KEY (crl_id, serial)
);

-- One that is answered for here already is not foreign. As its owner, who sees every issuer.
CREATE FUNCTION chancery.foreign_issuer_fits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM chancery.issuer WHERE name = NEW.name OR spki_sha256 = NEW.spki_sha256) THEN
        RAISE EXCEPTION 'an issuer of this name or key is here already' USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER foreign_issuer_fits BEFORE INSERT ON chancery.foreign_issuer
    FOR EACH ROW EXECUTE FUNCTION chancery.foreign_issuer_fits();
-- It ends once, and nothing else about it changes.
CREATE FUNCTION chancery.foreign_issuer_ends() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.ended_at IS NOT NULL OR to_jsonb(NEW) - 'ended_at' <> to_jsonb(OLD) - 'ended_at' THEN
        RAISE EXCEPTION 'a foreign issuer only ends' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER foreign_issuer_ends BEFORE UPDATE ON chancery.foreign_issuer
    FOR EACH ROW EXECUTE FUNCTION chancery.foreign_issuer_ends();

-- Numbers and times of a point's CRLs only go up (RFC 5280 5.2.3), so that no old CRL can be brought in again; a delta
-- wants a complete CRL between its base and itself (5.2.4). The lock makes two imports take turns.
CREATE FUNCTION chancery.foreign_crl_fits() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE newest record;
BEGIN
    PERFORM pg_advisory_xact_lock(1128814342, NEW.point_id);
    IF EXISTS (SELECT FROM chancery.foreign_crl AS c WHERE c.point_id = NEW.point_id
               AND (c.base_number IS NULL) = (NEW.base_number IS NULL)
               AND (c.number >= NEW.number OR c.this_update > NEW.this_update)) THEN
        RAISE EXCEPTION 'there is a CRL as new as this one' USING ERRCODE = 'restrict_violation';
    END IF;
    IF NEW.base_number IS NOT NULL THEN
        SELECT c.number INTO newest FROM chancery.foreign_crl AS c
            WHERE c.point_id = NEW.point_id AND c.base_number IS NULL ORDER BY c.number DESC LIMIT 1;
        IF newest.number IS NULL OR newest.number < NEW.base_number OR newest.number >= NEW.number THEN
            RAISE EXCEPTION 'the complete CRL that this delta continues is not here' USING ERRCODE = 'restrict_violation';
        END IF;
    END IF;
    PERFORM pg_notify('chancery_foreign', (SELECT foreign_id::text FROM chancery.foreign_point
        WHERE point_id = NEW.point_id));
    RETURN NEW;
END $$;
CREATE TRIGGER foreign_crl_fits BEFORE INSERT ON chancery.foreign_crl
    FOR EACH ROW EXECUTE FUNCTION chancery.foreign_crl_fits();

-- The CRLs of each point that count: the newest complete one, and the newest delta that continues it.
CREATE VIEW chancery.foreign_standing WITH (security_invoker = true) AS
SELECT p.foreign_id, p.point_id, p.url, f.crl_id AS full_id, f.number, f.this_update, f.next_update, f.freshest,
    f.sha256, d.crl_id AS delta_id, d.number AS delta_number, d.this_update AS delta_this_update,
    d.next_update AS delta_next_update, d.sha256 AS delta_sha256
FROM chancery.foreign_point AS p
LEFT JOIN LATERAL (SELECT * FROM chancery.foreign_crl AS c WHERE c.point_id = p.point_id AND c.base_number IS NULL
    ORDER BY c.number DESC LIMIT 1) AS f ON true
LEFT JOIN LATERAL (SELECT * FROM chancery.foreign_crl AS c WHERE c.point_id = p.point_id AND c.number > f.number
    AND c.base_number <= f.number ORDER BY c.number DESC LIMIT 1) AS d ON true;

-- Entries of CRLs that do not count any more are the one thing that goes: their CRLs' rows and events stay.
CREATE FUNCTION chancery.forget_foreign_entries(point integer) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE gone bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(1128814342, point);
    DELETE FROM chancery.foreign_revoked AS r USING chancery.foreign_crl AS c, chancery.foreign_standing AS s
    WHERE r.crl_id = c.crl_id AND c.point_id = point AND s.point_id = point
        AND c.crl_id <> s.full_id AND c.crl_id IS DISTINCT FROM s.delta_id;
    GET DIAGNOSTICS gone = ROW_COUNT;
    RETURN gone;
END $$;

CREATE TRIGGER foreign_issuer_notify AFTER INSERT OR UPDATE ON chancery.foreign_issuer
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.issuer_notify();
CREATE TRIGGER foreign_delegate_notify AFTER INSERT ON chancery.foreign_delegate
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.issuer_notify();

CREATE TRIGGER kept BEFORE DELETE ON chancery.foreign_issuer
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.foreign_point
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.foreign_delegate
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.foreign_crl
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER kept BEFORE UPDATE ON chancery.foreign_revoked
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
-- Whoever deletes, the entries of CRLs that count stay.
CREATE FUNCTION chancery.foreign_entries_kept() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM gone JOIN chancery.foreign_standing AS s ON gone.crl_id IN (s.full_id, s.delta_id)) THEN
        RAISE EXCEPTION 'entries of a CRL that counts' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER kept_while_current AFTER DELETE ON chancery.foreign_revoked REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.foreign_entries_kept();
DO $$
DECLARE name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['foreign_issuer', 'foreign_point', 'foreign_delegate', 'foreign_crl', 'foreign_revoked'] LOOP
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
            FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', name);
    END LOOP;
END $$;

-- What it writes into the journal is of its own acts, and can be read by everybody who has to (as in 0016).
ALTER TABLE chancery.journal_event ADD CONSTRAINT journal_event_foreign CHECK (
    writer <> 'chancery_foreign'
    OR coalesce(kind LIKE 'foreign.%' AND (body::json ->> 'at') ~ ('^((19|[2-8][0-9])[0-9]{2}-((0[13578]|1[02])-'
            || '(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))'
            || '|((19|[2-8][0-9])(0[48]|[2468][048]|[13579][26])|([2468][048]|[357][26])00)-02-29)'
            || 'T([01][0-9]|2[0-3])(:[0-5][0-9]){2}[.][0-9]{6}[+]00:00$')
        AND json_typeof(body::json -> 'detail') = 'object' AND body::json ->> 'actor' IS NOT NULL, false)) NOT VALID;
