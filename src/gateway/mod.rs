//! The OpenAI dialect: authenticates, finds the model, takes a lease, and proxies bytes.

pub mod auth;

pub use auth::Caller;
