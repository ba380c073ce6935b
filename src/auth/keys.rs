//! API keys: 256 random bits each, shown once, kept as a digest.

use crate::db::{self, Db};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// What every key begins with, so that people and scanners for leaked secrets know one when they see one.
pub const KEY_PREFIX: &str = "sk-sov-";
/// Characters of a key that are kept readable: enough to tell keys apart, 36 of 256 bits.
const SHOWN: usize = KEY_PREFIX.len() + 6;

/// An API key, without its secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, sqlx::FromRow)]
pub struct Key {
    /// The row.
    pub id: i64,
    /// Unique among the keys that are not revoked.
    pub name: String,
    /// The key's first characters.
    pub prefix: String,
    /// Unix seconds.
    pub created_at: i64,
    /// Unix seconds; when a model last answered it.
    pub last_used_at: Option<i64>,
}

/// The API keys.
#[derive(Debug, Clone)]
pub struct Keys {
    db: Db,
}

impl Keys {
    /// The keys in `db`.
    pub fn open(db: Db) -> Self {
        Self { db }
    }

    /// Makes a key. The secret is in the answer and nowhere else: only its digest is kept.
    ///
    /// # Errors
    /// When the name is taken or unusable.
    pub async fn create(&self, name: &str) -> Result<(Key, String), KeyError> {
        let fine = |c: char| c.is_alphanumeric() || "-_.@ ".contains(c);
        if name.is_empty() || name.len() > 64 || name.trim() != name || !name.chars().all(fine) {
            return Err(KeyError::Name(name.chars().take(64).collect()));
        }
        let mut random = [0_u8; 32];
        getrandom::fill(&mut random).map_err(|error| KeyError::Random(error.to_string()))?;
        let secret = format!("{KEY_PREFIX}{}", URL_SAFE_NO_PAD.encode(random));
        let inserted = sqlx::query_as(
            "INSERT INTO api_key (name, prefix, key_sha256, created_at) VALUES (?, ?, ?, ?)
             RETURNING id, name, prefix, created_at, last_used_at",
        )
        .bind(name)
        .bind(&secret[..SHOWN])
        .bind(digest(&secret))
        .bind(db::now())
        .fetch_one(self.db.writer())
        .await;
        match inserted {
            Ok(key) => Ok((key, secret)),
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Err(KeyError::Taken(name.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// The keys that are not revoked, by name.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<Key>, KeyError> {
        let keys = sqlx::query_as(
            "SELECT id, name, prefix, created_at, last_used_at FROM api_key WHERE revoked_at IS NULL ORDER BY name",
        )
        .fetch_all(self.db.reader())
        .await?;
        Ok(keys)
    }

    /// Revokes a key at once. The row stays, for the usage that names it.
    ///
    /// # Errors
    /// When there is no such key.
    pub async fn revoke(&self, name: &str) -> Result<(), KeyError> {
        let done = sqlx::query("UPDATE api_key SET revoked_at = ? WHERE name = ? AND revoked_at IS NULL")
            .bind(db::now())
            .bind(name)
            .execute(self.db.writer())
            .await?;
        match done.rows_affected() {
            0 => Err(KeyError::Unknown(name.to_string())),
            _ => Ok(()),
        }
    }

    /// Whose key this is, if it is one and not revoked.
    ///
    /// It is looked up by its digest: what the time of the look-up tells is about the digest, which nobody can steer.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify(&self, secret: &str) -> Result<Option<Key>, KeyError> {
        if !secret.starts_with(KEY_PREFIX) {
            return Ok(None);
        }
        let key = sqlx::query_as(
            "SELECT id, name, prefix, created_at, last_used_at FROM api_key
             WHERE key_sha256 = ? AND revoked_at IS NULL",
        )
        .bind(digest(secret))
        .fetch_optional(self.db.reader())
        .await?;
        Ok(key)
    }
}

fn digest(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

/// Why nothing was done with a key.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Two live keys of one name would make revoking ambiguous.
    #[error("there is a key named {0:?} already; choose another name, or remove that one first")]
    Taken(String),
    /// No key to revoke.
    #[error("there is no key named {0:?}")]
    Unknown(String),
    /// The name would not read well in a list or an address.
    #[error("{0:?} cannot name a key; use 1 to 64 letters, digits, spaces inside, or - _ . @")]
    Name(String),
    /// The kernel gives no randomness.
    #[error("no random bytes: {0}")]
    Random(String),
    /// The database.
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_life_of_a_key() {
        let dir = tempfile::tempdir().unwrap();
        let keys = Keys::open(Db::open_main(&dir.path().join("sovereign.db")).await.unwrap());
        let (key, secret) = keys.create("laptop").await.unwrap();
        assert_eq!(secret.len(), KEY_PREFIX.len() + 43);
        assert!(secret.starts_with(&key.prefix));
        assert_eq!(keys.verify(&secret).await.unwrap(), Some(key.clone()));
        assert_eq!(keys.list().await.unwrap(), [key]);

        assert!(matches!(keys.create("laptop").await, Err(KeyError::Taken(_))));
        for name in ["", " laptop", "a/b", "a\nb", &"x".repeat(65)] {
            assert!(matches!(keys.create(name).await, Err(KeyError::Name(_))), "{name:?}");
        }

        keys.revoke("laptop").await.unwrap();
        assert_eq!(keys.verify(&secret).await.unwrap(), None);
        assert!(matches!(keys.revoke("laptop").await, Err(KeyError::Unknown(_))));
        // The name is free again.
        let (_, second) = keys.create("laptop").await.unwrap();
        assert_ne!(second, secret);
        let wrong = format!("{}x", &second[..second.len() - 1]);
        for wrong in ["", "sk-sov-", &wrong, "sk-other"] {
            assert_eq!(keys.verify(wrong).await.unwrap(), None, "{wrong}");
        }
    }
}
