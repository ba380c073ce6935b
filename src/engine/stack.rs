//! Room for walks over what others wrote: templates, schemas and grammars nest as deep as their authors like.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread::{self, Builder};
use std::time::Instant;

/// Pages that are not touched cost nothing.
const SIZE: usize = 256 << 20;

/// Does `work` on a thread that has room for deep recursion, and waits for it.
///
/// # Errors
/// There was no thread, or `work` panicked.
pub(super) fn with_room<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let worker = roomy(name).spawn_scoped(scope, work).map_err(|error| none(name, &error))?;
        worker.join().map_err(|_| broken(name))
    })
}

/// The same, waiting until `deadline` and no longer: none where it is not done by then. It goes on nevertheless.
///
/// # Errors
/// There was no thread, or `work` panicked.
pub(super) fn with_room_until<T: Send + 'static>(
    name: &str,
    deadline: Instant,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>, String> {
    let (done, result) = channel();
    // Whoever does not wait any more does not want it either.
    roomy(name).spawn(move || drop(done.send(work()))).map_err(|error| none(name, &error))?;
    match result.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
        Ok(result) => Ok(Some(result)),
        Err(RecvTimeoutError::Timeout) => Ok(None),
        Err(RecvTimeoutError::Disconnected) => Err(broken(name)),
    }
}

fn roomy(name: &str) -> Builder {
    Builder::new().name(name.into()).stack_size(SIZE)
}

fn none(name: &str, error: &io::Error) -> String {
    format!("no thread for the {name}: {error}")
}

fn broken(name: &str) -> String {
    format!("the {name} broke its reader")
}
