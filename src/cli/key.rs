//! `sovereign key`.

use super::Global;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Key {}

impl Key {
    pub fn run(self, _global: &Global) -> anyhow::Result<ExitCode> {
        anyhow::bail!("owner: fill this in")
    }
}
