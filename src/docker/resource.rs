//! Networks and volumes.

use super::create::unless_gone;
use super::spec::{NetworkSpec, Subnet, VolumeSpec};
use super::{Docker, Error, STACK};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest, VolumeCreateRequest};
use bollard::query_parameters::{ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveVolumeOptionsBuilder};
use std::collections::{BTreeMap, BTreeSet, HashMap};

impl Docker {
    /// The networks of a stack, by name.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn networks(&self, stack: &str) -> Result<BTreeSet<String>, Error> {
        let options = ListNetworksOptionsBuilder::new().filters(&of_stack(stack)).build();
        let networks = self.client()?.list_networks(Some(options)).await.map_err(Error::of("list the networks"))?;
        Ok(networks.into_iter().filter_map(|network| network.name).collect())
    }

    /// The volumes of a stack, by name.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn volumes(&self, stack: &str) -> Result<BTreeSet<String>, Error> {
        let options = ListVolumesOptionsBuilder::new().filters(&of_stack(stack)).build();
        let listed = self.client()?.list_volumes(Some(options)).await.map_err(Error::of("list the volumes"))?;
        Ok(listed.volumes.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
    }

    /// Makes a network without a way out: what is on it reaches the others on it and this machine, nothing else.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn create_network(&self, name: &str, stack: &str, spec: &NetworkSpec) -> Result<(), Error> {
        let subnet = |subnet: &Subnet| IpamConfig {
            subnet: Some(subnet.subnet.clone()),
            gateway: subnet.gateway.clone(),
            ip_range: subnet.ip_range.clone(),
            ..IpamConfig::default()
        };
        let ipam = (!spec.subnets.is_empty())
            .then(|| Ipam { config: Some(spec.subnets.iter().map(subnet).collect()), ..Ipam::default() });
        let request = NetworkCreateRequest {
            name: name.into(),
            driver: Some("bridge".into()),
            internal: Some(true),
            labels: Some(labels(stack, &spec.labels)),
            ipam,
            ..NetworkCreateRequest::default()
        };
        let made = self.client()?.create_network(request).await;
        made.map(drop).map_err(Error::of(format!("create the network {name}")))
    }

    /// Makes a volume. One of that name that exists is taken as it is.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn create_volume(&self, name: &str, stack: &str, spec: &VolumeSpec) -> Result<(), Error> {
        let request = VolumeCreateRequest {
            name: Some(name.into()),
            labels: Some(labels(stack, &spec.labels)),
            driver_opts: Some(spec.options.clone().into_iter().collect()),
            ..VolumeCreateRequest::default()
        };
        let made = self.client()?.create_volume(request).await;
        made.map(drop).map_err(Error::of(format!("create the volume {name}")))
    }

    /// Removes a network. One that is gone is fine.
    ///
    /// # Errors
    /// When no engine answers, or something is still on the network.
    pub async fn remove_network(&self, name: &str) -> Result<(), Error> {
        unless_gone(self.client()?.remove_network(name).await).map_err(Error::of(format!("remove the network {name}")))
    }

    /// Removes a volume and the data in it. One that is gone is fine.
    ///
    /// # Errors
    /// When no engine answers, or something still uses the volume.
    pub async fn remove_volume(&self, name: &str) -> Result<(), Error> {
        let options = RemoveVolumeOptionsBuilder::new().build();
        unless_gone(self.client()?.remove_volume(name, Some(options)).await)
            .map_err(Error::of(format!("remove the volume {name}")))
    }
}

fn of_stack(stack: &str) -> HashMap<&'static str, Vec<String>> {
    HashMap::from([("label", vec![format!("{STACK}={stack}")])])
}

fn labels(stack: &str, more: &BTreeMap<String, String>) -> HashMap<String, String> {
    let ours = (STACK.to_owned(), stack.to_owned());
    more.clone().into_iter().chain([ours]).collect()
}
