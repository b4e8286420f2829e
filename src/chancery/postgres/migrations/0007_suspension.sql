-- Suspension (RFC 5280 5.3.1): certificateHold (6) is the one reason from which a status comes back. A request to
-- reinstate has the reason removeFromCRL (8); no status has it.
DO $$
DECLARE one record;
BEGIN
    FOR one IN SELECT conrelid::regclass AS place, conname FROM pg_constraint
        WHERE conrelid IN ('chancery.certificate_status'::regclass, 'chancery.revocation_request'::regclass)
            AND contype = 'c' AND pg_get_constraintdef(oid) LIKE '%reason = ANY%' LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', one.place, one.conname);
    END LOOP;
END $$;
ALTER TABLE chancery.certificate_status
    ADD COLUMN released_at timestamptz,
    ADD CONSTRAINT certificate_status_reason_check CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 9, 10)),
    ADD CONSTRAINT certificate_status_released_check CHECK (released_at IS NULL OR state <> 'unconfirmed');
ALTER TABLE chancery.revocation_request
    ADD CONSTRAINT revocation_request_reason_check CHECK (reason IN (0, 1, 2, 3, 4, 5, 6, 8, 9, 10));
-- What was released since a CRL was made must go from the next one.
CREATE INDEX certificate_status_released ON chancery.certificate_status (issuer_id, changed_at)
    WHERE state = 'good' AND released_at IS NOT NULL;
CREATE INDEX certificate_status_released_xid ON chancery.certificate_status (issuer_id, changed_xid)
    WHERE state = 'good' AND released_at IS NOT NULL;

-- good or unconfirmed -> revoked; good -> held; held -> good, or revoked since the day of the hold (X.509 9.5.3.2).
CREATE OR REPLACE FUNCTION chancery.status_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF (NEW.issuer_id, NEW.serial, NEW.not_after) IS DISTINCT FROM (OLD.issuer_id, OLD.serial, OLD.not_after)
       OR NOT coalesce(CASE
            WHEN OLD.state = 'revoked' AND OLD.reason = 6 AND NEW.state = 'good' THEN NEW.released_at >= OLD.revoked_at
            WHEN NEW.released_at IS DISTINCT FROM OLD.released_at OR NEW.state <> 'revoked' THEN false
            WHEN OLD.state = 'revoked' THEN OLD.reason = 6 AND NEW.reason <> 6 AND NEW.revoked_at = OLD.revoked_at
            ELSE NEW.reason <> 6 OR OLD.state = 'good'
        END, false) THEN
        RAISE EXCEPTION 'certificate status goes forwards only: % (%) to % (%)',
            OLD.state, OLD.reason, NEW.state, NEW.reason USING ERRCODE = 'restrict_violation';
    END IF;
    NEW.changed_xid := pg_current_xact_id();
    RETURN NEW;
END $$;
