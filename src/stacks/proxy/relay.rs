//! Bytes, both ways, until both sides have closed or nothing has passed for long.

use std::io;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

const PIECE: usize = 16 << 10;

/// Passes bytes between two connections. When one side has said all, the other is told, and may go on.
///
/// # Errors
/// When either breaks, or nothing passed for `idle`.
pub(super) async fn relay(
    one: impl AsyncRead + AsyncWrite,
    other: impl AsyncRead + AsyncWrite,
    idle: Duration,
) -> io::Result<()> {
    let (one_read, one_write) = tokio::io::split(one);
    let (other_read, other_write) = tokio::io::split(other);
    let last = Mutex::new(Instant::now());
    let both = async {
        tokio::try_join!(pass(one_read, other_write, &last), pass(other_read, one_write, &last)).map(|((), ())| ())
    };
    tokio::select! {
        passed = both => passed,
        () = silence(&last, idle) => Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was said for long")),
    }
}

async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    last: &Mutex<Instant>,
) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        let length = from.read(&mut piece).await?;
        if length == 0 {
            return to.shutdown().await;
        }
        to.write_all(&piece[..length]).await?;
        to.flush().await?;
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

/// Returns when nothing has passed for `idle`.
async fn silence(last: &Mutex<Instant>, idle: Duration) {
    loop {
        let until = *last.lock().unwrap_or_else(PoisonError::into_inner) + idle;
        if until <= Instant::now() {
            return;
        }
        tokio::time::sleep_until(until).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn each_side_may_end_first() {
        let (mut client, near) = tokio::io::duplex(1000);
        let (far, mut server) = tokio::io::duplex(1000);
        let passed = tokio::spawn(relay(near, far, Duration::from_secs(60)));
        client.write_all(b"a question").await.unwrap();
        client.shutdown().await.unwrap();
        let mut asked = String::new();
        server.read_to_string(&mut asked).await.unwrap();
        server.write_all(&[b'x'; 1000]).await.unwrap();
        drop(server);
        let mut answered = String::new();
        client.read_to_string(&mut answered).await.unwrap();
        assert_eq!((&*asked, answered.len()), ("a question", 1000));
        passed.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn silence_ends_it() {
        let (_client, near) = tokio::io::duplex(64);
        let (far, _server) = tokio::io::duplex(64);
        let passed = relay(near, far, Duration::from_millis(20)).await;
        assert_eq!(passed.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
