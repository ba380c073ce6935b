//! A stack as it is wanted: a compose file with its references resolved, its defaults filled in and its services in the
//! order of their start.

use super::compose::{self, Condition, Error, Model, Pairs, Written};
use super::permit::Permits;
use super::resolver::Resolver;
use crate::docker::{ContainerSpec, NetworkSpec, Subnet, VolumeSpec};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::Path;

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

/// How Docker knows a volume.
pub(super) fn volume_name(stack: &str, volume: &str, keys: &compose::Volume) -> String {
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
