-- Timestamping units: which key is whose, in which order their tokens are, and serial numbers that never repeat.

-- `ordering` is for ever. The row of an ordered unit is held by whoever gives its tokens their times, so that each is
-- later than all of before, on whatever host.
CREATE TABLE chancery.tsa_unit (
    unit           text PRIMARY KEY CHECK (unit ~ '^[a-z0-9][a-z0-9-]{0,31}$'),
    ordering       boolean NOT NULL,
    last_gen_time  timestamptz CHECK (last_gen_time IS NULL OR ordering),
    added_at       timestamptz NOT NULL
);

-- Every key that a unit signed with, those that were destroyed too.
CREATE TABLE chancery.tsa_key (
    spki_sha256  bytea PRIMARY KEY CHECK (octet_length(spki_sha256) = 32),
    unit         text NOT NULL REFERENCES chancery.tsa_unit,
    added_at     timestamptz NOT NULL
);
CREATE INDEX tsa_key_unit ON chancery.tsa_key (unit);

CREATE FUNCTION chancery.tsa_unit_goes_on() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
    IF (NEW.unit, NEW.ordering, NEW.added_at) IS DISTINCT FROM (OLD.unit, OLD.ordering, OLD.added_at)
        OR NEW.last_gen_time IS NULL OR NEW.last_gen_time <= OLD.last_gen_time THEN
        RAISE EXCEPTION 'the time of a timestamping unit goes forwards only' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER goes_on BEFORE UPDATE ON chancery.tsa_unit
    FOR EACH ROW EXECUTE FUNCTION chancery.tsa_unit_goes_on();
CREATE TRIGGER kept BEFORE DELETE ON chancery.tsa_unit FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.tsa_unit
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.tsa_key
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.tsa_key
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();

ALTER TABLE chancery.tsa_token
    ADD unit text NOT NULL DEFAULT 'tsa',
    ADD ordering boolean NOT NULL DEFAULT false;
-- The key is (serial, gen_time), because the table is divided by gen_time; so that a serial is not there twice with
-- two times, it holds its time: octet 17 is 1 and octets 9 to 15 are microseconds since 1970. Serials of before have
-- at most 127 bits, so none of them is one of these.
ALTER TABLE chancery.tsa_token ADD CONSTRAINT tsa_token_serial_holds_time CHECK (
    div(serial, 340282366920938463463374607431768211456) = 1
    AND mod(div(serial, 18446744073709551616), 72057594037927936)
        = extract(epoch FROM gen_time AT TIME ZONE 'UTC') * 1000000) NOT VALID;
CREATE UNIQUE INDEX tsa_token_in_order ON chancery.tsa_token (unit, gen_time) WHERE ordering;
