use rustix::fs::{MemfdFlags, memfd_create};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;
use tokio::process::Command;

/// Memory in which a worker on a card keeps its weights. It is this process's, so that they are there for the next one when
/// the worker ends.
#[derive(Debug, Clone)]
pub struct Parked(Arc<Held>);

#[derive(Debug)]
struct Held(Option<File>);

impl Parked {
    /// With nothing in it.
    ///
    /// # Errors
    /// The system has no such memory.
    pub(super) fn new() -> io::Result<Parked> {
        Ok(Parked(Arc::new(Held(Some(memfd_create("weights", MemfdFlags::CLOEXEC)?.into())))))
    }

    /// Lets the worker inherit it, and no other process.
    pub(super) fn pass_to(&self, command: &mut Command) {
        let Some(file) = &self.0.0 else { return };
        command.args(["--weights-fd", &file.as_raw_fd().to_string()]);
        let kept = self.clone();
        let inherit = move || match &kept.0.0 {
            Some(file) => Ok(rustix::io::fcntl_setfd(file, rustix::io::FdFlags::empty())?),
            None => Ok(()),
        };
        // SAFETY: it is one system call, on a descriptor that is open as long as the command is: nothing that a process may not
        // do between its beginning and its program.
        unsafe { command.pre_exec(inherit) };
    }
}

impl Drop for Held {
    /// Giving back gigabytes takes part of a second: not on a thread that others wait for.
    fn drop(&mut self) {
        let file = self.0.take();
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn_blocking(move || drop(file));
        }
    }
}
