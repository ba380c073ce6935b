//! Who sits at the browser: the first-run set-up, the password, sessions and their CSRF tokens.
//!
//! There is one administrator. A session is a random cookie of which the database keeps only a digest; with it goes a
//! CSRF token that every unsafe request repeats, in the hidden field `csrf` or in the header `x-csrf-token`.

use super::throttle::Throttle;
use crate::db::{Db, now};
use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The name of the session cookie.
const COOKIE: &str = "sovereign_session";
/// The header that repeats a session's CSRF token.
pub const CSRF_HEADER: &str = "x-csrf-token";
/// The shortest password that is accepted, in characters.
pub const PASSWORD_MIN: usize = 8;
/// The longest: argon2 reads all of it, and nobody types a megabyte.
const PASSWORD_MAX: usize = 1024;
const LIFETIME: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A browser that has logged in.
#[derive(Clone, PartialEq, Eq)]
pub struct Session {
    /// What its unsafe requests must repeat.
    pub csrf: String,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Session")
    }
}

impl Session {
    /// Whether a request may act in this session's name: safe methods always, others with its CSRF token in a header.
    pub fn allows(&self, method: &Method, headers: &HeaderMap) -> bool {
        method.is_safe() || headers.get(CSRF_HEADER).is_some_and(|token| self.owns(token.as_bytes()))
    }

    /// Whether `token` is this session's CSRF token.
    pub fn owns(&self, token: &[u8]) -> bool {
        // Digests are compared, so that the time taken tells nothing about the token.
        Sha256::digest(token) == Sha256::digest(self.csrf.as_bytes())
    }
}

/// The handle on set-up, password and sessions. Cheap to clone.
#[derive(Clone)]
pub struct Sessions(Arc<Inner>);

impl std::fmt::Debug for Sessions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The set-up token is a secret, and what is Debug lands in a log one day.
        f.debug_struct("Sessions").finish_non_exhaustive()
    }
}

struct Inner {
    db: Db,
    /// The one-time token of the set-up link, while no administrator exists. Never written anywhere.
    setup: Mutex<Option<String>>,
    /// Verifying costs 19 MiB and some 50 ms: one at a time, and behind the back-off.
    throttle: tokio::sync::Mutex<Throttle>,
}

impl Sessions {
    /// Opens the table. While it holds no administrator, a set-up token is drawn.
    ///
    /// # Errors
    /// When the database cannot be read, or the system gives no random bytes.
    pub async fn open(db: Db) -> Result<Self, SessionError> {
        let admin: Option<i64> = sqlx::query_scalar("SELECT id FROM admin").fetch_optional(db.reader()).await?;
        let setup = if admin.is_some() { None } else { Some(random()?) };
        Ok(Self(Arc::new(Inner { db, setup: Mutex::new(setup), throttle: tokio::sync::Mutex::default() })))
    }

    /// The token for `http://HOST:PORT/setup?token=...`; none once the administrator exists.
    pub fn setup_token(&self) -> Option<String> {
        self.setup().clone()
    }

    /// Whether `token` opens the set-up page.
    pub fn may_set_up(&self, token: &str) -> bool {
        self.setup().as_ref().is_some_and(|own| Sha256::digest(own.as_bytes()) == Sha256::digest(token.as_bytes()))
    }

    fn setup(&self) -> MutexGuard<'_, Option<String>> {
        self.0.setup.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sets the administrator's password, which consumes the set-up token, and logs in.
    ///
    /// # Errors
    /// [`SessionError::Token`] when the link is not, or no longer, the right one; [`SessionError::Password`] when it is refused.
    pub async fn set_up(&self, token: &str, password: String) -> Result<Opened, SessionError> {
        if !self.may_set_up(token) {
            return Err(SessionError::Token);
        }
        check_password(&password)?;
        let _one_at_a_time = self.0.throttle.lock().await;
        let hash = blocking(move || Argon2::default().hash_password(password.as_bytes()).map(|hash| hash.to_string()))
            .await?
            .map_err(|error| SessionError::Hash(error.to_string()))?;
        // A second request with the same token that was quicker has made the row: then this one changes nothing.
        let made =
            sqlx::query("INSERT INTO admin (id, password_hash, created_at) VALUES (1, ?, ?) ON CONFLICT DO NOTHING")
                .bind(hash)
                .bind(now())
                .execute(self.0.db.writer())
                .await?;
        *self.setup() = None;
        if made.rows_affected() == 0 {
            return Err(SessionError::Token);
        }
        self.start().await
    }

