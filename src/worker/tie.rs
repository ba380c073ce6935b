use rustix::process::{Signal, set_parent_process_death_signal};
use std::io;
use tokio_util::sync::CancellationToken;

/// Ties this process to the one that started it: the token is cancelled when stdin closes, and the kernel sends a
/// signal when the parent ends, in case that somebody else holds the pipe open.
///
/// # Errors
/// The kernel refuses the signal, or a thread.
pub fn tie() -> io::Result<CancellationToken> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let token = CancellationToken::new();
    let cut = token.clone();
    std::thread::Builder::new().name("tie".into()).spawn(move || {
        let _cut = cut.drop_guard();
        // What is written there means nothing; an error ends it as its end does.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
    })?;
    Ok(token)
}
