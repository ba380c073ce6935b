-- Minute means of what the probe samples every second. Absent means that the card does not report it.
CREATE TABLE gpu_minute (
    minute        INTEGER NOT NULL,             -- unix seconds / 60
    uuid          TEXT    NOT NULL,
    used_bytes    INTEGER,                      -- the largest of the minute: peaks decide what fits
    utilisation   REAL,                         -- percent
    power_watts   REAL,
    celsius       REAL,
    PRIMARY KEY (minute, uuid)
) STRICT, WITHOUT ROWID;

CREATE TABLE host_minute (
    minute         INTEGER PRIMARY KEY,
    used_bytes     INTEGER NOT NULL,
    cpu_percent    REAL    NOT NULL
) STRICT;
