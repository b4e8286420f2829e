-- What the status counts exactly, however many certificates there are.
CREATE INDEX certificate_status_unconfirmed ON chancery.certificate_status (issuer_id, serial)
    WHERE state = 'unconfirmed';
