//! What one service of a file makes: its container, and what it waits for.

mod cards;
mod machine;
mod mounts;

use super::compose::{
    self, Condition, Error, HealthcheckKeys, Model, NetworkKeys, NetworkModeKey, Pairs, Service, ServiceNetworks,
};
use super::permit::Permits;
use super::spec::{ServiceSpec, docker_name};
use crate::docker::{Attachment, ContainerSpec, Exit, Healthcheck, REVISION, Restart};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;
use std::time::Duration;

/// Processes of a container whose file sets no limit.
const PIDS: i64 = 1024;
/// How long a container may take to end, unless its file says; as Docker has it.
const GRACE: Duration = Duration::from_secs(10);

/// Resolves one service.
pub(super) struct Resolver<'a> {
    /// The stack.
    pub name: &'a str,
    /// All that its files say.
    pub model: &'a Model,
    /// The first of them, for errors.
    pub file: &'a Path,
    /// What fills in an environment that only names.
    pub variables: &'a HashMap<String, String>,
    /// What the service may.
    pub permits: Permits<'a>,
}

impl Resolver<'_> {
    /// The service `name`, which stands in `line`.
    ///
    /// # Errors
    /// What refers to nothing, or cannot be had.
    pub fn service(&mut self, name: &str, written: &Service, line: u64) -> Result<ServiceSpec, Error> {
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
