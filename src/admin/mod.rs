//! Our own JSON API under `/admin/v1`: what the CLI speaks over the unix socket, and the dashboard's scripts over TCP.
//!
//! One file a noun, each exporting its `router()`. Errors are RFC 9457 problems.

mod problem;

pub use problem::Problem;
