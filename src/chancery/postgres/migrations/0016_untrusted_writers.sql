-- The processes that the network reaches write rows that others read for ever: the worker at its work, the auditor,
-- retention. What one of them could not read would stop it at that row for good, and rows of history cannot be taken
-- back. Rows of before stay (NOT VALID).

-- An event of another process's acts is not theirs to write, and every event has a time that can be read, as
-- `Event.body` writes it. The worker's own events are not looked at again. What a SECURITY DEFINER function writes is
-- written by the owner: a switch of a profile comes by `switch_profile` or not at all.
ALTER TABLE chancery.journal_event ADD CONSTRAINT journal_event_writer CHECK (
    writer NOT IN ('chancery_ra', 'chancery_ocsp', 'chancery_tsa', 'chancery_auditor')
    OR coalesce(kind = ANY (CASE writer
            WHEN 'chancery_ra' THEN ARRAY['request.received', 'request.refused', 'revocation.requested',
                'revocation-job.requested', 'revocation-job.approved', 'report.received', 'report.answered',
                'report.decided', 'crl.requested', 'key.blocked', 'operator.enrolled', 'operator.removed',
                'login.accepted', 'login.refused', 'process.started', 'process.stopped', 'tsa.client-added',
                'tsa.client-revoked']
            WHEN 'chancery_tsa' THEN ARRAY['login.accepted', 'login.refused', 'request.refused', 'process.started',
                'process.stopped', CASE WHEN kind LIKE 'tsa.%' AND kind NOT LIKE 'tsa.client-%' THEN kind END]
        END)
        -- 1900 to 8999, every day that there is.
        AND (body::json ->> 'at') ~ ('^((19|[2-8][0-9])[0-9]{2}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])'
            || '|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))'
            || '|((19|[2-8][0-9])(0[48]|[2468][048]|[13579][26])|([2468][048]|[357][26])00)-02-29)'
            || 'T([01][0-9]|2[0-3])(:[0-5][0-9]){2}[.][0-9]{6}[+]00:00$')
        AND json_typeof(body::json -> 'detail') = 'object' AND body::json ->> 'actor' IS NOT NULL, false)) NOT VALID;

-- A rehearsal's sample is a list of serials, none of them missing.
ALTER TABLE chancery.revocation_job ADD CONSTRAINT revocation_job_sample CHECK (
    array_ndims(sample_issuers) = 1 AND array_ndims(sample_serials) = 1
    AND array_position(sample_issuers, NULL) IS NULL AND array_position(sample_serials, NULL) IS NULL) NOT VALID;

-- The second person approves what the job says: its requests are for its reason, its requestor, and one date.
CREATE OR REPLACE FUNCTION chancery.revocation_job_closed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM added AS a JOIN chancery.revocation_job AS j USING (job_id)
               WHERE j.xid <> pg_current_xact_id() OR j.state <> 'waiting') THEN
        RAISE EXCEPTION 'a revocation request for a job that is confirmed already' USING ERRCODE = 'restrict_violation';
    END IF;
    IF EXISTS (SELECT FROM added AS a JOIN chancery.revocation_job AS j USING (job_id)
               WHERE (a.reason, a.requestor, a.received_at) IS DISTINCT FROM (j.reason, j.requestor, j.received_at)) THEN
        RAISE EXCEPTION 'a revocation request that is not as its job says' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NULL;
END $$;

-- As many profiles as there can be, in one row, and times that a calendar has.
ALTER TABLE chancery.operator
    ADD CONSTRAINT operator_arrays CHECK (array_ndims(roles) = 1 AND cardinality(roles) <= 4
        AND coalesce(array_ndims(profiles), 1) = 1 AND array_position(profiles, NULL) IS NULL
        AND octet_length(profiles::text) <= 65536) NOT VALID,
    ADD CONSTRAINT operator_times CHECK (added_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z'
        AND removed_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z') NOT VALID;
ALTER TABLE chancery.revocation_approval ADD CONSTRAINT revocation_approval_times
    CHECK (approved_at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z') NOT VALID;
ALTER TABLE chancery.problem_report_act ADD CONSTRAINT problem_report_act_times
    CHECK (at BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z') NOT VALID;
ALTER TABLE chancery.tsa_token
    ADD CONSTRAINT tsa_token_times CHECK (gen_time BETWEEN '1950-01-01 00:00:00Z' AND '9999-12-30 00:00:00Z') NOT VALID,
    ADD CONSTRAINT tsa_token_texts
        CHECK (length(hash_oid) <= 200 AND length(policy) <= 200 AND length(client) <= 1000) NOT VALID;

-- As before, but the row and its event say the same.
CREATE OR REPLACE FUNCTION chancery.switch_profile(
    name text, active boolean, reason text, operator text, at timestamptz, event text
) RETURNS boolean LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    body json := event::json;
    kind text := CASE WHEN active THEN 'profile.activated' ELSE 'profile.deactivated' END;
BEGIN
    IF (body ->> 'kind', body ->> 'subject', body ->> 'actor', body -> 'detail' ->> 'reason', (body ->> 'at')::timestamptz)
       IS DISTINCT FROM (kind, 'profile:' || name, operator, reason, at) THEN
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
