-- Continuity: kits that a standby CA issues by while the primary is away, and what it handed back (docs/continuity.md).
-- An epoch is closed by one hand-back, and with it every epoch of that issuer before it: a second one is a fork.
CREATE TABLE chancery.standby_kit (
    epoch        integer PRIMARY KEY CHECK (epoch > 0),
    issuer_id    integer NOT NULL REFERENCES chancery.issuer,
    instance     smallint NOT NULL CHECK (instance BETWEEN 113 AND 127),
    kit          bytea NOT NULL CHECK (octet_length(kit) <= 67108864),
    made_at      timestamptz NOT NULL
);
CREATE TABLE chancery.standby_hand_back (
    epoch     integer PRIMARY KEY REFERENCES chancery.standby_kit,
    sha256    bytea NOT NULL CHECK (octet_length(sha256) = 32),
    head      bytea NOT NULL CHECK (octet_length(head) = 32),
    length    bigint NOT NULL CHECK (length > 0),
    taken_at  timestamptz NOT NULL
);
CREATE FUNCTION chancery.standby_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('chancery.standby_kit', 0));
    IF EXISTS (SELECT FROM chancery.standby_hand_back AS h JOIN chancery.standby_kit AS k USING (epoch)
               JOIN chancery.standby_kit AS mine ON mine.epoch = NEW.epoch AND mine.issuer_id = k.issuer_id
               WHERE k.epoch >= NEW.epoch) THEN
        RAISE EXCEPTION 'epoch % of the standby CA is closed', NEW.epoch USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER standby_forwards BEFORE INSERT ON chancery.standby_hand_back
    FOR EACH ROW EXECUTE FUNCTION chancery.standby_forwards();
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['standby_kit', 'standby_hand_back'] LOOP
        EXECUTE format('CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.%I
                        FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change()', t);
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
END $$;
