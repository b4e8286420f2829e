-- The worker is told what kind of work there is, by the table it is in, and looks for nothing else.
CREATE OR REPLACE FUNCTION chancery.work_notify() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_request', TG_TABLE_NAME);
    RETURN NULL;
END $$;
CREATE OR REPLACE FUNCTION chancery.request_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('chancery_outcome', string_agg(id::text, ','))
    FROM (SELECT request_id AS id, (row_number() OVER () - 1) / 350 AS part
          FROM changed WHERE state IN ('done', 'refused')) AS settled
    GROUP BY part;
    IF EXISTS (SELECT FROM changed WHERE state = 'waiting') THEN
        PERFORM pg_notify('chancery_request', TG_TABLE_NAME);
    END IF;
    RETURN NULL;
END $$;
