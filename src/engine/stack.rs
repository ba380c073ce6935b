//! Room for walks over what others wrote: templates, schemas and grammars nest as deep as their authors like.

use std::thread;

/// Pages that are not touched cost nothing.
const SIZE: usize = 256 << 20;

/// Does `work` on a thread that has room for deep recursion, and waits for it.
///
/// # Errors
/// There was no thread, or `work` panicked.
pub(super) fn with_room<T: Send>(name: &str, work: impl FnOnce() -> T + Send) -> Result<T, String> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name(name.into()).stack_size(SIZE);
        let worker = thread.spawn_scoped(scope, work).map_err(|error| format!("no thread for the {name}: {error}"))?;
        worker.join().map_err(|_| format!("the {name} broke its reader"))
    })
}
