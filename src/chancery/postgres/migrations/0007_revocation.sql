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

-- Mass revocation: a job is a list of revocation requests that was confirmed as a whole. The worker alone moves it: it
-- compares the list with what was confirmed (size, digest), and asks for a second person's approval of a long one.
-- With a sample it is a rehearsal: no requests, measured and rolled back.
CREATE TABLE chancery.revocation_job (
    job_id           bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    requestor        text NOT NULL CHECK (length(requestor) BETWEEN 1 AND 200),
    reason           smallint NOT NULL CHECK (reason IN (0, 1, 2, 3, 4, 5, 9, 10)),
    selection        text NOT NULL CHECK (length(selection) <= 8000),
    size             integer NOT NULL CHECK (size BETWEEN 1 AND 100000000),
    digest           bytea NOT NULL CHECK (octet_length(digest) = 32),
    received_at      timestamptz NOT NULL CHECK (received_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z'),
    sample_issuers   integer[] CHECK (cardinality(sample_issuers) BETWEEN 1 AND 1000),
    sample_serials   bytea[] CHECK (octet_length(sample_serials::text) <= 65536),
    xid              xid8 NOT NULL DEFAULT pg_current_xact_id(),
    state            text NOT NULL DEFAULT 'waiting'
        CHECK (state IN ('waiting', 'unapproved', 'running', 'done', 'refused')),
    seen             bigint NOT NULL DEFAULT 0,     -- approvals up to this one were judged
    detail           text,
    CHECK (cardinality(sample_issuers) IS NOT DISTINCT FROM cardinality(sample_serials))
);
CREATE INDEX revocation_job_open ON chancery.revocation_job (job_id) WHERE state IN ('waiting', 'unapproved', 'running');
CREATE TABLE chancery.revocation_approval (
    approval_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    job_id       bigint NOT NULL REFERENCES chancery.revocation_job,
    operator     text NOT NULL CHECK (length(operator) BETWEEN 1 AND 200),
    digest       bytea NOT NULL CHECK (octet_length(digest) = 32),
    approved_at  timestamptz NOT NULL
);
CREATE INDEX revocation_approval_job ON chancery.revocation_approval (job_id, approval_id);

CREATE FUNCTION chancery.revocation_job_forwards() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'revocation job % cannot go from % to %', OLD.job_id, OLD.state, NEW.state
        USING ERRCODE = 'restrict_violation';
END $$;
CREATE TRIGGER revocation_job_forwards BEFORE UPDATE ON chancery.revocation_job FOR EACH ROW WHEN (NOT (
        (OLD.state = 'waiting' AND NEW.state IN ('unapproved', 'running', 'done', 'refused'))
        OR (OLD.state = 'unapproved' AND NEW.state IN ('unapproved', 'running', 'refused'))
        OR (OLD.state = 'running' AND NEW.state = 'done')))
    EXECUTE FUNCTION chancery.revocation_job_forwards();
CREATE TRIGGER kept BEFORE DELETE ON chancery.revocation_job FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.revocation_job
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.revocation_approval
    FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.revocation_approval
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change();
CREATE TRIGGER revocation_job_notify AFTER INSERT ON chancery.revocation_job
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.work_notify();
CREATE TRIGGER revocation_approval_notify AFTER INSERT ON chancery.revocation_approval
    FOR EACH STATEMENT EXECUTE FUNCTION chancery.work_notify();

-- A job's requests come with it, in one transaction: what was confirmed gets no company.
ALTER TABLE chancery.revocation_request ADD COLUMN job_id bigint REFERENCES chancery.revocation_job;
CREATE FUNCTION chancery.revocation_job_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added AS a JOIN chancery.revocation_job AS j USING (job_id)
               WHERE j.xid <> pg_current_xact_id() OR j.state <> 'waiting') THEN
        RAISE EXCEPTION 'a revocation request for a job that is confirmed already' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER revocation_job_closed AFTER INSERT ON chancery.revocation_request
    REFERENCING NEW TABLE AS added FOR EACH STATEMENT EXECUTE FUNCTION chancery.revocation_job_closed();
-- Single requests are not behind the many.
DROP INDEX chancery.revocation_waiting;
CREATE INDEX revocation_waiting ON chancery.revocation_request (revocation_id) WHERE state = 'waiting' AND job_id IS NULL;
CREATE INDEX revocation_of_job ON chancery.revocation_request (job_id, revocation_id) WHERE job_id IS NOT NULL;
CREATE INDEX revocation_waiting_of_job ON chancery.revocation_request (job_id, revocation_id)
    WHERE state = 'waiting' AND job_id IS NOT NULL;
-- Somebody waits for one request, nobody for one of many.
DROP TRIGGER revocation_settled ON chancery.revocation_request;
CREATE TRIGGER revocation_settled AFTER UPDATE ON chancery.revocation_request
    FOR EACH ROW WHEN (NEW.job_id IS NULL) EXECUTE FUNCTION chancery.revocation_settled();

-- Problem reports (BR 4.9.3, R13): what somebody says is wrong with a certificate or a key, until when it has to be
-- answered and revoked, and what was done about it. Both tables are history; a report is closed by an act.
CREATE TABLE chancery.problem_report (
    report_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    ground       text NOT NULL CHECK (length(ground) BETWEEN 1 AND 64),
    issuer       text CHECK (length(issuer) <= 200),
    serial       bytea CHECK (octet_length(serial) BETWEEN 1 AND 20),
    spki_sha256  bytea CHECK (octet_length(spki_sha256) = 32),
    evidence     text NOT NULL CHECK (length(evidence) BETWEEN 1 AND 20000),
    reporter     text NOT NULL CHECK (length(reporter) BETWEEN 1 AND 500),
    proven       boolean NOT NULL,
    recorded_by  text NOT NULL CHECK (length(recorded_by) BETWEEN 1 AND 200),
    received_at  timestamptz NOT NULL CHECK (received_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-01-01 00:00:00Z'),
    answer_by    timestamptz NOT NULL CHECK (answer_by BETWEEN received_at AND received_at + interval '7 days'),
    revoke_by    timestamptz NOT NULL CHECK (revoke_by BETWEEN received_at AND received_at + interval '7 days'),
    CHECK ((issuer IS NULL) = (serial IS NULL) AND (serial IS NULL) <> (spki_sha256 IS NULL))
);
CREATE TABLE chancery.problem_report_act (
    act_id     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    report_id  bigint NOT NULL REFERENCES chancery.problem_report,
    kind       text NOT NULL CHECK (kind IN ('answered', 'revoked', 'rejected')),
    words      text NOT NULL CHECK (length(words) BETWEEN 1 AND 4000),
    operator   text NOT NULL CHECK (length(operator) BETWEEN 1 AND 200),
    at         timestamptz NOT NULL
);
CREATE INDEX problem_report_act_of ON chancery.problem_report_act (report_id, act_id);
-- One decision.
CREATE UNIQUE INDEX problem_report_decided ON chancery.problem_report_act (report_id) WHERE kind IN ('revoked', 'rejected');
DO $$
DECLARE t text;
BEGIN
    FOREACH t IN ARRAY ARRAY['problem_report', 'problem_report_act'] LOOP
        EXECUTE format('CREATE TRIGGER kept BEFORE UPDATE OR DELETE ON chancery.%I
                        FOR EACH ROW EXECUTE FUNCTION chancery.refuse_change()', t);
        EXECUTE format('CREATE TRIGGER not_emptied BEFORE TRUNCATE ON chancery.%I
                        FOR EACH STATEMENT EXECUTE FUNCTION chancery.refuse_change()', t);
    END LOOP;
END $$;
