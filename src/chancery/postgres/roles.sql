-- Grants per process, run after every migration; idempotent. The roles exist already.
-- chancery_owner owns the schema and is used by `chancery db migrate` alone.
-- Columns that the database fills in (ids, states, xids, the writer) are granted to nobody.
-- First everything is taken back, in the same transaction: a right that a release gives up is gone with its migration.
REVOKE ALL ON ALL TABLES IN SCHEMA chancery FROM chancery_ra, chancery_worker, chancery_ocsp, chancery_tsa, chancery_foreign,
    chancery_auditor;
GRANT USAGE ON SCHEMA chancery TO chancery_ra, chancery_worker, chancery_ocsp, chancery_tsa, chancery_foreign, chancery_auditor;

-- The web process that the network reaches: it asks, it never issues.
GRANT SELECT ON chancery.issuer, chancery.profile, chancery.profile_switch, chancery.operator, chancery.request, chancery.certificate,
    chancery.certificate_status, chancery.revocation_request, chancery.crl, chancery.crl_part, chancery.crl_shard,
    chancery.crl_wish TO chancery_ra;
GRANT SELECT ON chancery.issuer_certificate, chancery.issuer_key, chancery.issuer_act TO chancery_ra;
GRANT INSERT (transaction_id, protocol, requestor, profile, issuer, csr, names, fingerprint, received_at, wish)
    ON chancery.request TO chancery_ra;
GRANT SELECT, INSERT ON chancery.blocked_key TO chancery_ra;
GRANT INSERT (issuer_id, serial, reason, invalidity_date, requestor, received_at, job_id)
    ON chancery.revocation_request TO chancery_ra;
GRANT SELECT, INSERT (requestor, reason, selection, size, digest, received_at, sample_issuers, sample_serials)
    ON chancery.revocation_job TO chancery_ra;
GRANT SELECT, INSERT (job_id, operator, digest, approved_at) ON chancery.revocation_approval TO chancery_ra;
GRANT SELECT, INSERT (ground, issuer, serial, spki_sha256, evidence, reporter, proven, recorded_by, received_at,
    answer_by, revoke_by) ON chancery.problem_report TO chancery_ra;
GRANT SELECT, INSERT (report_id, kind, words, operator, at) ON chancery.problem_report_act TO chancery_ra;
GRANT INSERT (issuer_id, requestor, asked_at, shard, delta) ON chancery.crl_wish TO chancery_ra;
GRANT INSERT (fingerprint, name, roles, profiles, added_at), UPDATE (removed_at) ON chancery.operator TO chancery_ra;
GRANT SELECT, INSERT (name, kind, credential, networks, policies, per_second, burst, per_day, per_month, added_at,
    added_by), UPDATE (revoked_at) ON chancery.tsa_client TO chancery_ra;
GRANT INSERT (body) ON chancery.journal_event TO chancery_ra;

-- The issuing worker; it sequences the journal too.
GRANT SELECT ON chancery.issuer, chancery.profile, chancery.profile_switch, chancery.operator, chancery.request,
    chancery.intent, chancery.certificate, chancery.certificate_status, chancery.revocation_request,
    chancery.crl_number, chancery.crl, chancery.crl_part, chancery.crl_shard, chancery.crl_wish, chancery.journal_event, chancery.journal_leaf,
    chancery.journal_checkpoint TO chancery_worker;
GRANT INSERT (name, subject, certificate, spki_sha256, not_before, not_after, parent_id, token_label, key_label, added_at)
    ON chancery.issuer TO chancery_worker;
-- Issuers come, change and go by the machine that holds their token, never by the web process.
GRANT SELECT ON chancery.issuer_certificate, chancery.issuer_key, chancery.issuer_act, chancery.imported_revocation
    TO chancery_worker;
GRANT INSERT (issuer_id, kind, subject, certificate, spki_sha256, not_before, not_after, parent_id, added_at)
    ON chancery.issuer_certificate TO chancery_worker;
GRANT INSERT (issuer_id, act, at, actor, reason) ON chancery.issuer_act TO chancery_worker;
GRANT INSERT ON chancery.issuer_key, chancery.imported_revocation TO chancery_worker;
GRANT INSERT (issuer_id, serial, request_id, der, subject, names, spki_sha256, not_before, not_after, profile, issued_at)
    ON chancery.certificate TO chancery_worker;
GRANT INSERT (issuer_id, serial, state, not_after, revoked_at, reason, invalidity_date, released_at, changed_at,
    shard, kept_until),
    UPDATE (state, revoked_at, reason, invalidity_date, released_at, changed_at, kept_until)
    ON chancery.certificate_status TO chancery_worker;
GRANT INSERT ON chancery.profile, chancery.intent, chancery.crl_number, chancery.crl, chancery.crl_part, chancery.crl_shard,
    chancery.journal_leaf, chancery.journal_checkpoint TO chancery_worker;
