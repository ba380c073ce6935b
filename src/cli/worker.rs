//! `sovereign worker`.

use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Worker {}

impl Worker {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        anyhow::bail!("owner: fill this in")
    }
}
