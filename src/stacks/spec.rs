//! A stack as it is wanted: a compose file with its references resolved, its defaults filled in and its services in the
//! order of their start.

use super::compose::{
    self, Compose, Condition, Count, DeviceKeys, Error, HealthcheckKeys, NetworkKeys, SecurityOption, Service,
    ServiceNetworks, VolumeKey, VolumeSource,
};
use crate::docker::{Attachment, Cards, ContainerSpec, Exit, GpuSpec, Healthcheck, Mount, MountSource, REVISION};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};
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
    /// The networks that its services are on, as Docker knows them.
    pub networks: BTreeSet<String>,
    /// The volumes that it declares, as Docker knows them.
    pub volumes: BTreeSet<String>,
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

/// Resolves what `file` says for the stack `name`. `variables` fill in what its environment only names.
///
/// # Errors
/// What refers to nothing, or cannot be had.
pub fn resolve(
    name: &str,
    compose: Compose,
    file: &Path,
    base: Option<&Path>,
    variables: &HashMap<String, String>,
) -> Result<Spec, Error> {
    let resolver = Resolver { name, compose: &compose, file, base, variables };
    let mut services = BTreeMap::new();
    for (service, written) in &compose.services {
        let line = written.referenced.line();
        if !is_service_name(service) {
            let message = format!("{service:?} cannot be a service's name: letters, digits, '.', '_' and '-'");
            return Err(Error::at(file, line, message));
        }
        services.insert(service.clone(), resolver.service(service, &written.value, line)?);
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
        let line = compose.services.get(&cycle).map_or(0, |service| service.referenced.line());
        Error::at(file, line, format!("the service {cycle} depends on itself, by way of others"))
    })?;
    let networks =
        services.iter().flat_map(|service| &service.container.networks).map(|on| on.network.clone()).collect();
    Ok(Spec {
        name: name.into(),
        title: compose.sovereign.title.clone().unwrap_or_else(|| name.into()),
        description: compose.sovereign.description.clone().unwrap_or_default(),
        networks,
        volumes: compose.volumes.keys().map(|volume| docker_name(name, volume)).collect(),
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
    compose: &'a Compose,
    file: &'a Path,
    base: Option<&'a Path>,
    variables: &'a HashMap<String, String>,
}

impl Resolver<'_> {
    fn service(&self, name: &str, written: &Service, line: u64) -> Result<ServiceSpec, Error> {
        let image = written.image.clone().filter(|image| !image.is_empty());
        let image = image.ok_or_else(|| Error::at(self.file, line, format!("the service {name} names no image")))?;
        let limits = &written.deploy.resources.limits;
        let container = ContainerSpec {
            image,
            command: written.command.clone().map(|argv| argv.0),
            entrypoint: written.entrypoint.clone().map(|argv| argv.0),
            environment: self.environment(written),
            user: written.user.clone(),
            working_dir: written.working_dir.clone(),
            networks: self.networks(name, written)?,
            mounts: self.mounts(written)?,
            tmpfs: written.tmpfs.0.iter().map(|text| tmpfs(text)).collect(),
            ports: written.ports.iter().map(|port| port.0).collect(),
            labels: self.labels(written)?,
            healthcheck: written.healthcheck.as_ref().map(healthcheck),
            restart: written.restart.0,
            stop_signal: written.stop_signal.clone(),
            stop_grace: written.stop_grace_period.map_or(GRACE, |grace| grace.0),
            init: written.init,
            read_only: written.read_only,
            cap_add: written.cap_add.clone(),
            cap_drop: written.cap_drop.clone().unwrap_or_else(|| vec!["ALL".into()]),
            security_opt: security(&written.security_opt),
            pids_limit: Some(written.pids_limit.or(limits.pids).unwrap_or(PIDS)),
            memory: written.mem_limit.or(limits.memory).map(|size| size.0),
            nano_cpus: written.cpus.or(limits.cpus).map(|cpus| cpus.0),
            shm_size: written.shm_size.map(|size| size.0),
            ulimits: written.ulimits.iter().map(|(name, limit)| (name.clone(), limit.0)).collect(),
            exit: self.exit(),
            gpu: self.gpu(name, written, line)?,
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
        let allowed: Vec<String> = self.compose.sovereign.egress.iter().map(ToString::to_string).collect();
        let aliases = self.compose.services.values().filter_map(|service| service.value.networks.as_ref());
        let aliases = aliases.flat_map(|networks| networks.value.0.values().flatten()).flat_map(|keys| &keys.aliases);
        let direct: BTreeSet<&String> = self.compose.services.keys().chain(aliases).collect();
        let direct = direct.into_iter().cloned().collect();
        (!allowed.is_empty()).then_some(Exit { allowed, direct })
    }

    /// The cards that it sees, and what it may take of them.
    fn gpu(&self, service: &str, written: &Service, line: u64) -> Result<Option<GpuSpec>, Error> {
        let reserved = written.deploy.resources.reservations.devices.as_ref();
        let asked = written.gpus.as_ref().map(|gpus| (&gpus.value.0, gpus.referenced.line()));
        let asked = asked.or_else(|| reserved.map(|devices| (&devices.value, devices.referenced.line())));
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

    /// A name without a value takes it from the variables, and is left out where there is none.
    fn environment(&self, written: &Service) -> BTreeMap<String, String> {
        let known = |name: &String| self.variables.get(name).cloned();
        let pairs = written.environment.0.iter();
        pairs.filter_map(|(name, value)| Some((name.clone(), value.clone().or_else(|| known(name))?))).collect()
    }

    fn networks(&self, service: &str, written: &Service) -> Result<Vec<Attachment>, Error> {
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
            if network != "default" && !self.compose.networks.contains_key(&network) {
                let message = format!("the network {network} is not among the file's `networks`");
                return Err(Error::at(self.file, line, message));
            }
            let mut aliases = keys.unwrap_or_default().aliases;
            aliases.insert(0, service.to_owned());
            Ok(Attachment { network: docker_name(self.name, &network), aliases })
        };
        networks.into_iter().map(attach).collect()
    }

    fn mounts(&self, written: &Service) -> Result<Vec<Mount>, Error> {
        let mount = |spanned: &serde_yaml::Spanned<VolumeKey>| {
            let line = spanned.referenced.line();
            let key = &spanned.value;
            let source = match &key.source {
                VolumeSource::Named(volume) if self.compose.volumes.contains_key(volume) => {
                    MountSource::Volume(docker_name(self.name, volume))
                }
                VolumeSource::Named(volume) => {
                    let message = format!("the volume {volume} is not among the file's `volumes`");
                    return Err(Error::at(self.file, line, message));
                }
                VolumeSource::Path(path) if Path::new(path).is_absolute() => MountSource::Bind(path.into()),
                VolumeSource::Path(path) => match self.base {
                    Some(base) => MountSource::Bind(tidy(&base.join(path))),
                    None => {
                        let message = format!("{path:?} is relative to a file that is no file of this machine");
                        return Err(Error::at(self.file, line, message));
                    }
                },
            };
            Ok(Mount { source, target: key.target.clone(), read_only: key.read_only })
        };
        written.volumes.iter().map(mount).collect()
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
        let Some(depends_on) = &written.depends_on else { return Ok(BTreeMap::new()) };
        let mut conditions = BTreeMap::new();
        for (other, keys) in &depends_on.value.0 {
            if !self.compose.services.contains_key(other) {
                let message = format!("the service {name} depends on {other}, which is not among the services");
                return Err(Error::at(self.file, depends_on.referenced.line(), message));
            }
            conditions.insert(other.clone(), keys.clone().unwrap_or_default().condition);
        }
        Ok(conditions)
    }
}

/// A path without `.`; `..` stays, for it may lead through a link.
fn tidy(path: &Path) -> PathBuf {
    path.components().filter(|part| !matches!(part, std::path::Component::CurDir)).collect()
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

fn security(written: &[SecurityOption]) -> Vec<String> {
    let privileges = written.contains(&SecurityOption::NoNewPrivileges(false));
    if privileges { Vec::new() } else { vec!["no-new-privileges:true".into()] }
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
