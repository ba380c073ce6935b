-- The one administrator of the appliance. The row exists once the first-run set-up is done.
CREATE TABLE admin (
    id            INTEGER PRIMARY KEY CHECK (id = 1),
    password_hash TEXT    NOT NULL,             -- argon2id, PHC string
    created_at    INTEGER NOT NULL              -- unix seconds, as every time in this file
) STRICT;

-- Browser sessions. Only a digest of the cookie is kept: a copy of this file logs nobody in.
CREATE TABLE session (
    token_sha256 BLOB    PRIMARY KEY CHECK (length(token_sha256) = 32),
    csrf         TEXT    NOT NULL,
    created_at   INTEGER NOT NULL,
    expires_at   INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX session_expires_at ON session (expires_at);

-- API keys. The key has 256 random bits, so a plain digest is as good as a slow hash.
CREATE TABLE api_key (
    id           INTEGER PRIMARY KEY,
    name         TEXT    NOT NULL,
    prefix       TEXT    NOT NULL,              -- first characters, to tell keys apart on a page
    key_sha256   BLOB    NOT NULL UNIQUE CHECK (length(key_sha256) = 32),
    created_at   INTEGER NOT NULL,
    last_used_at INTEGER,
    revoked_at   INTEGER
) STRICT;
-- Two live keys of one name would make `key rm NAME` ambiguous.
CREATE UNIQUE INDEX api_key_live_name ON api_key (name) WHERE revoked_at IS NULL;

-- Models whose file is complete and verified.
CREATE TABLE model (
    name      TEXT    PRIMARY KEY,
    file      TEXT    NOT NULL,                 -- relative to the models folder, or absolute when adopted in place
    sha256    TEXT    NOT NULL CHECK (length(sha256) = 64),
    bytes     INTEGER NOT NULL CHECK (bytes > 0),
    source    TEXT    NOT NULL,                 -- the mirror that served it
    licence   TEXT,
    pulled_at INTEGER NOT NULL
) STRICT;

-- Digests resolved at a first pull: a later pull of the same source must match.
CREATE TABLE pin (
    source    TEXT    PRIMARY KEY,
    sha256    TEXT    NOT NULL CHECK (length(sha256) = 64),
    bytes     INTEGER NOT NULL,
    pinned_at INTEGER NOT NULL
) STRICT;

-- One row a finished request.
CREATE TABLE usage (
    id                INTEGER PRIMARY KEY,
    at                INTEGER NOT NULL,
    api_key_id        INTEGER REFERENCES api_key (id),
    model             TEXT    NOT NULL,
    runtime           TEXT    NOT NULL,
    prompt_tokens     INTEGER NOT NULL,
    completion_tokens INTEGER NOT NULL,
    first_token_ms    INTEGER,
    total_ms          INTEGER NOT NULL,
    status            INTEGER NOT NULL
) STRICT;
CREATE INDEX usage_at ON usage (at);

-- What the owner wants of a stack; Docker says what it is.
CREATE TABLE stack (
    name       TEXT    PRIMARY KEY,
    wanted     TEXT    NOT NULL CHECK (wanted IN ('up', 'down')),
    changed_at INTEGER NOT NULL
) STRICT;
