//! What tenants were seen to hold: the table `footprint`.

use super::{Db, now};

/// What one way of running a model was seen to take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Footprint {
    /// The most bytes of cards that it was seen to hold.
    pub vram: u64,
    /// How long its last start took, in milliseconds; 0 where none was seen.
    pub load_ms: u64,
}

/// All that is known, by what ran.
///
/// # Errors
/// When the database cannot be read.
pub async fn all(db: &Db) -> Result<Vec<(String, Footprint)>, sqlx::Error> {
    let rows: Vec<(String, i64, i64)> =
        sqlx::query_as("SELECT key, vram, load_ms FROM footprint").fetch_all(db.reader()).await?;
    let footprint =
        |vram: i64, load_ms: i64| Footprint { vram: vram.cast_unsigned(), load_ms: load_ms.cast_unsigned() };
    Ok(rows.into_iter().map(|(key, vram, load_ms)| (key, footprint(vram, load_ms))).collect())
}

/// Remembers one.
///
/// # Errors
/// When the database cannot be written.
pub async fn save(db: &Db, key: &str, footprint: Footprint) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO footprint (key, vram, load_ms, seen_at) VALUES (?, ?, ?, ?)
         ON CONFLICT (key) DO UPDATE SET vram = excluded.vram, load_ms = excluded.load_ms, seen_at = excluded.seen_at",
    )
    .bind(key)
    .bind(footprint.vram.cast_signed())
    .bind(footprint.load_ms.cast_signed())
    .bind(now())
    .execute(db.writer())
    .await?;
    Ok(())
}
