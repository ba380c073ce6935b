//! What a service may do that containers usually may not: only what its owner wrote down that it may.

use super::compose::{Error, Permit, Written};
use std::collections::BTreeSet;
use std::path::Path;

/// Docker's socket, where it lies on this machine.
const SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];
/// Capabilities with which a container leaves its confines: as good as all of them.
const MASTERFUL: [&str; 7] = ["ALL", "SYS_ADMIN", "SYS_MODULE", "SYS_RAWIO", "SYS_BOOT", "DAC_READ_SEARCH", "BPF"];

/// What one service needs, held against what it may.
#[derive(Debug)]
pub(super) struct Permits<'a> {
    service: &'a str,
    written: &'a Written,
    used: BTreeSet<Permit>,
}

impl<'a> Permits<'a> {
    pub fn new(service: &'a str, written: &'a Written) -> Self {
        Self { service, written, used: BTreeSet::new() }
    }

    /// Whether it needs something, which it does where there is a line that says so.
    ///
    /// # Errors
    /// When its owner has not allowed it.
    pub fn needs(&mut self, what: Permit, line: Option<u64>) -> Result<bool, Error> {
        let Some(line) = line else { return Ok(false) };
        if !self.written.service.sovereign.allow.contains(&what) {
            let (service, means, name) = (self.service, what.means(), what.name());
            let message = format!(
                "with this {service} {means}; if it is to, say so: `x-sovereign: {{allow: [{name}]}}` in the service"
            );
            return Err(Error::at(&self.written.file, line, message));
        }
        self.used.insert(what);
        Ok(true)
    }

    /// Whether it may have capabilities.
    ///
    /// # Errors
    /// When one is as good as all of them, and its owner has not allowed that.
    pub fn capabilities(&mut self, added: &[String], line: u64) -> Result<(), Error> {
        let masterful = |name: &String| {
            let name = name.to_ascii_uppercase();
            MASTERFUL.contains(&name.strip_prefix("CAP_").unwrap_or(&name))
        };
        self.needs(Permit::Privileged, added.iter().any(masterful).then_some(line)).map(drop)
    }

    /// Whether it may mount a path of this machine.
    ///
    /// # Errors
    /// When that would show it Docker's socket or all files, and its owner has not allowed it.
    pub fn mounts(&mut self, path: &Path, line: u64) -> Result<(), Error> {
        let path = normal(path);
        if path == "/" {
            self.needs(Permit::RootMount, Some(line))?;
        } else if SOCKETS.iter().any(|socket| Path::new(socket).starts_with(&path)) {
            self.needs(Permit::DockerSocket, Some(line))?;
        }
        Ok(())
    }

    /// What it may, for its owner.
    pub fn warnings(&self) -> impl Iterator<Item = String> {
        self.used.iter().map(|what| format!("{} {}", self.service, what.means()))
    }
}

/// A path without `..`, as far as that can be told without looking.
fn normal(path: &Path) -> String {
    let mut parts = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy()),
            std::path::Component::ParentDir => drop(parts.pop()),
            _ => {}
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_seen_through() {
        let check = |path: &str, expected: &str| assert_eq!(normal(Path::new(path)), expected);
        check("/", "/");
        check("/srv/../", "/");
        check("/srv/../../etc/.", "/etc");
        check("/var//run/docker.sock", "/var/run/docker.sock");
    }
}
