//! A stand-in for NVIDIA's library, `libnvidia-ml.so.1`, for machines without a card: it speaks the C interface that
//! the probe calls, and says what a script tells it to.
//!
//! The script is the file `<path of this library>.json`, read anew at every call, so that it may change while a daemon
//! runs. The path is the one that the library was loaded from: tests that run side by side each load a copy of their own
//! (the loader takes two names of one file for one library). `script` has what can be said, `tests/it/nvml.rs` what
//! copies the library and writes the script.
//!
//! Structures and numbers are those of NVML 12, as `nvml-wrapper-sys` declares them.

// The names are NVIDIA's.
#![allow(non_snake_case)]

mod events;
mod figures;
mod script;
mod session;
mod system;
