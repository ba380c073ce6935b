//! The dashboard's files, inside the binary. Their addresses carry a digest, so browsers keep them for ever.

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};
use std::sync::LazyLock;

struct Asset {
    name: &'static str,
    content_type: &'static str,
    bytes: &'static [u8],
}

macro_rules! assets {
    ($($name:literal $content_type:literal $path:literal,)*) => {
        &[$(Asset {
            name: $name,
            content_type: $content_type,
            bytes: include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/static/", $path)),
        }),*]
    };
}

// What stands under node_modules comes from `make assets`; THIRD_PARTY.md in static/ has the licences.
const ASSETS: &[Asset] = assets! {
    "tokens.css" "text/css; charset=utf-8" "css/tokens.css",
    "base.css" "text/css; charset=utf-8" "css/base.css",
    "layout.css" "text/css; charset=utf-8" "css/layout.css",
    "parts.css" "text/css; charset=utf-8" "css/parts.css",
    "chat.css" "text/css; charset=utf-8" "css/chat.css",
    "page.js" "text/javascript; charset=utf-8" "js/page.js",
    "chart.js" "text/javascript; charset=utf-8" "js/chart.js",
    "chat.js" "text/javascript; charset=utf-8" "js/chat.js",
    "logs.js" "text/javascript; charset=utf-8" "js/logs.js",
    "icon.svg" "image/svg+xml" "icons/icon.svg",
    "htmx.js" "text/javascript; charset=utf-8" "node_modules/htmx.org/dist/htmx.min.js",
    "htmx-sse.js" "text/javascript; charset=utf-8" "node_modules/htmx.org/dist/ext/hx-sse.min.js",
    "uplot.js" "text/javascript; charset=utf-8" "node_modules/uplot/dist/uPlot.iife.min.js",
    "uplot.css" "text/css; charset=utf-8" "node_modules/uplot/dist/uPlot.min.css",
    "inter.woff2" "font/woff2" "node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2",
};

/// A digest over all of them. It stands in every address, also in those that stylesheets write relative to their own.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let mut digest = Sha256::new();
    for asset in ASSETS {
        digest.update(asset.name);
        digest.update(asset.bytes);
    }
    digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
});

/// The address of an asset in a page.
pub fn url(name: &str) -> String {
    debug_assert!(ASSETS.iter().any(|asset| asset.name == name), "{name} is not in ASSETS");
    format!("/assets/{}/{name}", *VERSION)
}

/// `GET /assets/{version}/{name}`. The version is for caches only: a page of another binary still gets its files.
pub async fn serve(Path((version, name)): Path<(String, String)>) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name) else {
        return (StatusCode::NOT_FOUND, "There is no such file.").into_response();
    };
    let caching = if version == *VERSION { "public, max-age=31536000, immutable" } else { "no-cache" };
    ([(header::CONTENT_TYPE, asset.content_type), (header::CACHE_CONTROL, caching)], asset.bytes).into_response()
}
