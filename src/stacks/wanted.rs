//! What the owner wants of stacks: the table `stack`.

use crate::db::{Db, now};
use std::collections::BTreeMap;

/// What is wanted of a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// That it runs.
    Up,
    /// That it does not; its volumes are kept.
    Down,
}

pub(super) async fn read(db: &Db) -> Result<BTreeMap<String, Wanted>, sqlx::Error> {
    let rows: Vec<(String, String)> = sqlx::query_as("SELECT name, wanted FROM stack").fetch_all(db.reader()).await?;
    let wanted = |text: &str| if text == "up" { Wanted::Up } else { Wanted::Down };
    Ok(rows.into_iter().map(|(name, text)| (name, wanted(&text))).collect())
}

pub(super) async fn write(db: &Db, name: &str, wanted: Option<Wanted>) -> Result<(), sqlx::Error> {
    let Some(wanted) = wanted else {
        sqlx::query("DELETE FROM stack WHERE name = ?").bind(name).execute(db.writer()).await?;
        return Ok(());
    };
    sqlx::query(
        "INSERT INTO stack (name, wanted, changed_at) VALUES (?, ?, ?)
         ON CONFLICT (name) DO UPDATE SET wanted = excluded.wanted, changed_at = excluded.changed_at",
    )
    .bind(name)
    .bind(if wanted == Wanted::Up { "up" } else { "down" })
    .bind(now())
    .execute(db.writer())
    .await?;
    Ok(())
}