GRANT INSERT (body) ON chancery.journal_event TO chancery_worker;
GRANT SELECT, INSERT ON chancery.blocked_key TO chancery_worker;
GRANT UPDATE (state, worker, taken_at, error, detail, certificate_issuer_id, certificate_serial)
    ON chancery.request TO chancery_worker;
GRANT UPDATE (state, detail) ON chancery.revocation_request TO chancery_worker;
GRANT SELECT, UPDATE (state, detail, seen) ON chancery.revocation_job TO chancery_worker;
GRANT SELECT ON chancery.revocation_approval TO chancery_worker;
-- What a standby CA did in an outage comes back with its requests; the worker's machine verified it.
GRANT SELECT, INSERT ON chancery.standby_kit, chancery.standby_hand_back TO chancery_worker;
GRANT INSERT (transaction_id, protocol, requestor, profile, issuer, csr, names, fingerprint, received_at)
    ON chancery.request TO chancery_worker;
GRANT INSERT (issuer_id, serial, reason, invalidity_date, requestor, received_at)
    ON chancery.revocation_request TO chancery_worker;

-- The OCSP responder reads; of an intent it sees that the serial was used, not what for.
GRANT SELECT ON chancery.issuer, chancery.certificate, chancery.certificate_status, chancery.crl,
    chancery.crl_part, chancery.crl_shard TO chancery_ocsp;
GRANT SELECT (issuer_id, serial, not_after) ON chancery.intent TO chancery_ocsp;
GRANT SELECT ON chancery.issuer_certificate TO chancery_ocsp;
GRANT SELECT (act_id, issuer_id, act) ON chancery.issuer_act TO chancery_ocsp;

GRANT SELECT ON chancery.foreign_issuer, chancery.foreign_point, chancery.foreign_delegate, chancery.foreign_crl,
    chancery.foreign_revoked, chancery.foreign_standing TO chancery_ocsp;

-- The program that fetches foreign CAs' CRLs brings them in, and sees nothing of ours.
GRANT SELECT, INSERT (name, certificate, spki_sha256, added_at), UPDATE (ended_at) ON chancery.foreign_issuer
    TO chancery_foreign;
GRANT SELECT, INSERT (foreign_id, url) ON chancery.foreign_point TO chancery_foreign;
GRANT SELECT, INSERT (foreign_id, certificate, spki_sha256, added_at) ON chancery.foreign_delegate TO chancery_foreign;
GRANT SELECT, INSERT (point_id, number, base_number, this_update, next_update, sha256, freshest, imported_at)
    ON chancery.foreign_crl TO chancery_foreign;
GRANT SELECT, INSERT ON chancery.foreign_revoked TO chancery_foreign;
GRANT SELECT ON chancery.foreign_standing TO chancery_foreign;
GRANT INSERT (body) ON chancery.journal_event TO chancery_foreign;

-- The timestamping authority records, and finds the certificate of its own key.
GRANT SELECT ON chancery.issuer, chancery.certificate, chancery.certificate_status TO chancery_tsa;
GRANT SELECT ON chancery.issuer_certificate TO chancery_tsa;
GRANT SELECT (act_id, issuer_id, act) ON chancery.issuer_act TO chancery_tsa;
GRANT INSERT ON chancery.tsa_token TO chancery_tsa;
GRANT SELECT, INSERT (unit, ordering, added_at), UPDATE (last_gen_time) ON chancery.tsa_unit TO chancery_tsa;
GRANT SELECT, INSERT ON chancery.tsa_key TO chancery_tsa;
-- It lets its clients in and counts what they use; it adds none.
GRANT SELECT ON chancery.tsa_client TO chancery_tsa;
GRANT SELECT, INSERT, UPDATE (used) ON chancery.tsa_usage TO chancery_tsa;
GRANT INSERT (body) ON chancery.journal_event TO chancery_tsa;

-- The auditor reads everything.
GRANT SELECT ON ALL TABLES IN SCHEMA chancery TO chancery_auditor;
GRANT USAGE ON SCHEMA public TO chancery_auditor;
GRANT SELECT ON public.chancery_migration TO chancery_auditor;

-- Nobody creates anything beside the schema, and trigger functions are not for calling.
REVOKE ALL ON SCHEMA public FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA chancery FROM PUBLIC;
-- But for this one, which writes a switch and its event or neither,
GRANT EXECUTE ON FUNCTION chancery.switch_profile TO chancery_ra;
GRANT EXECUTE ON FUNCTION chancery.begin_year() TO chancery_worker;
GRANT EXECUTE ON FUNCTION chancery.forget_foreign_entries TO chancery_foreign;
-- and this one, which computes a column that the worker writes.
GRANT EXECUTE ON FUNCTION chancery.crl_entry TO chancery_worker;
