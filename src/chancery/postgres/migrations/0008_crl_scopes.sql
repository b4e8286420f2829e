-- CRLs by scope (RFC 5280 5.2): complete, by shard, and the deltas of each; built without ever being one value.

-- R15: the partition of its issuer's CRLs that lists a certificate is fixed when it is issued, because its
-- cRLDistributionPoints names it. 0: none, the complete CRL alone.
ALTER TABLE chancery.intent ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0);
ALTER TABLE chancery.certificate_status ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0);
CREATE TRIGGER status_shard_kept BEFORE UPDATE ON chancery.certificate_status
    FOR EACH ROW WHEN (NEW.shard IS DISTINCT FROM OLD.shard) EXECUTE FUNCTION chancery.refuse_change();

-- A shard is opened once, with the URL that its certificates and its CRL name for good: another number of shards,
-- or another address, opens others beside it.
CREATE TABLE chancery.crl_shard (
    issuer_id  integer NOT NULL REFERENCES chancery.issuer,
    shard      smallint NOT NULL CHECK (shard > 0),
    url        text NOT NULL CHECK (length(url) BETWEEN 1 AND 2000),
    opened_at  timestamptz NOT NULL,
    PRIMARY KEY (issuer_id, shard),
    UNIQUE (issuer_id, url)
);
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.crl_shard
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.crl_shard
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();

-- An element of revokedCertificates in DER, as `asn1.crl.entry` makes it. Every length is below 128: a serial has at
-- most 20 octets. IMMUTABLE is true although to_char is not: digits are the same in every locale.
CREATE FUNCTION chancery.crl_entry(serial bytea, revoked_at timestamptz, reason integer, invalidity_date timestamptz)
RETURNS bytea LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    moment timestamp := revoked_at AT TIME ZONE 'UTC';
    tail bytea := '';
BEGIN
    IF reason <> 0 THEN                         -- 5.3.1: 0 is left out
        tail := '\x300a0603551d1504030a01'::bytea || substring(int4send(reason) FROM 4);
    END IF;
    IF invalidity_date IS NOT NULL THEN         -- 5.3.2: always GeneralizedTime
        tail := tail || '\x30180603551d180411180f'::bytea
            || convert_to(to_char(invalidity_date AT TIME ZONE 'UTC', 'YYYYMMDDHH24MISS') || 'Z', 'SQL_ASCII');
    END IF;
    IF tail <> ''::bytea THEN
        tail := '\x30'::bytea || substring(int4send(length(tail)) FROM 4) || tail;
    END IF;
    IF moment >= '1950-01-01' AND moment < '2050-01-01' THEN
        tail := '\x170d'::bytea || convert_to(to_char(moment, 'YYMMDDHH24MISS') || 'Z', 'SQL_ASCII') || tail;
    ELSE
        tail := '\x180f'::bytea || convert_to(to_char(moment, 'YYYYMMDDHH24MISS') || 'Z', 'SQL_ASCII') || tail;
    END IF;
    tail := '\x02'::bytea || substring(int4send(length(serial)) FROM 4) || serial || tail;
    RETURN '\x30'::bytea || substring(int4send(length(tail)) FROM 4) || tail;
END $$;

-- Encoded when the status is written, and by the database, so that it never differs from the columns. The index over
-- it is all that a CRL is made from: a million entries are read in order without touching the table.
ALTER TABLE chancery.certificate_status ADD COLUMN IF NOT EXISTS released_at timestamptz;
ALTER TABLE chancery.certificate_status ADD COLUMN entry bytea GENERATED ALWAYS AS (
    CASE WHEN state = 'revoked' THEN chancery.crl_entry(serial, revoked_at, reason::integer, invalidity_date) END) STORED;
CREATE INDEX certificate_status_entries ON chancery.certificate_status (issuer_id, serial) INCLUDE (not_after, entry)
    WHERE state = 'revoked';
CREATE INDEX certificate_status_shard_entries ON chancery.certificate_status (issuer_id, shard, serial)
    INCLUDE (not_after, entry) WHERE state = 'revoked' AND shard > 0;
-- What changed since a CRL was made, and what expired since.
CREATE INDEX certificate_status_shard_xid ON chancery.certificate_status (issuer_id, shard, changed_xid)
    WHERE state = 'revoked';
CREATE INDEX certificate_status_expiry ON chancery.certificate_status (issuer_id, not_after) WHERE state = 'revoked';
CREATE INDEX IF NOT EXISTS certificate_status_released_xid ON chancery.certificate_status (issuer_id, changed_xid)
    WHERE state = 'good' AND released_at IS NOT NULL;
DROP INDEX IF EXISTS chancery.certificate_status_revoked;

-- `base_number`: of a delta CRL, the complete CRL of its scope that it is relative to (5.2.4). `expired_since`: R16,
-- entries whose certificate expired before are left out. `scope_idp`: its issuingDistributionPoint (DER), which a delta
-- shares with its base. A large CRL lies in pieces: `der` is what stands before the entries, then come the parts,
-- then `tail`; of a small one `der` is the whole, and `tail` is null.
ALTER TABLE chancery.crl
    ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0),
    ADD COLUMN base_number bigint CHECK (base_number < number),
    ADD COLUMN entries integer CHECK (entries >= 0),
    ADD COLUMN size bigint CHECK (size > 0),
    ADD COLUMN expired_since timestamptz,
    ADD COLUMN scope_idp bytea NOT NULL DEFAULT '',
    ADD COLUMN tail bytea,
    ADD FOREIGN KEY (issuer_id, base_number) REFERENCES chancery.crl_number;
ALTER TABLE chancery.crl ALTER COLUMN der SET STORAGE EXTERNAL;
CREATE INDEX crl_complete ON chancery.crl (issuer_id, shard, number) WHERE base_number IS NULL;
CREATE INDEX crl_delta ON chancery.crl (issuer_id, shard, number) WHERE base_number IS NOT NULL;
CREATE TABLE chancery.crl_part (
    issuer_id  integer NOT NULL,
    number     bigint NOT NULL,
    part       integer NOT NULL CHECK (part >= 0),
    entries    integer NOT NULL CHECK (entries > 0),
    data       bytea NOT NULL,
    PRIMARY KEY (issuer_id, number, part),
    FOREIGN KEY (issuer_id, number) REFERENCES chancery.crl_number
);
ALTER TABLE chancery.crl_part ALTER COLUMN data SET STORAGE EXTERNAL;
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.crl_part
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.crl_part
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();

-- R15, by scope: complete and delta CRLs of one scope share their numbers (5.2.3), scopes are made independently.
CREATE OR REPLACE FUNCTION chancery.crl_increasing() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(1128814339, NEW.issuer_id);
    IF EXISTS (SELECT FROM chancery.crl
               WHERE issuer_id = NEW.issuer_id AND shard = NEW.shard AND number >= NEW.number) THEN
        RAISE EXCEPTION 'CRLNumber % of issuer % is not above the published one', NEW.number, NEW.issuer_id
            USING ERRCODE = 'restrict_violation';
    END IF;
    PERFORM pg_notify('chancery_crl', NEW.issuer_id || ':' || NEW.shard || CASE WHEN NEW.base_number IS NULL THEN '' ELSE ':delta' END);
    RETURN NEW;
END $$;

-- What is asked for: every scope, or one; a delta CRL, where the issuer has them.
ALTER TABLE chancery.crl_wish
    ADD COLUMN shard smallint CHECK (shard >= 0),
    ADD COLUMN delta boolean NOT NULL DEFAULT false;
