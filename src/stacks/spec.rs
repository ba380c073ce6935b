//! A stack as it is wanted: a compose file with its references resolved, its defaults filled in and its services in the
//! order of their start.

use super::compose::{
    self, Condition, Count, DeviceKeys, DevicePathKey, Error, HealthcheckKeys, IpcKey, Model, NetworkKeys,
    NetworkModeKey, Pairs, Permit, RuntimeKey, SecurityOption, Service, ServiceNetworks, TextUse, VolumeKey,
    VolumeSource, Written,
};
use super::permit::Permits;
use crate::docker::{
    Attachment, Cards, ContainerSpec, Device, Exit, GpuSpec, Healthcheck, Logging, Mount, MountSource, NetworkSpec,
    REVISION, Rare, Restart, Subnet, Text, VolumeSpec,
};
use serde_yaml::Spanned;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

/// Processes of a container whose file sets no limit.
const PIDS: i64 = 1024;
/// How long a container may take to end, unless its file says; as Docker has it.
const GRACE: Duration = Duration::from_secs(10);

/// A stack as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// Its name for people.
    pub title: String,
    /// What it is good for.
    pub description: String,
    /// Where its own page is, if it has one.
    pub web: Option<String>,
    /// What its services may do that containers usually may not, for the owner.
    pub warnings: Vec<String>,
    /// The networks that its services are on, as Docker knows them.
    pub networks: BTreeMap<String, NetworkSpec>,
    /// The volumes that are its own, as Docker knows them.
    pub volumes: BTreeMap<String, VolumeSpec>,
    /// Its services, each after those that it depends on.
    pub services: Vec<ServiceSpec>,
}

/// A service as it is wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceSpec {
    /// Its name in the file.
    pub name: String,
    /// What must be there before it starts.
    pub depends_on: BTreeMap<String, Condition>,
    /// Whether another service waits for its end.
    pub is_job: bool,
    /// The digest of `container`.
    pub config: String,
    /// What its container is made from.
    pub container: ContainerSpec,
}

impl Spec {
    /// The service of that name.
    pub fn service(&self, name: &str) -> Option<&ServiceSpec> {
        self.services.iter().find(|service| service.name == name)
    }
}

/// How Docker knows a container, network or volume of a stack. A stack's name has no dot, so no two are the same.
pub fn docker_name(stack: &str, name: &str) -> String {
    format!("sovereign.{stack}.{name}")
}

/// Whether a stack may be called so: as in Compose.
pub fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let starts = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    name.len() <= 63 && bytes.next().is_some_and(starts) && bytes.all(|b| starts(b) || b == b'-' || b == b'_')
}

/// Resolves what the files of the stack `name` say. `file` is the first of them; `variables` fill in what an environment
/// only names.
///
/// # Errors
/// What refers to nothing, or cannot be had.
pub fn resolve(name: &str, model: &Model, file: &Path, variables: &HashMap<String, String>) -> Result<Spec, Error> {
    let mut services = BTreeMap::new();
    let mut warnings = Vec::new();
    for (service, written) in &model.services {
        let Written { file, line, .. } = written;
        if !is_service_name(service) {
            let message = format!("{service:?} cannot be a service's name: letters, digits, '.', '_' and '-'");
            return Err(Error::at(file, *line, message));
        }
        let mut resolver = Resolver { name, model, file, variables, permits: Permits::new(service, written) };
        services.insert(service.clone(), resolver.service(service, &written.service, *line)?);
        warnings.extend(resolver.permits.warnings());
    }
    let jobs: BTreeSet<String> = services
        .values()
        .flat_map(|service| &service.depends_on)
        .filter(|(_, condition)| **condition == Condition::Completed)
        .map(|(name, _)| name.clone())
        .collect();
    for job in &jobs {
        if let Some(service) = services.get_mut(job) {
            service.is_job = true;
        }
    }
    let services = in_order(services).map_err(|cycle| {
        let line = model.services.get(&cycle).map_or(0, |written| written.line);
        Error::at(file, line, format!("the service {cycle} depends on itself, by way of others"))
    })?;
    let used: BTreeSet<&String> =
        services.iter().flat_map(|service| &service.container.networks).map(|on| &on.network).collect();
    let default = ("default".to_owned(), compose::Network::default());
    let networks = model
        .networks
        .clone()
        .into_iter()
        .chain([default].into_iter().filter(|(name, _)| !model.networks.contains_key(name)));
    let networks = networks.map(|(network, keys)| (docker_name(name, &network), self::network(&keys)));
    Ok(Spec {
        name: name.into(),
        title: model.sovereign.title.clone().unwrap_or_else(|| name.into()),
        description: model.sovereign.description.clone().unwrap_or_default(),
        web: model.sovereign.web.clone(),
        warnings,
        networks: networks.filter(|(network, _)| used.contains(network)).collect(),
        volumes: model
            .volumes
            .iter()
            .filter(|(_, keys)| !keys.external)
            .map(|(volume, keys)| (volume_name(name, volume, keys), self::volume(keys)))
            .collect(),
        services,
    })
}

