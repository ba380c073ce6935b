//! A registry of one image, on the loopback: what Docker pulls from without a certificate.

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

/// The registry. It ends with this.
pub struct Registry {
    /// The image, by its whole name.
    pub image: String,
    gate: Arc<Semaphore>,
    task: JoinHandle<()>,
}

struct Content {
    manifest: Vec<u8>,
    blobs: HashMap<String, Vec<u8>>,
    layer: String,
    gate: Arc<Semaphore>,
}

impl Registry {
    /// Serves an image of one layer. The layer itself is kept back until [`Registry::open`].
    pub async fn serve(layer: Vec<u8>, entrypoint: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let name = listener.local_addr().unwrap().to_string();
        Self::at(listener, &name, layer, entrypoint)
    }

    /// The same by another name.
    pub fn at(listener: TcpListener, name: &str, layer: Vec<u8>, entrypoint: &str) -> Self {
        let architecture = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
        let config = json!({
            "architecture": architecture,
            "os": "linux",
            "config": {"Entrypoint": [entrypoint]},
            "rootfs": {"type": "layers", "diff_ids": [digest(&layer)]},
            "history": [{}],
        });
        let config = config.to_string().into_bytes();
        let part = |kind: &str, bytes: &[u8]| {
            json!({
                "mediaType": format!("application/vnd.docker.{kind}"), "size": bytes.len(), "digest": digest(bytes),
            })
        };
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": part("container.image.v1+json", &config),
            "layers": [part("image.rootfs.diff.tar", &layer)],
        });
        let gate = Arc::new(Semaphore::new(0));
        let content = Content {
            manifest: manifest.to_string().into_bytes(),
            layer: digest(&layer),
            blobs: HashMap::from([(digest(&config), config), (digest(&layer), layer)]),
            gate: gate.clone(),
        };
        let routes = Router::new()
            .route("/v2/", get(async || "{}"))
            .route("/v2/hello/manifests/{reference}", get(manifest_of))
            .route("/v2/hello/blobs/{digest}", get(blob))
            .with_state(Arc::new(content));
        let image = format!("{name}/hello:1");
        let task = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        Self { image, gate, task }
    }

    /// Lets the layer out.
    pub fn open(&self) {
        self.gate.add_permits(Semaphore::MAX_PERMITS >> 1);
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn manifest_of(State(content): State<Arc<Content>>) -> Response {
    let headers = [
        (header::CONTENT_TYPE, MANIFEST.to_owned()),
        (header::HeaderName::from_static("docker-content-digest"), digest(&content.manifest)),
    ];
    (headers, content.manifest.clone()).into_response()
}

async fn blob(State(content): State<Arc<Content>>, Path(digest): Path<String>) -> Response {
    if digest == content.layer {
        content.gate.acquire().await.unwrap().forget();
    }
    match content.blobs.get(&digest) {
        Some(blob) => blob.clone().into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

fn digest(bytes: &[u8]) -> String {
    let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}
