-- What tenants were seen to hold and how long they took to start, by what ran.
CREATE TABLE footprint (
    key     TEXT PRIMARY KEY,
    vram    INTEGER NOT NULL,
    load_ms INTEGER NOT NULL,
    seen_at INTEGER NOT NULL
) STRICT;
