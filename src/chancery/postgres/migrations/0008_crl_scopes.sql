-- R15: the partition of its issuer's CRLs that lists a certificate is fixed when it is issued, because its
-- cRLDistributionPoints names it. 0: none, the complete CRL alone.
ALTER TABLE chancery.intent ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0);
ALTER TABLE chancery.certificate_status ADD COLUMN shard smallint NOT NULL DEFAULT 0 CHECK (shard >= 0);
CREATE TRIGGER status_shard_kept BEFORE UPDATE ON chancery.certificate_status
    FOR EACH ROW WHEN (NEW.shard IS DISTINCT FROM OLD.shard) EXECUTE FUNCTION chancery.refuse_change();
