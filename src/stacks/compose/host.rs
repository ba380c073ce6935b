//! What a service would have of this machine: its network, its processes, its devices.

use serde::Deserialize;
use serde::de::{self, Deserializer};

/// `network_mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkModeKey {
    /// No network.
    None,
    /// As if nothing were said.
    Bridge,
    /// This machine's.
    Host,
}

impl<'de> Deserialize<'de> for NetworkModeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "none" => Ok(Self::None),
            "bridge" => Ok(Self::Bridge),
            "host" => Ok(Self::Host),
            _ if text.starts_with("service:") || text.starts_with("container:") => Err(de::Error::custom(
                "sharing another container's network is not supported; put both on one network and use its name",
            )),
            _ => Err(de::Error::custom(format!("`network_mode: {text}` is not one of none, bridge, host"))),
        }
    }
}

/// `ipc`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IpcKey {
    /// Its own.
    Private,
    /// Its own, which others may share.
    Shareable,
    /// This machine's.
    Host,
}

/// `pid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PidKey {
    /// It sees this machine's processes.
    Host,
}

/// `runtime`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RuntimeKey {
    /// Docker's own.
    Runc,
    /// NVIDIA's, which shows the cards that `NVIDIA_VISIBLE_DEVICES` names.
    Nvidia,
}

/// One of `devices`: `SOURCE[:TARGET[:PERMISSIONS]]`, or a card as the Container Device Interface names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DevicePathKey {
    /// A device of this machine.
    Path(crate::docker::Device),
    /// NVIDIA's card: `all`, a number, or a UUID.
    Card(String),
}

impl<'de> Deserialize<'de> for DevicePathKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if let Some(card) = text.strip_prefix("nvidia.com/gpu=") {
            return Ok(Self::Card(card.into()));
        }
        let parts: Vec<&str> = text.split(':').collect();
        let (source, target, permissions) = match parts[..] {
            [source] => (source, source, "rwm"),
            [source, target] => (source, target, "rwm"),
            [source, target, permissions] => (source, target, permissions),
            _ => ("", "", ""),
        };
        let known = !permissions.is_empty() && permissions.chars().all(|c| "rwm".contains(c));
        if !source.starts_with('/') || !target.starts_with('/') || !known {
            let message = format!("{text:?} is not a device; write \"/dev/dri:/dev/dri\" or \"nvidia.com/gpu=all\"");
            return Err(de::Error::custom(message));
        }
        let [source, target, permissions] = [source, target, permissions].map(str::to_owned);
        Ok(Self::Path(crate::docker::Device { source, target, permissions }))
    }
}

/// What the owner lets a service do that a container usually may not: `x-sovereign: {allow: [...]}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Permit {
    /// All that root of this machine may.
    Privileged,
    /// This machine's network: the internet too, unseen by the ledger of what leaves.
    HostNetwork,
    /// To see this machine's processes.
    HostPid,
    /// To share this machine's memory for messages between processes.
    HostIpc,
    /// Docker's socket, which is root of this machine.
    DockerSocket,
    /// All of this machine's files.
    RootMount,
    /// Devices of this machine.
    Devices,
    /// System calls that Docker usually forbids.
    Unconfined,
}

impl Permit {
    /// As it is written.
    pub fn name(self) -> &'static str {
        match self {
            Self::Privileged => "privileged",
            Self::HostNetwork => "host-network",
            Self::HostPid => "host-pid",
            Self::HostIpc => "host-ipc",
            Self::DockerSocket => "docker-socket",
            Self::RootMount => "root-mount",
            Self::Devices => "devices",
            Self::Unconfined => "unconfined",
        }
    }

    /// What it means, for the owner.
    pub fn means(self) -> &'static str {
        match self {
            Self::Privileged => "may do all that root of this machine may",
            Self::HostNetwork => "is on this machine's own network: what it sends leaves unseen",
            Self::HostPid => "sees this machine's processes",
            Self::HostIpc => "shares this machine's memory for messages between processes",
            Self::DockerSocket => "holds Docker's socket, by which it can become root of this machine",
            Self::RootMount => "sees all of this machine's files",
            Self::Devices => "uses devices of this machine",
            Self::Unconfined => "may use system calls that Docker usually forbids",
        }
    }
}