    /// Logs in.
    ///
    /// # Errors
    /// [`SessionError::Wrong`], or [`SessionError::Wait`] after several wrong ones.
    pub async fn log_in(&self, password: String) -> Result<Opened, SessionError> {
        let mut throttle = self.0.throttle.lock().await;
        if let Some(wait) = throttle.wait(Instant::now()) {
            return Err(SessionError::Wait(wait));
        }
        let hash: Option<String> =
            sqlx::query_scalar("SELECT password_hash FROM admin").fetch_optional(self.0.db.reader()).await?;
        let right = match hash {
            Some(hash) if password.len() <= PASSWORD_MAX => blocking(move || verify(&password, &hash)).await??,
            _ => false,
        };
        if !right {
            throttle.failed(Instant::now());
            tracing::warn!("a log-in to the dashboard failed: wrong password");
            return Err(SessionError::Wrong);
        }
        *throttle = Throttle::default();
        drop(throttle);
        self.start().await
    }

    async fn start(&self) -> Result<Opened, SessionError> {
        let (token, csrf) = (random()?, random()?);
        let lifetime = i64::try_from(LIFETIME.as_secs()).unwrap_or(i64::MAX);
        sqlx::query("DELETE FROM session WHERE expires_at <= ?").bind(now()).execute(self.0.db.writer()).await?;
        sqlx::query("INSERT INTO session (token_sha256, csrf, created_at, expires_at) VALUES (?, ?, ?, ?)")
            .bind(digest(&token))
            .bind(&csrf)
            .bind(now())
            .bind(now().saturating_add(lifetime))
            .execute(self.0.db.writer())
            .await?;
        Ok(Opened { cookie: cookie(&token, LIFETIME)?, session: Session { csrf } })
    }

    /// The session that a request belongs to, by its cookie. A database that fails logs nobody in.
    pub async fn check(&self, headers: &HeaderMap) -> Option<Session> {
        let token = cookie_of(headers)?;
        let csrf: Result<Option<String>, _> =
            sqlx::query_scalar("SELECT csrf FROM session WHERE token_sha256 = ? AND expires_at > ?")
                .bind(digest(token))
                .bind(now())
                .fetch_optional(self.0.db.reader())
                .await;
        match csrf {
            Ok(csrf) => csrf.map(|csrf| Session { csrf }),
            Err(error) => {
                tracing::error!(%error, "sessions cannot be read; browsers count as logged out until they can");
                None
            }
        }
    }

    /// Ends the session of a request; the answer carries the returned cookie, which has run out.
    ///
    /// # Errors
    /// When the database cannot be written: the session still stands.
    pub async fn log_out(&self, headers: &HeaderMap) -> Result<HeaderValue, SessionError> {
        if let Some(token) = cookie_of(headers) {
            sqlx::query("DELETE FROM session WHERE token_sha256 = ?")
                .bind(digest(token))
                .execute(self.0.db.writer())
                .await?;
        }
        cookie("", Duration::ZERO)
    }
}

/// A session that was just opened.
#[derive(Debug)]
pub struct Opened {
    /// The `Set-Cookie` of the answer.
    pub cookie: HeaderValue,
    /// The session.
    pub session: Session,
}

fn verify(password: &str, hash: &str) -> Result<bool, SessionError> {
    let hash = PasswordHash::new(hash).map_err(|error| SessionError::Hash(error.to_string()))?;
    Ok(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

fn check_password(password: &str) -> Result<(), SessionError> {
    if password.chars().count() < PASSWORD_MIN {
        return Err(SessionError::Password(format!("The password needs at least {PASSWORD_MIN} characters.")));
    }
    if password.len() > PASSWORD_MAX {
        return Err(SessionError::Password(format!("The password is longer than {PASSWORD_MAX} bytes.")));
    }
    Ok(())
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, SessionError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| SessionError::Hash(error.to_string()))
}

/// 256 random bits as text that fits a cookie, a URL and a form.
fn random() -> Result<String, SessionError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| SessionError::Random(error.to_string()))?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

fn digest(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}

fn cookie_of(headers: &HeaderMap) -> Option<&str> {
    headers
        .get_all(header::COOKIE)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .find_map(|(name, value)| (name == COOKIE).then_some(value))
}

