//! The integration tests: one binary, one file a noun.

// A test that cannot go on says so by a panic, helpers included.
#![allow(clippy::unwrap_used)]

mod adapters;
mod bench;
mod cards;
mod daemon;
mod egress;
mod embeddings;
mod gateway;
mod gpu;
mod invariants;
mod metrics;
mod models;
mod nvml;
mod packets;
mod parity;
mod placement;
mod small_disk;
mod stacks;
mod tiny;
mod turmoil;
mod web;
mod worker;

// For `tiny`, which the unit tests of downloads include as well.
use sovereign::engine::gguf::{Kind, Writer};
