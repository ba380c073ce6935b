//! The SQLite files: `sovereign.db` (what must survive), `egress.db` (what left the house; see `egress`) and `metrics.db`
//! (what may lose its last second).
//!
//! SQLite before 3.51.3 can lose committed WAL writes when two connections write or checkpoint at once, and the
//! bundled one is older. So each file has exactly one connection that writes and checkpoints, and readers that are
//! opened read-only. Queries live beside the noun that they serve: one file a table family.

pub mod footprint;
pub mod usage;

use sqlx::migrate::Migrator;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{Executor, SqlitePool};
use std::fs::OpenOptions;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

static MAIN: Migrator = sqlx::migrate!("migrations/main");
static METRICS: Migrator = sqlx::migrate!("migrations/metrics");
static EGRESS: Migrator = sqlx::migrate!("migrations/egress");

/// One SQLite file: a writer of one connection and read-only readers.
#[derive(Debug, Clone)]
pub struct Db {
    writer: SqlitePool,
    reader: SqlitePool,
}

impl Db {
    /// Opens `sovereign.db`: each commit is on the disk before it returns.
    ///
    /// # Errors
    /// When the file cannot be opened, or a migration fails.
    pub async fn open_main(path: &Path) -> Result<Db, Error> {
        Self::open(path, SqliteSynchronous::Full, &MAIN).await
    }

    /// Opens `metrics.db`: a power cut may take the last rows, never the file.
    ///
    /// # Errors
    /// When the file cannot be opened, or a migration fails.
    pub async fn open_metrics(path: &Path) -> Result<Db, Error> {
        Self::open(path, SqliteSynchronous::Normal, &METRICS).await
    }

    /// Opens `egress.db`: each commit is on the disk before what it tells of leaves the house.
    ///
    /// # Errors
    /// When the file cannot be opened, or a migration fails.
    pub async fn open_egress(path: &Path) -> Result<Db, Error> {
        Self::open(path, SqliteSynchronous::Full, &EGRESS).await
    }

    async fn open(path: &Path, synchronous: SqliteSynchronous, migrations: &Migrator) -> Result<Db, Error> {
        let failed = |source| Error::Open { path: path.display().to_string(), source };
        // Only its owner reads it, even where the folder is open to others; SQLite gives its other files the same mode.
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(path)
            .map_err(|error| failed(sqlx::Error::Io(error)))?;
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(synchronous)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(5));
        // A connection that idles is kept: closing the last writer would checkpoint behind our back.
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_with(options.clone())
            .await
            .map_err(failed)?;
        migrations.run(&writer).await.map_err(|source| Error::Migrate { path: path.display().to_string(), source })?;
        let reader = SqlitePoolOptions::new()
            .max_connections(2)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await
            .map_err(failed)?;
        Ok(Db { writer, reader })
    }

    /// The connection that writes. Hold it for a statement or a transaction, never across other waits.
    pub fn writer(&self) -> &SqlitePool {
        &self.writer
    }

    /// Read-only connections.
    pub fn reader(&self) -> &SqlitePool {
        &self.reader
    }

    /// Moves the write-ahead log into the file and closes it. What was committed is safe without it.
    pub async fn close(&self) {
        self.reader.close().await;
        if let Err(error) = self.writer.execute("PRAGMA wal_checkpoint(TRUNCATE)").await {
            tracing::warn!(%error, "the database could not be checkpointed; its log will be replayed at the next start");
        }
        self.writer.close().await;
    }
}

/// Opens a file of a daemon that may not run, to be read: nothing is made, and nothing migrated.
///
/// # Errors
/// When there is none, or it cannot be opened.
pub async fn read_only(path: &Path) -> Result<SqlitePool, Error> {
    let options = SqliteConnectOptions::new().filename(path).read_only(true).create_if_missing(false);
    let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await;
    pool.map_err(|source| Error::Open { path: path.display().to_string(), source })
}

/// Seconds since 1970, the unit of every time column.
pub fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// Why a database could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file or its folder.
    #[error("cannot open the database {path}: {source}")]
    Open {
        /// The file.
        path: String,
        /// What SQLite said.
        source: sqlx::Error,
    },
    /// The schema.
    #[error("cannot migrate the database {path}: {source}; was it written by a newer sovereign?")]
    Migrate {
        /// The file.
        path: String,
        /// What the migration said.
        source: sqlx::migrate::MigrateError,
    },
}