/// As Compose has it.
fn is_service_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-'))
}

struct Resolver<'a> {
    name: &'a str,
    model: &'a Model,
    file: &'a Path,
    variables: &'a HashMap<String, String>,
    permits: Permits<'a>,
}

impl Resolver<'_> {
    fn service(&mut self, name: &str, written: &Service, line: u64) -> Result<ServiceSpec, Error> {
        let image = written.image.clone().filter(|image| !image.is_empty());
        let image = image.ok_or_else(|| Error::at(self.file, line, format!("the service {name} names no image")))?;
        let limits = &written.deploy.resources.limits;
        let (tmpfs, mut mounts) = self.mounts(written)?;
        mounts.extend(self.texts("secret", "/run/secrets/", &self.model.secrets, written.secrets.as_ref())?);
        mounts.extend(self.texts("config", "/", &self.model.configs, written.configs.as_ref())?);
        let container = ContainerSpec {
            image,
            command: written.command.clone().map(|argv| argv.0),
            entrypoint: written.entrypoint.clone().map(|argv| argv.0),
            environment: self.environment(written),
            user: written.user.clone(),
            working_dir: written.working_dir.clone(),
            networks: self.networks(name, written)?,
            mounts,
            tmpfs,
            ports: written.ports.iter().flat_map(|port| port.0.clone()).collect(),
            labels: self.labels(written)?,
            healthcheck: written.healthcheck.as_ref().map(healthcheck),
            restart: self.restart(written, line)?,
            stop_signal: written.stop_signal.clone(),
            stop_grace: written.stop_grace_period.map_or(GRACE, |grace| grace.0),
            init: written.init.unwrap_or(false),
            read_only: written.read_only.unwrap_or(false),
            cap_add: self.capabilities(written)?,
            cap_drop: written.cap_drop.clone().unwrap_or_else(|| vec!["ALL".into()]),
            security_opt: self.security(written)?,
            pids_limit: Some(written.pids_limit.or(limits.pids).unwrap_or(PIDS)),
            memory: written.mem_limit.or(limits.memory).map(|size| size.0),
            nano_cpus: written.cpus.or(limits.cpus).map(|cpus| cpus.0),
            shm_size: written.shm_size.map(|size| size.0),
            ulimits: written.ulimits.iter().map(|(name, limit)| (name.clone(), limit.0)).collect(),
            exit: self.exit(),
            gpu: self.gpu(name, written, line)?,
            rare: self.rare(written)?,
        };
        Ok(ServiceSpec {
            name: name.into(),
            depends_on: self.depends_on(name, written)?,
            is_job: false,
            config: digest(&container),
            container,
        })
    }

    /// What it may ask its proxy for, where the stack has a way out.
    fn exit(&self) -> Option<Exit> {
        let allowed: Vec<String> = self.model.sovereign.egress.iter().map(ToString::to_string).collect();
        let aliases = self.model.services.values().filter_map(|written| written.service.networks.as_ref());
        let aliases = aliases.flat_map(|networks| networks.value.0.values().flatten()).flat_map(|keys| &keys.aliases);
        let direct: BTreeSet<&String> = self.model.services.keys().chain(aliases).collect();
        let direct = direct.into_iter().cloned().collect();
        (!allowed.is_empty()).then_some(Exit { allowed, direct })
    }

    fn restart(&self, written: &Service, line: u64) -> Result<Restart, Error> {
        let policy = written.deploy.restart_policy.as_ref().filter(|_| written.restart.is_none());
        let policy = policy.map(compose::RestartPolicy::restart).transpose();
        let policy = policy.map_err(|error| Error::at(self.file, line, format!("`deploy.restart_policy`: {error}")))?;
        Ok(written.restart.or(policy).unwrap_or_default().0)
    }

    fn rare(&mut self, written: &Service) -> Result<Rare, Error> {
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

    fn capabilities(&mut self, written: &Service) -> Result<Vec<String>, Error> {
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

    fn security(&mut self, written: &Service) -> Result<Vec<String>, Error> {
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

    /// Texts as files, where the container sees them.
    fn texts(
        &self,
        what: &str,
        folder: &str,
        texts: &BTreeMap<String, compose::Text>,
        used: Option<&Spanned<Vec<TextUse>>>,
    ) -> Result<Vec<Mount>, Error> {
        let Some(used) = used else { return Ok(Vec::new()) };
        let refuse = |message: String| Error::at(self.file, used.referenced.line(), message);
        let mount = |TextUse { source, target }: &TextUse| {
            let text = texts.get(source);
            let text = text.ok_or_else(|| refuse(format!("the {what} {source} is not among the file's `{what}s`")))?;
            let compose::Text { file, environment, content } = text;
            let from = match (file, environment, content) {
                (Some(file), None, None) => MountSource::Bind(file.clone()),
                (None, Some(variable), None) => {
                    let value = self.variables.get(variable);
                    let missing = || refuse(format!("the {what} {source}: the variable {variable} is not set in .env"));
                    MountSource::Text(Text(value.ok_or_else(missing)?.clone()))
                }
                (None, None, Some(content)) => MountSource::Text(Text(content.clone())),
                _ => {
                    return Err(refuse(format!(
                        "the {what} {source} says not one of `file`, `environment`, `content`"
                    )));
                }
            };
            let target = target.as_ref().unwrap_or(source);
            let target = if target.starts_with('/') { target.clone() } else { format!("{folder}{target}") };
            Ok(Mount { source: from, target, read_only: true, options: Vec::new() })
        };
        used.value.iter().map(mount).collect()
    }

    /// The cards that it sees, and what it may take of them.
    fn gpu(&self, service: &str, written: &Service, line: u64) -> Result<Option<GpuSpec>, Error> {
        let reserved = written.deploy.resources.reservations.devices.as_ref();
        let asked = written.gpus.as_ref().map(|gpus| (&gpus.value.0, gpus.referenced.line()));
        let asked = asked.or_else(|| reserved.map(|devices| (&devices.value, devices.referenced.line())));
        let otherwise = self.cards_otherwise(written);
        let asked = asked.or_else(|| otherwise.as_ref().map(|(devices, line)| (devices, *line)));
        let Some((devices, line)) = asked.filter(|(devices, _)| !devices.is_empty()) else {
            let said = "`x-sovereign: {vram: ...}` is for services that use a card; say which with `gpus`";
            return match written.sovereign.vram {
                Some(_) => Err(Error::at(self.file, line, format!("the service {service} uses none: {said}"))),
                None => Ok(None),
            };
        };
        let refuse = |what: &str| Err(Error::at(self.file, line, format!("the service {service} {what}")));
        let [DeviceKeys { driver, count, device_ids, capabilities }] = &devices[..] else {
            return refuse("asks for several kinds of devices; one is supported");
        };
        if driver.as_ref().is_some_and(|driver| driver != "nvidia") {
            return refuse("asks for devices that are not NVIDIA's; only those are supported");
        }
        let capabilities = capabilities.clone().unwrap_or_else(|| vec!["gpu".into()]);
        if !capabilities.iter().any(|capability| capability == "gpu") {
            return refuse("asks for devices without `capabilities: [gpu]`; only cards are supported");
        }
        let cards = match (count, device_ids) {
            (Some(_), Some(_)) => return refuse("says both `count` and `device_ids`; they exclude each other"),
            (None, Some(ids)) => Cards::These(ids.clone()),
            (Some(Count::Of(1)), None) => Cards::One,
            (Some(Count::All) | None, None) => Cards::All,
            (Some(Count::Of(_)), None) => {
                return refuse("asks for several cards by their number; name them with `device_ids`, or ask for `all`");
            }
        };
        let capabilities = capabilities.into_iter().filter(|capability| capability != "gpu").collect();
        Ok(Some(GpuSpec { cards, capabilities, vram: written.sovereign.vram.map(|vram| vram.0) }))
    }

    /// Cards as the Container Device Interface names them, or as NVIDIA's runtime is told by the environment.
    fn cards_otherwise(&self, written: &Service) -> Option<(Vec<DeviceKeys>, u64)> {
        let of = |ids: Vec<String>| match ids.iter().any(|id| id == "all") {
            true => DeviceKeys { count: Some(Count::All), ..DeviceKeys::default() },
            false => DeviceKeys { device_ids: Some(ids), ..DeviceKeys::default() },
        };
        let cdi = written.devices.as_ref().and_then(|devices| {
            let cards = devices.value.iter().filter_map(|device| match device {
                DevicePathKey::Card(card) => Some(card.clone()),
                DevicePathKey::Path(_) => None,
            });
            let cards: Vec<String> = cards.collect();
            (!cards.is_empty()).then(|| (vec![of(cards)], devices.referenced.line()))
        });
        let runtime = written.runtime.as_ref().filter(|runtime| runtime.value == RuntimeKey::Nvidia);
        let runtime = runtime.and_then(|runtime| {
            let environment = self.environment(written);
            let list =
                |name: &str| environment.get(name).map(|all| all.split(',').map(str::to_owned).collect::<Vec<_>>());
            // Images for cards ask for all of them by themselves.
            let cards = list("NVIDIA_VISIBLE_DEVICES").unwrap_or_else(|| vec!["all".into()]);
            let none = matches!(&cards[..], [one] if one.is_empty() || one == "none" || one == "void");
            let capabilities = list("NVIDIA_DRIVER_CAPABILITIES");
            let capabilities = capabilities.map(|all| all.into_iter().chain(["gpu".to_owned()]).collect());
            (!none).then(|| (vec![DeviceKeys { capabilities, ..of(cards) }], runtime.referenced.line()))
        });
        cdi.or(runtime)
    }

    /// A name without a value takes it from the variables, and is left out where there is none.
    fn environment(&self, written: &Service) -> BTreeMap<String, String> {
        self.filled(&written.environment)
    }

    fn filled(&self, pairs: &Pairs) -> BTreeMap<String, String> {
        let known = |name: &String| self.variables.get(name).cloned();
        let pairs = pairs.0.iter();
        pairs.filter_map(|(name, value)| Some((name.clone(), value.clone().or_else(|| known(name))?))).collect()
    }

    fn networks(&self, service: &str, written: &Service) -> Result<Vec<Attachment>, Error> {
        let mode = written.network_mode.as_ref().map(|mode| (mode.value, mode.referenced.line()));
        if let Some((NetworkModeKey::None | NetworkModeKey::Host, line)) = mode {
            if written.networks.is_some() || !written.ports.is_empty() {
                let message = format!(
                    "the service {service} says `network_mode`, with which it can have no `networks` and no `ports`"
                );
                return Err(Error::at(self.file, line, message));
            }
            return Ok(Vec::new());
        }
        let (networks, line) = match &written.networks {
            Some(networks) => (networks.value.clone(), networks.referenced.line()),
            None => (ServiceNetworks::default(), 0),
        };
        if written.networks.is_some() && networks.0.is_empty() && !written.ports.is_empty() {
            let message = format!("the service {service} is on no network, so its ports cannot be reached");
            return Err(Error::at(self.file, line, message));
        }
        let networks = match written.networks {
            Some(_) => networks.0,
            None => BTreeMap::from([("default".to_owned(), None)]),
        };
        let attach = |(network, keys): (String, Option<NetworkKeys>)| {
            if network != "default" && !self.model.networks.contains_key(&network) {
                let message = format!("the network {network} is not among the file's `networks`");
                return Err(Error::at(self.file, line, message));
            }
            let NetworkKeys { mut aliases, ipv4_address: address } = keys.unwrap_or_default();
            aliases.insert(0, service.to_owned());
            aliases.extend(written.container_name.clone().filter(|name| name != service));
            Ok(Attachment { network: docker_name(self.name, &network), aliases, address })
        };
        networks.into_iter().map(attach).collect()
    }

    /// Folders in memory, and what else is mounted.
    fn mounts(&mut self, written: &Service) -> Result<(BTreeMap<String, String>, Vec<Mount>), Error> {
        let mut tmpfs: BTreeMap<String, String> = written.tmpfs.0.iter().map(|text| self::tmpfs(text)).collect();
        let mut mounts = Vec::new();
        for spanned in &written.volumes {
            let line = spanned.referenced.line();
            let VolumeKey { source, target, read_only, options } = spanned.value.clone();
            let source = match source {
                VolumeSource::Named(volume) => match self.model.volumes.get(&volume) {
                    Some(keys) => MountSource::Volume(volume_name(self.name, &volume, keys)),
                    None => {
                        let message = format!("the volume {volume} is not among the file's `volumes`");
                        return Err(Error::at(self.file, line, message));
                    }
                },
                VolumeSource::Path(path) => {
                    self.permits.mounts(&path, line)?;
                    MountSource::Bind(path)
                }
                VolumeSource::Anonymous => MountSource::Anonymous,
                VolumeSource::Memory(options) => {
                    let read_only = read_only.then(|| "ro".to_owned());
                    let options: Vec<String> =
                        read_only.into_iter().chain([options]).filter(|one| !one.is_empty()).collect();
                    tmpfs.insert(target, options.join(","));
                    continue;
                }
            };
            mounts.push(Mount { source, target, read_only, options });
        }
        Ok((tmpfs, mounts))
    }

    fn labels(&self, written: &Service) -> Result<BTreeMap<String, String>, Error> {
        let Some(labels) = &written.labels else { return Ok(BTreeMap::new()) };
        if let Some(ours) = labels.value.0.keys().find(|name| name.starts_with("sovereign.")) {
            let message = format!("the label {ours} is Sovereign's own; choose another name");
            return Err(Error::at(self.file, labels.referenced.line(), message));
        }
        Ok(labels.value.0.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect())
    }

    fn depends_on(&self, name: &str, written: &Service) -> Result<BTreeMap<String, Condition>, Error> {
        let mut conditions = BTreeMap::new();
        let unknown = |other: &str, line| {
            let message = format!("the service {name} depends on {other}, which is not among the services that run");
            Err(Error::at(self.file, line, message))
        };
        for compose::Link(other) in written.links.iter().flat_map(|links| &links.value) {
            if !self.model.services.contains_key(other) {
                return unknown(other, written.links.as_ref().map_or(0, |links| links.referenced.line()));
            }
            conditions.insert(other.clone(), Condition::Started);
        }
        for (other, keys) in written.depends_on.iter().flat_map(|depends_on| &depends_on.value.0) {
            let keys = keys.clone().unwrap_or_default();
            if !self.model.services.contains_key(other) {
                if keys.required == Some(false) {
                    continue;
                }
                return unknown(
                    other,
                    written.depends_on.as_ref().map_or(0, |depends_on| depends_on.referenced.line()),
                );
            }
            conditions.insert(other.clone(), keys.condition);
        }
        Ok(conditions)
    }
}

/// Where something is said, if it is said.
fn line_of<T: PartialEq>(said: &Option<Spanned<T>>, value: T) -> Option<u64> {
    said.as_ref().filter(|said| said.value == value).map(|said| said.referenced.line())
}

/// How Docker knows a volume.
fn volume_name(stack: &str, volume: &str, keys: &compose::Volume) -> String {
    match (&keys.name, keys.external) {
        (Some(name), _) => name.clone(),
        (None, true) => volume.to_owned(),
        (None, false) => docker_name(stack, volume),
    }
}

fn volume(keys: &compose::Volume) -> VolumeSpec {
    VolumeSpec { options: plain(&keys.driver_opts), labels: plain(&keys.labels) }
}

fn network(keys: &compose::Network) -> NetworkSpec {
    let subnet = |keys: &compose::SubnetKeys| Subnet {
        subnet: keys.subnet.clone(),
        gateway: keys.gateway.clone(),
        ip_range: keys.ip_range.clone(),
    };
    NetworkSpec { subnets: keys.ipam.config.iter().map(subnet).collect(), labels: plain(&keys.labels) }
}

/// A name without a value has an empty one.
fn plain(pairs: &Pairs) -> BTreeMap<String, String> {
    pairs.0.iter().map(|(name, value)| (name.clone(), value.clone().unwrap_or_default())).collect()
}

fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.into(), options.into())
}

