//! The dashboard: pages rendered on the server by askama, live parts pushed by SSE, assets inside the binary.
//!
//! Nothing is fetched from elsewhere, and nothing runs inline: the Content-Security-Policy allows this origin's files.

pub mod assets;
pub mod live;
pub mod markdown;
