//! `sovereign chat`.

use super::Global;
use std::process::ExitCode;

#[derive(Debug, clap::Args)]
pub struct Chat {}

impl Chat {
    pub fn run(self, _global: &Global) -> anyhow::Result<ExitCode> {
        anyhow::bail!("owner: fill this in")
    }
}
