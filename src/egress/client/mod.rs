//! The HTTP client for the outside: one request, one connection, one row of the ledger.

mod redirect;
mod tls;

pub(super) use tls::Trust;

use super::error::Error;
use super::gate::Egress;
use super::ledger::hex;
use super::wish::{Class, Errand, Initiator, Sent, Wish};
use super::{StatusCode, Url, causes};
use http_body_util::{BodyExt, Full};
use hyper::Method;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper_util::rt::TokioIo;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::task::AbortHandle;

/// Without progress for that long a transfer is dead; its whole length has no limit.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longer texts are not kept beside the ledger.
const LONGEST_TEXT: usize = 1 << 20;

/// A client for one errand. What is allowed once is allowed until it is dropped.
#[derive(Debug, Clone)]
pub struct Outside {
    egress: Egress,
    class: Class,
    initiator: Initiator,
    what: String,
    errand: Errand,
}

impl Outside {
    pub(super) fn new(egress: Egress, class: Class, initiator: Initiator, what: String) -> Self {
        Self { egress, class, initiator, what, errand: Errand::default() }
    }

    /// A `GET` of `url`.
    pub fn get(&self, url: Url) -> Request {
        self.request(Method::GET, url)
    }

    /// A `HEAD` of `url`.
    pub fn head(&self, url: Url) -> Request {
        self.request(Method::HEAD, url)
    }

    /// A `POST` of `body` to `url`.
    pub fn post(&self, url: Url, body: impl Into<Bytes>) -> Request {
        Request { body: body.into(), ..self.request(Method::POST, url) }
    }

    fn request(&self, method: Method, url: Url) -> Request {
        let (headers, body) = (HeaderMap::new(), Bytes::new());
        Request { outside: self.clone(), method, url, headers, body, redirects: true, stranger: false, invalid: None }
    }
}

/// A request that is not sent yet.
#[derive(Debug, Clone)]
#[must_use = "nothing is sent before `send`"]
pub struct Request {
    outside: Outside,
    method: Method,
    url: Url,
    headers: HeaderMap,
    body: Bytes,
    redirects: bool,
    /// Whether somebody outside led here.
    stranger: bool,
    /// A header that is none.
    invalid: Option<&'static str>,
}

impl Request {
    /// With a header.
    pub fn header(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        match HeaderValue::from_str(value.as_ref()) {
            Ok(value) => drop(self.headers.insert(name, value)),
            Err(_) => self.invalid = Some("a header holds what no header may"),
        }
        self
    }

    /// With a secret for this host alone: no redirect takes it elsewhere.
    pub fn bearer_auth(mut self, token: &str) -> Self {
        match HeaderValue::from_str(&format!("Bearer {token}")) {
            Ok(mut value) => {
                value.set_sensitive(true);
                self.headers.insert(header::AUTHORIZATION, value);
            }
            Err(_) => self.invalid = Some("the token holds what no header may"),
        }
        self
    }

    /// A redirect is an answer like any other: for protocols that say in it what was found.
    pub fn unredirected(mut self) -> Self {
        self.redirects = false;
        self
    }

    /// Sends it, and follows redirects, each of which is admitted anew.
    ///
    /// # Errors
    /// When it may not leave, nothing answers, or a redirect leads where it must not.
    pub async fn send(mut self) -> Result<Reply, Error> {
        for _ in 0..=redirect::MOST {
            let answer = self.once().await?;
            let to = answer.headers.get(header::LOCATION).filter(|_| redirect::is_one(answer.status));
            let Some(to) = to.filter(|_| self.redirects) else { return Ok(answer) };
            let (status, to) = (answer.status, to.clone());
            // The connection ends before the next one begins.
            drop(answer);
            self.redirect(status, &to).map_err(|problem| self.refused(problem))?;
        }
        Err(self.refused("more than ten redirects"))
    }

