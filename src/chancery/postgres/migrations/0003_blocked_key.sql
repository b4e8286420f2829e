-- R5: a key that was reported compromised is never certified again, for whomever and by whatever channel. Keys are
-- known by the SHA-256 of their SubjectPublicKeyInfo, so a key can be blocked that was never seen here.
CREATE TABLE chancery.blocked_key (
    spki_sha256  bytea PRIMARY KEY CHECK (octet_length(spki_sha256) = 32),
    reason       text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    blocked_at   timestamptz NOT NULL CHECK (blocked_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z'),
    blocked_by   text NOT NULL CHECK (length(blocked_by) BETWEEN 1 AND 200)
);
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.blocked_key
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.blocked_key
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();

-- RFC 5280 5.3.1: keyCompromise (1), cACompromise (2) and aACompromise (10) say that the subject's key is known.
-- The worker blocks the key itself, with its event, in the transaction that revokes. This is for a worker of an
-- earlier release that still runs beside this schema.
CREATE FUNCTION chancery.compromised_key() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO chancery.blocked_key (spki_sha256, reason, blocked_at, blocked_by)
    SELECT c.spki_sha256, 'a certificate was revoked as compromised: ' || c.issuer_id || ':' || encode(c.serial, 'hex'),
        NEW.changed_at, current_user
    FROM chancery.certificate AS c WHERE c.serial = NEW.serial AND c.issuer_id = NEW.issuer_id
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER compromised_key AFTER INSERT OR UPDATE ON chancery.certificate_status
    FOR EACH ROW WHEN (NEW.state = 'revoked' AND NEW.reason IN (1, 2, 10))
    EXECUTE FUNCTION chancery.compromised_key();

-- The whole history: what was revoked so before there was this table.
INSERT INTO chancery.blocked_key (spki_sha256, reason, blocked_at, blocked_by)
SELECT DISTINCT ON (c.spki_sha256) c.spki_sha256,
    'a certificate was revoked as compromised: ' || c.issuer_id || ':' || encode(c.serial, 'hex'), s.changed_at,
    current_user
FROM chancery.certificate_status AS s JOIN chancery.certificate AS c USING (issuer_id, serial)
WHERE s.state = 'revoked' AND s.reason IN (1, 2, 10)
ORDER BY c.spki_sha256, s.changed_at;
