-- What a requestor wishes beside key and names (pkix/wish.py), as the registration side wrote it; the worker decodes
-- it strictly.
ALTER TABLE chancery.request ADD COLUMN wish text CHECK (octet_length(wish) <= 1024);

-- Whether a profile may be used: the latest row of a name says so, none means that it may. There is no way to write one
-- but the function below, which writes its event with it.
CREATE TABLE chancery.profile_switch (
    switch_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name       text NOT NULL CHECK (length(name) BETWEEN 1 AND 63),
    active     boolean NOT NULL,
    reason     text NOT NULL CHECK (length(reason) BETWEEN 1 AND 1000),
    operator   text NOT NULL CHECK (length(operator) BETWEEN 1 AND 200),
    at         timestamptz NOT NULL CHECK (at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z')
);
CREATE INDEX profile_switch_latest ON chancery.profile_switch (name, switch_id DESC);
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.profile_switch
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.profile_switch
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();

-- The one way to switch a profile: the row and its event, or neither. False when it is in that state already.
CREATE FUNCTION chancery.switch_profile(
    name text, active boolean, reason text, operator text, at timestamptz, event text
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    body json := event::json;
    kind text := CASE WHEN active THEN 'profile.activated' ELSE 'profile.deactivated' END;
BEGIN
    IF (body ->> 'kind', body ->> 'subject', body ->> 'actor') IS DISTINCT FROM (kind, 'profile:' || name, operator) THEN
        RAISE EXCEPTION 'the event is of something else' USING ERRCODE = 'check_violation';
    END IF;
    PERFORM pg_advisory_xact_lock(hashtextextended('chancery.profile_switch', 0));
    IF active IS NOT DISTINCT FROM coalesce(
        (SELECT s.active FROM chancery.profile_switch AS s WHERE s.name = switch_profile.name
         ORDER BY s.switch_id DESC LIMIT 1), true) THEN
        RETURN false;
    END IF;
    INSERT INTO chancery.profile_switch (name, active, reason, operator, at)
    VALUES (switch_profile.name, switch_profile.active, switch_profile.reason, switch_profile.operator, switch_profile.at);
    INSERT INTO chancery.journal_event (body) VALUES (event);
    RETURN true;
END $$;

-- A version says one thing: another text under the same name and version is refused. Rows of before stay.
CREATE FUNCTION chancery.profile_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('chancery.profile', 0));
    IF EXISTS (SELECT FROM chancery.profile AS p
               WHERE p.name = NEW.name AND p.version = NEW.version AND p.sha256 <> NEW.sha256) THEN
        RAISE EXCEPTION 'profile % version % is recorded with another text', NEW.name, NEW.version
            USING ERRCODE = 'unique_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER profile_version BEFORE INSERT ON chancery.profile
    FOR EACH ROW EXECUTE FUNCTION chancery.profile_version();
