-- Clients of the timestamping authority. A name is given once: tokens are recorded under it.
CREATE TABLE chancery.tsa_client (
    name        text PRIMARY KEY CHECK (name ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    kind        text NOT NULL CHECK (kind IN ('api-key', 'certificate', 'network')),
    credential  bytea UNIQUE CHECK (octet_length(credential) = 32),   -- SHA-256 of the key or the certificate
    networks    text[] NOT NULL CHECK (cardinality(networks) <= 64),
    policies    text[] CHECK (cardinality(policies) BETWEEN 1 AND 64),  -- null: every policy
    per_second  double precision CHECK (per_second > 0),
    burst       integer NOT NULL CHECK (burst BETWEEN 1 AND 100000),
    per_day     bigint CHECK (per_day > 0),
    per_month   bigint CHECK (per_month > 0),
    added_at    timestamptz NOT NULL,
    added_by    text NOT NULL,
    revoked_at  timestamptz,
    CHECK ((kind = 'network') = (credential IS NULL)),
    CHECK (kind <> 'network' OR cardinality(networks) > 0)
);
-- Revoked for good: neither brought back nor changed.
CREATE FUNCTION chancery.tsa_client_forwards() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF OLD.revoked_at IS NOT NULL OR NEW.revoked_at IS NULL
       OR to_jsonb(NEW) - 'revoked_at' IS DISTINCT FROM to_jsonb(OLD) - 'revoked_at' THEN
        RAISE EXCEPTION 'timestamp client % can only be revoked, once', OLD.name USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER tsa_client_forwards BEFORE UPDATE ON chancery.tsa_client
    FOR EACH ROW EXECUTE FUNCTION chancery.tsa_client_forwards();
CREATE TRIGGER kept BEFORE DELETE ON chancery.tsa_client FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.tsa_client
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();

-- What was reserved of a client's quota: by day, and by month under its first day.
CREATE TABLE chancery.tsa_usage (
    client  text NOT NULL REFERENCES chancery.tsa_client,
    span    text NOT NULL CHECK (span IN ('day', 'month')),
    began   date NOT NULL CHECK (span = 'day' OR extract(day FROM began) = 1),
    used    bigint NOT NULL CHECK (used >= 0),
    PRIMARY KEY (client, span, began)
);
CREATE TRIGGER kept BEFORE DELETE ON chancery.tsa_usage FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.tsa_usage
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();
