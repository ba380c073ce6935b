//! Sovereign turns a NAS with one 8 GB NVIDIA card into an AI appliance that its owner controls.
//!
//! The map, from the top down; a module uses only what stands below it:
//!
//! - [`cli`]: one file a subcommand. [`daemon`]: the life of `serve`.
//! - [`web`]: the dashboard. [`admin`]: our own JSON API, spoken by the CLI. [`gateway`]: the OpenAI dialect.
//! - [`app`] wires concrete parts together and is the only place that names them all.
//! - [`stacks`]: compose files, applied to Docker.
//! - [`placement`]: who holds the card. Pure decisions in `plan`, effects in `task`.
//! - [`runtime`]: what can hold it: native workers now, containers later.
//! - [`worker`]: the process that serves one model over the engine. [`docker`]: the only user of bollard. [`bench`]: what
//!   the engine can do here, measured.
//! - [`models`]: what can be served: catalogue, registry, downloads, footprint arithmetic.
//! - [`egress`]: the only way out of the house.
//! - [`auth`]: what proves who somebody is.
//! - [`gpu`]: what the card does. [`db`]: the SQLite files. [`config`]: one file in, resolved settings out.
//! - [`engine`]: inference. Synchronous; knows nothing of the rest.

pub mod admin;
pub mod app;
pub mod auth;
pub mod bench;
pub mod cli;
pub mod config;
pub mod daemon;
pub mod db;
pub mod docker;
pub mod egress;
pub mod engine;
pub mod gateway;
pub mod gpu;
pub mod models;
pub mod placement;
pub mod runtime;
pub mod stacks;
pub mod state_dir;
pub mod web;
pub mod worker;

// A driver for tests, which integration tests include as well.
#[cfg(test)]
#[path = "../tests/it/nvml.rs"]
pub mod fake_nvml;