// No `Secure`: the appliance speaks plain HTTP at home; a browser would drop the cookie there.
fn cookie(token: &str, age: Duration) -> Result<HeaderValue, SessionError> {
    HeaderValue::try_from(format!("{COOKIE}={token}; Path=/; HttpOnly; SameSite=Strict; Max-Age={}", age.as_secs()))
        .map_err(|error| SessionError::Random(error.to_string()))
}

/// Why nobody was logged in.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The set-up link: 403.
    #[error("This set-up link is not valid. The daemon prints the right one when it starts.")]
    Token,
    /// The new password: 422.
    #[error("{0}")]
    Password(String),
    /// The password at the log-in: 401.
    #[error("That is not the password.")]
    Wrong,
    /// Too many wrong ones: 429.
    #[error("Too many wrong passwords. Try again in {} s.", .0.as_secs().max(1))]
    Wait(Duration),
    /// The database: 500.
    #[error("the sessions cannot be read or written: {0}")]
    Database(#[from] sqlx::Error),
    /// Hashing: 500.
    #[error("the password could not be hashed: {0}")]
    Hash(String),
    /// The system's random bytes: 500.
    #[error("no session token could be made: {0}")]
    Random(String),
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn sessions() -> (tempfile::TempDir, Sessions) {
        let folder = tempfile::tempdir().expect("a folder");
        let db = Db::open_main(&folder.path().join("sovereign.db")).await.expect("a database");
        let sessions = Sessions::open(db).await.expect("sessions");
        (folder, sessions)
    }

    fn with_cookie(cookie: &HeaderValue) -> HeaderMap {
        let pair = cookie.to_str().expect("text").split(';').next().expect("a pair");
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("theme=dark; {pair}").parse().expect("a header"));
        headers
    }

    #[tokio::test]
    async fn set_up_happens_once() {
        let (_folder, sessions) = sessions().await;
        let token = sessions.setup_token().expect("a token");
        let refused =
            |result: Result<Opened, SessionError>| result.err().map(|error| error.to_string()).expect("refused");

        assert!(refused(sessions.set_up("guess", "long enough".into()).await).contains("set-up link"));
        assert!(refused(sessions.set_up(&token, "short".into()).await).contains("at least 8"));
        let opened = sessions.set_up(&token, "long enough".into()).await.expect("set up");
        assert_eq!(sessions.check(&with_cookie(&opened.cookie)).await, Some(opened.session));

        assert_eq!(sessions.setup_token(), None);
        assert!(refused(sessions.set_up(&token, "another one".into()).await).contains("set-up link"));
    }

    #[tokio::test]
    async fn log_in_and_out() {
        let (_folder, sessions) = sessions().await;
        let token = sessions.setup_token().expect("a token");
        sessions.set_up(&token, "correct horse".into()).await.expect("set up");

        assert!(matches!(sessions.log_in("wrong horse".into()).await, Err(SessionError::Wrong)));
        let opened = sessions.log_in("correct horse".into()).await.expect("logged in");
        let text = opened.cookie.to_str().expect("text");
        assert!(text.contains("HttpOnly") && text.contains("SameSite=Strict") && text.contains("Max-Age=2592000"));

        let headers = with_cookie(&opened.cookie);
        let session = sessions.check(&headers).await.expect("a session");
        assert!(session.allows(&Method::GET, &HeaderMap::new()));
        assert!(!session.allows(&Method::POST, &HeaderMap::new()));
        let mut with_csrf = HeaderMap::new();
        with_csrf.insert(CSRF_HEADER, session.csrf.parse().expect("a header"));
        assert!(session.allows(&Method::POST, &with_csrf));

        sessions.log_out(&headers).await.expect("logged out");
        assert_eq!(sessions.check(&headers).await, None);
        assert_eq!(sessions.check(&HeaderMap::new()).await, None);
    }

    #[tokio::test]
    async fn guessing_is_slowed() {
        let (_folder, sessions) = sessions().await;
        let token = sessions.setup_token().expect("a token");
        sessions.set_up(&token, "correct horse".into()).await.expect("set up");
        let mut waits = 0;
        for _ in 0..8 {
            waits += usize::from(matches!(sessions.log_in("guess".into()).await, Err(SessionError::Wait(_))));
        }
        assert!(waits >= 2, "{waits} of 8 guesses had to wait");
    }
}
