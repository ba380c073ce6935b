//! The CLI's HTTP client.
