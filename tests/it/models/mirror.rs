//! A server of files that behaves, and misbehaves, as a test says.

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use futures_util::StreamExt;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const PIECE: usize = 16 << 10;

/// What stands under a path.
#[derive(Debug, Clone)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(&'static str, String)>,
    pub body: Bytes,
    /// Whether it knows `Range`.
    pub ranges: bool,
    /// Whether it compares `If-Range` with its `etag`.
    pub compares: bool,
    /// After so many bytes it waits for [`Mirror::cut`], and breaks off.
    pub stops_after: Option<usize>,
    /// Pretends to this length.
    pub length: Option<usize>,
}

impl Answer {
    /// A file of a server that behaves.
    pub fn file(body: impl Into<Bytes>, etag: &str) -> Self {
        Self {
            status: 200,
            headers: vec![("etag", format!("{etag:?}"))],
            body: body.into(),
            ranges: true,
            compares: true,
            stops_after: None,
            length: None,
        }
    }

    /// A page or a message.
    pub fn text(status: u16, kind: &str, text: &str) -> Self {
        let answer = Self::file(text.as_bytes().to_vec(), "text");
        Self { status, headers: vec![("content-type", kind.into())], ranges: false, ..answer }
    }

    /// A redirect.
    pub fn moved(to: &str) -> Self {
        Self { status: 302, headers: vec![("location", to.into())], ..Self::text(302, "text/plain", "moved") }
    }

    /// The same, waiting for [`Mirror::cut`] after `bytes`.
    pub fn stops_after(self, bytes: usize) -> Self {
        Self { stops_after: Some(bytes), ..self }
    }

    /// The same with one header more.
    pub fn with(mut self, header: &'static str, value: &str) -> Self {
        self.headers.push((header, value.into()));
        self
    }
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    pub method: String,
    pub path: String,
    /// Where its range begins.
    pub from: Option<usize>,
    pub authorization: bool,
}

#[derive(Debug, Default)]
struct Shared {
    standing: Mutex<HashMap<String, Answer>>,
    once: Mutex<HashMap<String, VecDeque<Answer>>>,
    asked: Mutex<Vec<Asked>>,
    sent: AtomicU64,
    stopped: Notify,
    cut: Notify,
}

/// The server, until it is dropped.
#[derive(Debug)]
pub struct Mirror {
    pub base: String,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

impl Mirror {
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let shared = Arc::<Shared>::default();
        let router = Router::new().fallback(answer).with_state(shared.clone());
        let task = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { base, shared, task }
    }

    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    /// From now on `path` answers so.
    pub fn put(&self, path: &str, answer: Answer) {
        self.shared.standing.lock().unwrap().insert(path.into(), answer);
    }

    /// The next request of `path` is answered so, or the one after those that were said before.
    pub fn once(&self, path: &str, answer: Answer) {
        self.shared.once.lock().unwrap().entry(path.into()).or_default().push_back(answer);
    }

    /// Waits until an answer has sent what it wants to send before it is cut.
    pub async fn stopped(&self) {
        self.shared.stopped.notified().await;
    }

    /// Breaks off the answer that waits for it.
    pub fn cut(&self) {
        self.shared.cut.notify_one();
    }

    /// What was asked since the last time.
    pub fn asked(&self) -> Vec<Asked> {
        std::mem::take(&mut *self.shared.asked.lock().unwrap())
    }

    /// Bytes of bodies that were sent since the last time.
    pub fn sent(&self) -> u64 {
        self.shared.sent.swap(0, Ordering::Relaxed)
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let header = |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let path = request.uri().path().to_owned();
    let range = header("range").map(|range| range.trim_start_matches("bytes=").trim_end_matches('-').to_owned());
    let range: Option<usize> = range.map(|range| range.parse().unwrap());
    shared.asked.lock().unwrap().push(Asked {
        method: request.method().to_string(),
        path: path.clone(),
        from: range,
        authorization: header("authorization").is_some(),
    });
    let once = shared.once.lock().unwrap().get_mut(&path).and_then(VecDeque::pop_front);
    let standing = || shared.standing.lock().unwrap().get(&path).cloned();
    let answer = once.or_else(standing).unwrap_or_else(|| Answer::text(404, "text/plain", "nothing here"));

    let etag = answer.headers.iter().find(|(name, _)| *name == "etag").map(|(_, etag)| etag.clone());
    let same = !answer.compares || header("if-range").is_none_or(|if_range| Some(if_range) == etag);
    let start = range.filter(|_| answer.ranges && same && answer.status == 200);
    let mut response = Response::builder();
    for (name, value) in &answer.headers {
        response = response.header(*name, value);
    }
    let length = answer.length.unwrap_or(answer.body.len());
    let body = match start {
        Some(start) if start >= answer.body.len() => {
            return response.status(416).body(Body::empty()).unwrap();
        }
        Some(start) => {
            response = response
                .status(206)
                .header("content-length", length - start)
                .header("content-range", format!("bytes {start}-{}/{length}", length - 1));
            answer.body.slice(start..)
        }
        None => {
            response = response.status(answer.status).header("content-length", length);
            answer.body.clone()
        }
    };
    if request.method() == "HEAD" {
        return response.body(Body::empty()).unwrap();
    }
    let breaks = answer.stops_after.is_some();
    let body = body.slice(..answer.stops_after.unwrap_or(body.len()).min(body.len()));
    let pieces: Vec<Bytes> = body.chunks(PIECE).map(|piece| body.slice_ref(piece)).collect();
    let counted = shared.clone();
    let pieces = futures_util::stream::iter(pieces).map(move |piece| {
        counted.sent.fetch_add(piece.len() as u64, Ordering::Relaxed);
        Ok(piece)
    });
    let end = futures_util::stream::once(async move {
        if breaks {
            shared.stopped.notify_one();
            shared.cut.notified().await;
            return Err(std::io::Error::other("cut"));
        }
        Ok(Bytes::new())
    });
    response.body(Body::from_stream(pieces.chain(end))).unwrap()
}
