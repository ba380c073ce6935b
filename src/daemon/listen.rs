//! What the daemon listens on.

use crate::config::Config;
use anyhow::Context;
use std::fs::{DirBuilder, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use tokio::net::{TcpListener, UnixListener};

/// The longest path that the kernel takes for a socket, in bytes.
const LONGEST: usize = 107;

/// The port of the dashboard and of every API.
pub(super) fn tcp(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let listen = || {
        let listener = std::net::TcpListener::bind(address)?;
        listener.set_nonblocking(true)?;
        TcpListener::from_std(listener)
    };
    listen().with_context(|| {
        format!("cannot listen on {address}; is something else there? --listen or server.listen names another port")
    })
}

/// The socket of the CLI. Who may open it administers the appliance, so it has its mode before it has its name; and one
/// that a killed daemon left behind is replaced in the same step.
pub(super) fn admin_socket(config: &Config) -> anyhow::Result<UnixListener> {
    let path = config.admin_socket();
    let private = config.state_dir().join("run");
    let fresh = private.join("admin.sock");
    let listen = || -> anyhow::Result<UnixListener> {
        short_enough(&fresh)?;
        DirBuilder::new().recursive(true).mode(0o700).create(&private)?;
        std::fs::set_permissions(&private, Permissions::from_mode(0o700))?;
        if fresh.exists() {
            std::fs::remove_file(&fresh)?;
        }
        let listener = UnixListener::bind(&fresh)?;
        std::fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        std::fs::rename(&fresh, &path)?;
        Ok(listener)
    };
    listen().with_context(|| format!("cannot listen on {}", path.display()))
}

fn short_enough(path: &Path) -> anyhow::Result<()> {
    let bytes = path.as_os_str().len();
    anyhow::ensure!(
        bytes <= LONGEST,
        "{} has {bytes} bytes, and a socket's path at most {LONGEST}; choose a shorter state folder with --state",
        path.display()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_socket_is_its_owners_and_replaces_a_stale_one() {
        let dir = tempfile::tempdir().unwrap();
        let config = Config::default().with_state_dir(dir.path());
        drop(admin_socket(&config).unwrap());
        let _listener = admin_socket(&config).unwrap();
        let mode = std::fs::metadata(config.admin_socket()).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        std::os::unix::net::UnixStream::connect(config.admin_socket()).unwrap();
    }

    #[tokio::test]
    async fn what_cannot_be_listened_on_is_named() {
        let first = tcp(([127, 0, 0, 1], 0).into()).unwrap();
        let address = first.local_addr().unwrap();
        let error = format!("{:#}", tcp(address).unwrap_err());
        assert!(error.contains(&address.to_string()) && error.contains("--listen"), "{error}");

        let dir = tempfile::tempdir().unwrap();
        let config = Config::default().with_state_dir(&dir.path().join("x".repeat(100)));
        let error = format!("{:#}", admin_socket(&config).unwrap_err());
        assert!(error.contains("--state"), "{error}");
    }
}
