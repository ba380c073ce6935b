use crate::egress::Address;
use axum::Router;
use axum::serve::ListenerExt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tokio::net::{TcpListener, UnixListener};

/// Where a worker is reached.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket, whose file goes with this.
    Unix(UnixListener, Socket),
    /// A TCP port.
    Tcp(TcpListener),
}

/// The file of a unix socket; removed when dropped.
#[derive(Debug)]
pub struct Socket(PathBuf);

impl Drop for Socket {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Listens there. Connections wait until [`Listener::serve`] takes them.
    ///
    /// # Errors
    /// The address is taken, or not ours.
    pub async fn bind(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => {
                let listener = UnixListener::bind(path)?;
                let socket = Socket(path.clone());
                // Whoever can connect can ask.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                Ok(Self::Unix(listener, socket))
            }
            Address::Tcp(address) => Ok(Self::Tcp(TcpListener::bind(address).await?)),
        }
    }

    /// Where it listens; a port that was asked for as 0 is told as it is.
    ///
    /// # Errors
    /// The kernel does not say.
    pub fn address(&self) -> io::Result<Address> {
        match self {
            Self::Unix(_, socket) => Ok(Address::Unix(socket.0.clone())),
            Self::Tcp(listener) => listener.local_addr().map(Address::Tcp),
        }
    }

    /// Answers by `router` until dropped.
    ///
    /// # Errors
    /// Listening failed.
    pub async fn serve(self, router: Router) -> io::Result<()> {
        match self {
            Self::Unix(listener, _socket) => axum::serve(listener, router).await,
            Self::Tcp(listener) => {
                // A token is a packet: none may wait for the next.
                let listener = listener.tap_io(|stream| {
                    let _ = stream.set_nodelay(true);
                });
                axum::serve(listener, router).await
            }
        }
    }
}
