//! A network of its own: interfaces, routes, firewall. It lives as long as somebody holds it.

use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::sync::Arc;

/// A network namespace.
#[derive(Clone)]
pub struct Namespace(Arc<OwnedFd>);

impl Namespace {
    /// A new one, with nothing but a loopback interface.
    ///
    /// # Errors
    /// When this process may not make one.
    pub fn new() -> io::Result<Self> {
        let made = std::thread::spawn(|| {
            // SAFETY: no pointers are passed; only this thread, which ends at once, is moved.
            check(unsafe { libc::unshare(libc::CLONE_NEWNET) })?;
            File::open("/proc/thread-self/ns/net")
        });
        let namespace = Self(Arc::new(made.join().unwrap()?.into()));
        namespace.ip("link set lo up");
        Ok(namespace)
    }

    /// Does something on a thread that is in it: sockets that are made there are of this network for good.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|threads| {
            let thread = threads.spawn(|| {
                enter(self.0.as_raw_fd()).unwrap();
                act()
            });
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Makes a command run in it.
    pub fn place(&self, command: &mut Command) {
        let namespace = self.0.clone();
        // SAFETY: between fork and exec, setns(2) alone is called.
        unsafe { command.pre_exec(move || enter(namespace.as_raw_fd())) };
    }

    /// `ip ...` in it.
    #[track_caller]
    pub fn ip(&self, arguments: &str) {
        self.run("ip", arguments);
    }

    /// A program in it, which must succeed.
    #[track_caller]
    pub fn run(&self, program: &str, arguments: &str) {
        let mut command = Command::new(program);
        let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
        command.args(arguments.split_whitespace()).env("PATH", path).stdin(Stdio::null());
        self.place(&mut command);
        let ended =
            command.output().unwrap_or_else(|error| panic!("{program} cannot be run ({error}); see `make test-tools`"));
        assert!(ended.status.success(), "{program} {arguments}: {}", String::from_utf8_lossy(&ended.stderr));
    }

    /// Sets one of its kernel's settings, by its path under `/proc/sys/net`.
    #[track_caller]
    pub fn set(&self, setting: &str, value: &str) {
        let path = format!("/proc/sys/net/{setting}");
        self.within(|| std::fs::write(&path, value)).unwrap_or_else(|error| panic!("{path}: {error}"));
    }

    /// Joins two by a cable, with an interface of this name at each end.
    pub fn connect(&self, name: &str, other: &Self, others: &str) {
        let there = format!("/proc/{}/fd/{}", std::process::id(), other.0.as_raw_fd());
        self.ip(&format!("link add {name} type veth peer name {others} netns {there}"));
    }
}

fn enter(namespace: i32) -> io::Result<()> {
    // SAFETY: the descriptor is open, as its owner is borrowed or held by whoever calls; only the calling thread moves.
    check(unsafe { libc::setns(namespace, libc::CLONE_NEWNET) })
}

fn check(result: i32) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
