//! The CLI's HTTP client: it reaches the daemon over its admin socket, which is a file that only the owner may open.

use super::Global;
use crate::admin::Problem;
use crate::config::Config;
use crate::egress::{self, Address, RequestBuilder, Response, StatusCode};
use anyhow::{Context, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::path::PathBuf;

/// A connection to the daemon of a state folder.
#[derive(Debug)]
pub struct Client {
    http: egress::Client,
    socket: PathBuf,
}

impl Client {
    /// The daemon that the options mean; whether it answers shows at the first request.
    ///
    /// # Errors
    /// When the configuration is refused.
    pub fn new(global: &Global) -> anyhow::Result<Self> {
        Ok(Self::of(&Config::load(global.config.as_deref(), global.state.as_deref())?))
    }

    /// The daemon of a configuration.
    pub fn of(config: &Config) -> Self {
        let socket = config.admin_socket();
        Self { http: egress::internal(&Address::Unix(socket.clone())), socket }
    }

    /// `GET path`, and the JSON of its answer.
    ///
    /// # Errors
    /// When no daemon answers, or it answers with a problem.
    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.json(self.http.get(url(path))).await
    }

    /// Whether a daemon answers at all.
    ///
    /// # Errors
    /// When there may be one, and it cannot be asked.
    pub async fn is_running(&self) -> anyhow::Result<bool> {
        match self.http.get(url("/admin/v1/status")).send().await {
            Ok(_) => Ok(true),
            Err(error) => match io_kind(&error) {
                Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => Ok(false),
                _ => Err(self.unreachable(&error)),
            },
        }
    }

    /// `POST path` with a JSON body, and the JSON of its answer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> anyhow::Result<T> {
        self.json(self.http.post(url(path)).json(body)).await
    }

    /// `PUT path` with a JSON body; an answer's body is ignored.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn put(&self, path: &str, body: &impl Serialize) -> anyhow::Result<()> {
        self.send(self.http.put(url(path)).json(body)).await.map(drop)
    }

    /// `DELETE path`; an answer's body is ignored.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete(&self, path: &str) -> anyhow::Result<()> {
        self.send(self.http.delete(url(path))).await.map(drop)
    }

    /// `DELETE path`, and the JSON of its answer.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete_for<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        self.json(self.http.delete(url(path))).await
    }

    /// Whether `GET path` finds something.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn exists(&self, path: &str) -> anyhow::Result<bool> {
        let answer = self.http.get(url(path)).send().await.map_err(|error| self.unreachable(&error))?;
        match answer.status() {
            StatusCode::NOT_FOUND => Ok(false),
            status if status.is_success() => Ok(true),
            status => Err(refused(status, &answer.bytes().await.unwrap_or_default())),
        }
    }

    /// `GET path`, as it comes: for streams.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn get_raw(&self, path: &str) -> anyhow::Result<Response> {
        self.send(self.http.get(url(path))).await
    }

    /// `POST path` with a JSON body, as it comes: for streams.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn post_raw(&self, path: &str, body: &impl Serialize) -> anyhow::Result<Response> {
        self.send(self.http.post(url(path)).json(body)).await
    }

    /// `DELETE path`, as it comes: for streams.
    ///
    /// # Errors
    /// As [`Client::get`].
    pub async fn delete_raw(&self, path: &str) -> anyhow::Result<Response> {
        self.send(self.http.delete(url(path))).await
    }

    async fn json<T: DeserializeOwned>(&self, request: RequestBuilder) -> anyhow::Result<T> {
        let answer = self.send(request).await?.bytes().await.context("the daemon ended in the middle of its answer")?;
        // What has no content reads as `()`.
        let answer: &[u8] = if answer.is_empty() { b"null" } else { &answer };
        serde_json::from_slice(answer).context("the daemon's answer is not understood; is it of another version?")
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let answer = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = answer.status();
        if status.is_success() { Ok(answer) } else { Err(refused(status, &answer.bytes().await.unwrap_or_default())) }
    }

    fn unreachable(&self, error: &egress::HttpError) -> anyhow::Error {
        let socket = self.socket.display();
        match io_kind(error) {
            Some(std::io::ErrorKind::PermissionDenied) => {
                anyhow!(
                    "{socket} may be opened only by the user that runs the daemon; try again as that user, or with sudo"
                )
            }
            Some(std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused) => {
                anyhow!(
                    "no daemon answers at {socket}; start it with `sovereign serve`, or name its state folder with --state"
                )
            }
            _ => anyhow!("the daemon at {socket} broke off: {}", egress::causes(error)),
        }
    }
}

/// What the daemon said against it, in either of the shapes that it speaks.
fn refused(status: StatusCode, body: &[u8]) -> anyhow::Error {
    if let Ok(problem) = serde_json::from_slice::<Problem>(body) {
        return anyhow!("{problem}");
    }
    let openai = serde_json::from_slice::<serde_json::Value>(body).ok();
    match openai.as_ref().and_then(|body| body["error"]["message"].as_str()) {
        Some(message) => anyhow!("{message}"),
        None => anyhow!("the daemon answered {status}: {}", String::from_utf8_lossy(body).trim()),
    }
}

/// A path below the daemon; the host is only a name on a unix socket.
fn url(path: &str) -> String {
    format!("http://localhost{path}")
}

/// A name as one segment of a path, whatever stands in it.
pub fn path_segment(name: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    name.bytes()
        .map(|byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn io_kind(error: &egress::HttpError) -> Option<std::io::ErrorKind> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(io) = inner.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        cause = inner.source();
    }
    None
}

/// Runs a subcommand's future on this thread.
///
/// # Errors
/// The future's, or that the system gives no event queue.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("cannot start")?;
    let result = runtime.block_on(future);
    // Somebody may still wait for a line from the terminal; nobody wants it any more.
    runtime.shutdown_background();
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn without_a_daemon_it_says_how_to_start_one() {
        let dir = tempfile::tempdir().unwrap();
        let client = Client::of(&Config::default().with_state_dir(dir.path()));
        let error = client.get::<serde_json::Value>("/admin/v1/status").await.unwrap_err().to_string();
        let socket = dir.path().join("sovereign.sock");
        assert!(error.starts_with(&format!("no daemon answers at {}", socket.display())), "{error}");
        assert!(error.contains("`sovereign serve`"), "{error}");
        // One that was killed leaves its socket behind.
        drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
        let error = client.get::<serde_json::Value>("/admin/v1/status").await.unwrap_err().to_string();
        assert!(error.contains("`sovereign serve`"), "{error}");
    }

    #[test]
    fn names_become_segments() {
        let check = |name: &str, expected: &str| assert_eq!(path_segment(name), expected);
        check("laptop-1.home", "laptop-1.home");
        check("a/b c%", "a%2Fb%20c%25");
        check("ü", "%C3%BC");
    }

    #[test]
    fn what_the_daemon_says_reaches_the_person() {
        let check = |status: u16, body: &str, expected: &str| {
            let status = StatusCode::from_u16(status).unwrap();
            assert_eq!(refused(status, body.as_bytes()).to_string(), expected);
        };
        check(404, r#"{"status":404,"title":"Not Found","detail":"there is no key \"a\""}"#, "there is no key \"a\"");
        check(404, r#"{"error":{"message":"there is no model","code":"model_not_found"}}"#, "there is no model");
        check(502, "<html>", "the daemon answered 502 Bad Gateway: <html>");
    }
}
