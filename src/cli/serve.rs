//! `sovereign serve`.

use super::Global;
use crate::config::Config;
use crate::daemon;
use anyhow::Context;
use std::io::IsTerminal;
use std::net::SocketAddr;
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// The daemon waits more than it computes; each further thread costs memory that models could use.
const THREADS: usize = 2;

/// Run the daemon in the foreground.
///
/// Runs until SIGTERM or Ctrl-C. Prints where the dashboard is and, until a password is set, the link to set one.
///
/// It logs to standard error; RUST_LOG=debug says more.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// What to listen on, over the configuration's `server.listen`.
    #[arg(long, value_name = "ADDR:PORT")]
    listen: Option<SocketAddr>,
}

impl Serve {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let mut config = Config::load(global.config.as_deref(), global.state.as_deref())?;
        if let Some(listen) = self.listen {
            config.server.listen = listen;
        }
        let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
        let colours = std::io::stderr().is_terminal();
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours).init();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .enable_all()
            .build()
            .context("cannot start threads")?;
        runtime.block_on(daemon::run(config))?;
        Ok(ExitCode::SUCCESS)
    }
}
