-- A foreign CA that is answered for is no issuer of ours: the name and the key stand once, whichever came first (0018 has
-- the other direction). As its owner, who sees every foreign issuer.
CREATE FUNCTION chancery.issuer_is_not_foreign() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM chancery.foreign_issuer
               WHERE ended_at IS NULL AND (name = NEW.name OR spki_sha256 = NEW.spki_sha256)) THEN
        RAISE EXCEPTION 'a foreign issuer of this name or key is answered for' USING ERRCODE = 'exclusion_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER issuer_is_not_foreign BEFORE INSERT ON chancery.issuer
    FOR EACH ROW EXECUTE FUNCTION chancery.issuer_is_not_foreign();
REVOKE ALL ON FUNCTION chancery.issuer_is_not_foreign() FROM PUBLIC;
