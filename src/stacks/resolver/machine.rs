//! What a service would have of this machine.

use super::Resolver;
use crate::docker::{Device, Logging, Rare};
use crate::stacks::compose::{DevicePathKey, Error, IpcKey, NetworkModeKey, Permit, SecurityOption, Service};
use serde_yaml::Spanned;

impl Resolver<'_> {
    /// What few files say.
    pub(super) fn rare(&mut self, written: &Service) -> Result<Rare, Error> {
        let host = |mode: &Option<Spanned<NetworkModeKey>>| {
            mode.as_ref().filter(|mode| mode.value == NetworkModeKey::Host).map(|mode| mode.referenced.line())
        };
        let reserved = written.deploy.resources.reservations.memory;
        Ok(Rare {
            hostname: written.hostname.clone(),
            domainname: written.domainname.clone(),
            extra_hosts: written.extra_hosts.0.iter().map(|(name, address)| format!("{name}:{address}")).collect(),
            group_add: written.group_add.clone(),
            sysctls: self.filled(&written.sysctls),
            annotations: self.filled(&written.annotations),
            tty: written.tty.unwrap_or(false),
            stdin_open: written.stdin_open.unwrap_or(false),
            memory_reservation: written.mem_reservation.or(reserved).map(|size| size.0),
            memory_swap: written.memswap_limit.map(|swap| swap.0),
            cpu_shares: written.cpu_shares,
            cpuset: written.cpuset.clone(),
            oom_score_adj: written.oom_score_adj,
            platform: written.platform.clone(),
            logging: written.logging.as_ref().map(|logging| Logging {
                driver: logging.driver.clone().unwrap_or_else(|| "json-file".into()),
                options: self.filled(&logging.options),
            }),
            host_network: self.permits.needs(Permit::HostNetwork, host(&written.network_mode))?,
            host_ipc: self.permits.needs(Permit::HostIpc, line_of(&written.ipc, IpcKey::Host))?,
            shareable_ipc: line_of(&written.ipc, IpcKey::Shareable).is_some(),
            host_pid: self.permits.needs(Permit::HostPid, written.pid.as_ref().map(|pid| pid.referenced.line()))?,
            privileged: self.permits.needs(Permit::Privileged, line_of(&written.privileged, true))?,
            devices: self.devices(written)?,
        })
    }

    pub(super) fn capabilities(&mut self, written: &Service) -> Result<Vec<String>, Error> {
        let Some(added) = &written.cap_add else { return Ok(Vec::new()) };
        self.permits.capabilities(&added.value, added.referenced.line())?;
        Ok(added.value.clone())
    }

    fn devices(&mut self, written: &Service) -> Result<Vec<Device>, Error> {
        let Some(devices) = &written.devices else { return Ok(Vec::new()) };
        let paths = devices.value.iter().filter_map(|device| match device {
            DevicePathKey::Path(device) => Some(device.clone()),
            DevicePathKey::Card(_) => None,
        });
        let paths: Vec<Device> = paths.collect();
        self.permits.needs(Permit::Devices, (!paths.is_empty()).then(|| devices.referenced.line()))?;
        Ok(paths)
    }

    pub(super) fn security(&mut self, written: &Service) -> Result<Vec<String>, Error> {
        let options = written.security_opt.as_ref().map_or(&[][..], |options| &options.value);
        let line = written.security_opt.as_ref().map(|options| options.referenced.line());
        let unconfined: Vec<String> = options
            .iter()
            .filter_map(|option| match option {
                SecurityOption::Unconfined(text) => Some(text.clone()),
                SecurityOption::NoNewPrivileges(_) => None,
            })
            .collect();
        self.permits.needs(Permit::Unconfined, line.filter(|_| !unconfined.is_empty()))?;
        let gains = options.contains(&SecurityOption::NoNewPrivileges(false));
        let kept = (!gains).then(|| "no-new-privileges:true".to_owned());
        Ok(kept.into_iter().chain(unconfined).collect())
    }
}

/// Where something is said, if it is said.
fn line_of<T: PartialEq>(said: &Option<Spanned<T>>, value: T) -> Option<u64> {
    said.as_ref().filter(|said| said.value == value).map(|said| said.referenced.line())
}
