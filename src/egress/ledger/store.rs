//! The ledger's rows in SQLite.

use super::entry::{Hash, Row};
use crate::db::Db;
use futures_util::Stream;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row as _, SqlitePool};

/// Rows of one statement: four variables each, of the 32,766 that SQLite allows.
const AT_ONCE: usize = 500;

/// Adds rows, and texts beside them, in one transaction.
pub(super) async fn add(db: &Db, rows: &[Row], texts: &[(u64, String)], erased: &[u64]) -> sqlx::Result<()> {
    let mut transaction = db.writer().begin().await?;
    for some in rows.chunks(AT_ONCE) {
        let mut insert = QueryBuilder::new("INSERT INTO entry (seq, kind, body, hash) ");
        insert.push_values(some, |mut values, row| {
            values.push_bind(row.seq as i64).push_bind(&row.kind).push_bind(&row.body).push_bind(&row.hash[..]);
        });
        // Batches differ in length, and so do their statements: only full ones are worth keeping.
        insert.build().persistent(some.len() == AT_ONCE).execute(&mut *transaction).await?;
    }
    for (seq, text) in texts {
        let insert = sqlx::query("INSERT INTO text (seq, text) VALUES (?, ?)");
        insert.bind(*seq as i64).bind(text).execute(&mut *transaction).await?;
    }
    for seq in erased {
        sqlx::query("DELETE FROM text WHERE seq = ?").bind(*seq as i64).execute(&mut *transaction).await?;
    }
    transaction.commit().await
}

/// The last row.
pub(super) async fn last(pool: &SqlitePool) -> sqlx::Result<Option<Row>> {
    let row = sqlx::query("SELECT seq, kind, body, hash FROM entry ORDER BY seq DESC LIMIT 1").try_map(row);
    row.fetch_optional(pool).await
}

/// One row.
pub(super) async fn find(pool: &SqlitePool, seq: u64) -> sqlx::Result<Option<Row>> {
    let query = sqlx::query("SELECT seq, kind, body, hash FROM entry WHERE seq = ?").bind(seq as i64);
    query.try_map(row).fetch_optional(pool).await
}

/// Up to `limit` rows before `before`, the latest first.
pub(super) async fn before(pool: &SqlitePool, before: u64, limit: u32) -> sqlx::Result<Vec<Row>> {
    let query = sqlx::query("SELECT seq, kind, body, hash FROM entry WHERE seq < ? ORDER BY seq DESC LIMIT ?");
    query.bind(i64::try_from(before).unwrap_or(i64::MAX)).bind(limit).try_map(row).fetch_all(pool).await
}

/// The rows that close connections which these rows opened.
pub(super) async fn closing(pool: &SqlitePool, opened: &[u64]) -> sqlx::Result<Vec<Row>> {
    let mut query = QueryBuilder::new(
        "SELECT seq, kind, body, hash FROM entry WHERE kind = 'closed' AND json_extract(body, '$.opened') IN (",
    );
    let mut numbers = query.separated(", ");
    for opened in opened {
        numbers.push_bind(*opened as i64);
    }
    query.push(")").build().persistent(false).try_map(row).fetch_all(pool).await
}

/// Which of these rows still have their text.
pub(super) async fn with_text(pool: &SqlitePool, rows: &[u64]) -> sqlx::Result<Vec<u64>> {
    let mut query = QueryBuilder::new("SELECT seq FROM text WHERE seq IN (");
    let mut numbers = query.separated(", ");
    for row in rows {
        numbers.push_bind(*row as i64);
    }
    query.push(")").build().persistent(false).try_map(|row: SqliteRow| number(&row, "seq")).fetch_all(pool).await
}

/// Up to `limit` rows after `after`, in order.
pub(super) async fn after(pool: &SqlitePool, after: u64, limit: u32) -> sqlx::Result<Vec<Row>> {
    let query = sqlx::query("SELECT seq, kind, body, hash FROM entry WHERE seq > ? ORDER BY seq LIMIT ?");
    query.bind(after as i64).bind(limit).try_map(row).fetch_all(pool).await
}

/// What the owner decided, from the first decision on.
pub(super) async fn decisions(pool: &SqlitePool) -> sqlx::Result<Vec<Row>> {
    let query = sqlx::query(
        "SELECT seq, kind, body, hash FROM entry
         WHERE kind IN ('allowed', 'denied', 'revoked', 'offline', 'online', 'set') ORDER BY seq",
    );
    query.try_map(row).fetch_all(pool).await
}

/// What SQLite says of the file: `ok`, or what is wrong with it.
pub(super) async fn integrity(pool: &SqlitePool) -> sqlx::Result<String> {
    let check = sqlx::query("PRAGMA integrity_check(1)");
    check.try_map(|row: SqliteRow| row.try_get(0)).fetch_one(pool).await
}

/// Every row, from the first one on.
pub(super) fn all(pool: &SqlitePool) -> impl Stream<Item = sqlx::Result<Row>> + Send + '_ {
    sqlx::query("SELECT seq, kind, body, hash FROM entry ORDER BY seq").try_map(row).fetch(pool)
}

/// Every text that is kept, with the number of the row that it lies beside.
pub(super) fn texts(pool: &SqlitePool) -> impl Stream<Item = sqlx::Result<(u64, String)>> + Send + '_ {
    let pair = |row: SqliteRow| Ok((number(&row, "seq")?, row.try_get("text")?));
    sqlx::query("SELECT seq, text FROM text ORDER BY seq").try_map(pair).fetch(pool)
}

/// One text.
pub(super) async fn text(pool: &SqlitePool, seq: u64) -> sqlx::Result<Option<String>> {
    let query = sqlx::query("SELECT text FROM text WHERE seq = ?").bind(seq as i64);
    query.try_map(|row: SqliteRow| row.try_get("text")).fetch_optional(pool).await
}

fn row(row: SqliteRow) -> sqlx::Result<Row> {
    let hash: Vec<u8> = row.try_get("hash")?;
    let hash: Hash = hash.try_into().map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()))?;
    Ok(Row { seq: number(&row, "seq")?, kind: row.try_get("kind")?, body: row.try_get("body")?, hash })
}

fn number(row: &SqliteRow, column: &str) -> sqlx::Result<u64> {
    let number: i64 = row.try_get(column)?;
    u64::try_from(number).map_err(|_| sqlx::Error::Decode(format!("{column} is {number}").into()))
}
