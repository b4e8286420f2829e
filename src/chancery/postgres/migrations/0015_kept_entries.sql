-- R16: the entry of a revoked code-signing certificate stays on CRLs for ten years after the certificate's end. Written
-- with the revocation, from the TBSCertificate: nothing is written, or looked at, when a certificate is issued.
ALTER TABLE chancery.certificate_status
    ADD COLUMN kept_until timestamptz CHECK (kept_until >= not_after);
CREATE TRIGGER status_kept_until_kept BEFORE UPDATE ON chancery.certificate_status
    FOR EACH ROW WHEN (OLD.kept_until IS NOT NULL AND NEW.kept_until IS DISTINCT FROM OLD.kept_until)
    EXECUTE FUNCTION chancery.refuse_change();

-- What was revoked before: as `pkix.usage.kept_until`. It is a change, so that the next CRL, or delta, has it.
ALTER TABLE chancery.certificate_status DISABLE TRIGGER USER;
UPDATE chancery.certificate_status AS s
SET kept_until = least(s.not_after, '9999-12-31 23:59:59Z'::timestamptz - ten.years) + ten.years,
    changed_xid = pg_current_xact_id()
FROM chancery.intent AS i, (SELECT interval '87672 hours') AS ten (years)
WHERE s.state = 'revoked' AND (i.issuer_id, i.serial) = (s.issuer_id, s.serial)
  AND position('\x06082b06010505070303'::bytea IN i.tbs) > 0;
ALTER TABLE chancery.certificate_status ENABLE TRIGGER USER;

-- As 0008 made them, by the end that counts.
DROP INDEX chancery.certificate_status_entries, chancery.certificate_status_shard_entries,
    chancery.certificate_status_expiry;
CREATE INDEX certificate_status_entries ON chancery.certificate_status (issuer_id, serial)
    INCLUDE (not_after, kept_until, entry) WHERE state = 'revoked';
CREATE INDEX certificate_status_shard_entries ON chancery.certificate_status (issuer_id, shard, serial)
    INCLUDE (not_after, kept_until, entry) WHERE state = 'revoked' AND shard > 0;
CREATE INDEX certificate_status_expiry ON chancery.certificate_status (issuer_id, coalesce(kept_until, not_after))
    WHERE state = 'revoked';