    /// Becomes the request that a redirect asks for.
    fn redirect(&mut self, status: StatusCode, to: &HeaderValue) -> Result<(), &'static str> {
        let to = to.to_str().map_err(|_| "a redirect to nowhere")?;
        let to = redirect::target(&self.url, to)?;
        let stays = redirect::same_origin(&self.url, &to);
        if redirect::asks_anew(status, &self.method) {
            self.method = Method::GET;
            self.body = Bytes::new();
        } else if !self.body.is_empty() && !stays {
            return Err("a redirect would have sent the body to another host");
        }
        if !stays {
            self.headers = redirect::without_secrets(&self.headers);
            self.stranger |= !self.url.host_str().is_some_and(|host| self.outside.egress.is_lan(host));
        }
        self.url = to;
        Ok(())
    }

    async fn once(&self) -> Result<Reply, Error> {
        if let Some(problem) = self.invalid {
            return Err(self.refused(problem));
        }
        let encrypted = match self.url.scheme() {
            "https" => true,
            "http" => false,
            _ => return Err(self.refused("only http and https are spoken")),
        };
        let host = self.url.host_str().unwrap_or_default();
        let port = self.url.port_or_known_default().unwrap_or(443);
        let Outside { egress, class, initiator, what, errand } = &self.outside;
        let what = format!("{} for {what}", self.method);
        let wish = Wish::new(*class, initiator.clone(), host, port, what);
        let wish = wish.map_err(|problem| self.refused(problem))?;
        let wish = Wish { errand: errand.clone(), sent: self.sent(), stranger: self.stranger, ..wish };
        let name = wish.host.clone();
        let flow = egress.dial(egress.admit(wish).await?).await?;
        if encrypted { self.over(egress.trust().connect(flow, &name).await?).await } else { self.over(flow).await }
    }

    /// The request over a connection.
    async fn over(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Reply, Error> {
        let failed = |error: hyper::Error| Error::Http { host: self.host(), problem: causes(&error) };
        let (mut sender, connection) =
            http1::Builder::new().handshake::<_, Full<Bytes>>(TokioIo::new(stream)).await.map_err(failed)?;
        let connection = tokio::spawn(async move {
            // Whatever it is, whoever reads the answer is told.
            let _ = connection.await;
        });
        let connection = Connection(connection.abort_handle());
        let answer = tokio::time::timeout(PATIENCE, sender.send_request(self.message()?)).await;
        let late = |_| Error::Late { host: self.host(), patience: PATIENCE };
        let (head, body) = answer.map_err(late)?.map_err(failed)?.into_parts();
        Ok(Reply { status: head.status, headers: head.headers, url: self.url.clone(), body, _connection: connection })
    }

    fn message(&self) -> Result<hyper::Request<Full<Bytes>>, Error> {
        let query = self.url.query().map(|query| format!("?{query}")).unwrap_or_default();
        let path = format!("{}{query}", self.url.path());
        let port = self.url.port().map(|port| format!(":{port}")).unwrap_or_default();
        let host = format!("{}{port}", self.host());
        let mut request = hyper::Request::builder()
            .method(self.method.clone())
            .uri(path)
            .header(header::HOST, host)
            .header(header::CONNECTION, "close")
            .header(header::USER_AGENT, super::USER_AGENT);
        for (name, value) in &self.headers {
            request = request.header(name, value);
        }
        request.body(Full::new(self.body.clone())).map_err(|error| self.refused(error.to_string()))
    }

    fn sent(&self) -> Option<Sent> {
        if self.body.is_empty() {
            return None;
        }
        let text = std::str::from_utf8(&self.body).ok().filter(|text| text.len() <= LONGEST_TEXT);
        let sha256 = hex(&Sha256::digest(&self.body));
        Some(Sent { sha256, bytes: self.body.len() as u64, text: text.map(str::to_owned) })
    }

    fn host(&self) -> String {
        self.url.host_str().unwrap_or_default().into()
    }

    /// What is wrong with the request, or with where it was sent.
    fn refused(&self, problem: impl Into<String>) -> Error {
        Error::Request { host: self.host(), problem: problem.into() }
    }
}

/// Ends a connection with its answer.
#[derive(Debug)]
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// An answer; its body comes piece by piece.
#[derive(Debug)]
pub struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    url: Url,
    body: Incoming,
    _connection: Connection,
}

impl Reply {
    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.headers
    }

    /// Where it came from in the end.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The next piece of the body; nothing at its end.
    ///
    /// # Errors
    /// When the connection breaks, is cut, or nothing came for a minute.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let host = || self.url.host_str().unwrap_or_default().to_owned();
        loop {
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await;
            let frame = frame.map_err(|_| Error::Late { host: host(), patience: PATIENCE })?;
            let frame = frame.transpose().map_err(|error| Error::Http { host: host(), problem: causes(&error) })?;
            match frame.map(|frame| frame.into_data()) {
                None => return Ok(None),
                Some(Ok(data)) => return Ok(Some(data)),
                // Trailers say nothing to us.
                Some(Err(_)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests;
