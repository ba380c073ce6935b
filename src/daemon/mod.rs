//! The life of `sovereign serve`: claims the state folder, listens, starts the parts, and ends them in order.

mod announce;
mod listen;
mod router;

pub use router::{socket, tcp};

use crate::app::App;
use crate::config::Config;
use crate::state_dir::StateDir;
use anyhow::Context;
use sd_notify::NotifyState;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::net::{TcpListener, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::task::JoinSet;

/// How long answers that have begun may go on once the daemon is asked to stop.
const GRACE: Duration = Duration::from_secs(10);
/// How long answers that were cut off then may take to tell their callers.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Runs the daemon until it is asked to stop by SIGTERM or SIGINT; a second signal cuts short what the first left time
/// for.
///
/// # Errors
/// When another daemon holds the state folder, the port is taken, or a part that cannot be missing does not start.
pub async fn run(config: Config) -> anyhow::Result<()> {
    let state = StateDir::claim(config.state_dir())?;
    let config = config.with_state_dir(state.path());
    let mut signals = Signals::new().context("cannot listen for signals")?;
    let tcp = listen::tcp(config.server.listen)?;
    let socket = listen::admin_socket(&config)?;
    let address = tcp.local_addr().context("cannot tell what the daemon listens on")?;

    let app = App::start(config).await?;
    let mut servers = serve(&app, tcp, socket);
    announce::to_stdout(address, app.sessions.setup_token());
    notify(NotifyState::Ready);
    let watchdog = tokio::spawn(watchdog());

    let failure = tokio::select! {
        () = signals.next() => None,
        // A listener ends by itself only when it breaks.
        ended = servers.join_next() => ended,
    };
    tracing::info!("stopping");
    notify(NotifyState::Stopping);
    watchdog.abort();
    app.closing.cancel();
    tokio::select! {
        _ = tokio::time::timeout(GRACE, finished(&mut servers)) => {}
        () = signals.next() => {}
    }
    app.stop_tenants().await;
    let _ = tokio::time::timeout(LAST_WORDS, finished(&mut servers)).await;
    let _ = std::fs::remove_file(app.config.admin_socket());
    app.close().await;
    drop(state);
    match failure {
        Some(ended) => ended.context("a listener failed")?.context("a listener failed"),
        None => Ok(()),
    }
}

/// Serves both listeners until `app.closing`, and then for as long as answers that have begun take.
fn serve(app: &App, tcp: TcpListener, socket: UnixListener) -> JoinSet<std::io::Result<()>> {
    let mut servers = JoinSet::new();
    let router = router::tcp(app).into_make_service_with_connect_info::<SocketAddr>();
    servers.spawn(axum::serve(tcp, router).with_graceful_shutdown(app.closing.clone().cancelled_owned()).into_future());
    let router = router::socket(app);
    servers
        .spawn(axum::serve(socket, router).with_graceful_shutdown(app.closing.clone().cancelled_owned()).into_future());
    servers
}

async fn finished(servers: &mut JoinSet<std::io::Result<()>>) {
    while servers.join_next().await.is_some() {}
}

/// The signals that ask the daemon to stop.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Tells systemd; without it nobody listens.
fn notify(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "systemd could not be told");
    }
}

/// Pats systemd's watchdog at twice the pace that it asks for: as long as tasks run, the daemon lives.
async fn watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(limit / 2);
    loop {
        ticks.tick().await;
        notify(NotifyState::Watchdog);
    }
}