fn healthcheck(keys: &HealthcheckKeys) -> Healthcheck {
    let seconds = |time: Option<compose::Duration>| time.map(|time| time.0);
    Healthcheck {
        test: if keys.disable { vec!["NONE".into()] } else { keys.test.0.clone() },
        interval: seconds(keys.interval),
        timeout: seconds(keys.timeout),
        retries: keys.retries,
        start_period: seconds(keys.start_period),
        start_interval: seconds(keys.start_interval),
    }
}

fn digest(container: &ContainerSpec) -> String {
    let json = serde_json::to_vec(&(REVISION, container)).unwrap_or_default();
    Sha256::digest(json).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Sorts services so that each comes after those that it depends on, by name where the order is free.
fn in_order(mut services: BTreeMap<String, ServiceSpec>) -> Result<Vec<ServiceSpec>, String> {
    let mut sorted: Vec<ServiceSpec> = Vec::with_capacity(services.len());
    while !services.is_empty() {
        let ready = services
            .values()
            .find(|service| service.depends_on.keys().all(|other| !services.contains_key(other)))
            .map(|service| service.name.clone());
        match ready.and_then(|name| services.remove(&name)) {
            Some(service) => sorted.push(service),
            // What is left depends on what is left.
            None => return Err(services.into_keys().next().unwrap_or_default()),
        }
    }
    Ok(sorted)
}
