-- What left the house, and what was decided about it. Rows are only ever added.
CREATE TABLE entry (
    seq  INTEGER PRIMARY KEY CHECK (seq > 0),
    -- What happened, repeated from the body so that decisions are found without reading everything.
    kind TEXT NOT NULL,
    -- The JSON that the hash covers, byte for byte.
    body TEXT NOT NULL,
    -- SHA-256 of the previous row's hash, this row's number and its body.
    hash BLOB NOT NULL CHECK (length(hash) = 32)
) STRICT;

-- Consents, refusals for good and switches: read when the daemon starts.
CREATE INDEX entry_decision ON entry (seq) WHERE kind IN ('allowed', 'denied', 'revoked', 'offline', 'online', 'set');

-- How a connection ended, by the row that opened it.
CREATE INDEX entry_closed ON entry (json_extract(body, '$.opened')) WHERE kind = 'closed';

-- What was sent, as text, beside the row whose digest covers it: this may be erased, the row not.
CREATE TABLE text (
    seq  INTEGER PRIMARY KEY REFERENCES entry (seq),
    text TEXT NOT NULL
) STRICT;
