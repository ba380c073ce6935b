//! Containers: how the engine is told to make, start and end them.

use super::spec::{Attachment, ContainerSpec, Device, GpuSpec, Healthcheck, Mount, MountSource, Rare, Restart};
use super::{Docker, Error, PORTS, Publish, SERVICE, STACK};
use bollard::models::{
    ContainerCreateBody, DeviceMapping, DeviceRequest, EndpointIpamConfig, EndpointSettings, HealthConfig, HostConfig,
    HostConfigLogConfig, MountType, NetworkConnectRequest, NetworkingConfig, ResourcesUlimits, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// Where the engine's resolver is told to forward what it does not know itself: the container's own loopback, where
/// nobody answers. Engines before 25.0.5 forward such queries from this machine's side, out of internal networks, where
/// this machine's resolver listens on a loopback address (CVE-2024-29018); data leaves in names that are looked up.
const NO_RESOLVER: &str = "127.0.0.1";

impl Docker {
    /// Makes a container under a name, without starting it, and returns its identifier. The labels that make it ours
    /// are added. Where it wants cards it sees those of `cards`, by UUID.
    ///
    /// # Errors
    /// When no engine answers, or it refuses: there is no such image or network, or the name is taken.
    pub async fn create_container(
        &self,
        name: &str,
        stack: &str,
        service: &str,
        config: &str,
        spec: &ContainerSpec,
        cards: &[String],
    ) -> Result<String, Error> {
        let client = self.client()?;
        let mut spec = Cow::Borrowed(spec);
        let mut proxy = None;
        if let (Some(exit), Some(on)) = (spec.exit.clone(), spec.networks.first()) {
            let side = self.side(&on.network).await?;
            side.tell(&exit, &mut spec.to_mut().environment);
            proxy = Some((side.proxy(), exit.allowed.join(" ")));
        }
        let mut body = body(&spec, cards);
        let labels = body.labels.get_or_insert_default();
        if let Some((proxy, allowed)) = proxy {
            labels.insert(super::PROXY.into(), proxy.to_string());
            labels.insert(super::EGRESS.into(), allowed);
        }
        labels.insert(STACK.into(), stack.into());
        labels.insert(SERVICE.into(), service.into());
        labels.insert(super::CONFIG.into(), config.into());
        labels.insert(PORTS.into(), Publish::label(&spec.ports));
        if let Some(gpu) = &spec.gpu {
            labels.insert(super::CARDS.into(), cards.join(","));
            if let Some(vram) = gpu.vram {
                labels.insert(super::VRAM.into(), vram.to_string());
            }
        }
        let options = CreateContainerOptionsBuilder::new().name(name);
        let options = match &spec.rare.platform {
            Some(platform) => options.platform(platform).build(),
            None => options.build(),
        };
        let made = client
            .create_container(Some(options), body)
            .await
            .map_err(Error::of(format!("create the container {name}")))?;
        // That its resolver leads nowhere is meant so.
        for warning in made.warnings.iter().filter(|warning| !warning.contains("Localhost DNS")) {
            tracing::warn!(stack, service, warning, "Docker warns about a container");
        }
        // Engines before API 1.44 take only one network when a container is made.
        for attachment in spec.networks.iter().skip(1) {
            let request =
                NetworkConnectRequest { container: made.id.clone(), endpoint_config: Some(endpoint(attachment)) };
            let what = format!("connect {name} to the network {}", attachment.network);
            if let Err(error) = client.connect_network(&attachment.network, request).await {
                // Half a container must not pass for the whole one at the next look.
                let _ = self.remove_container(&made.id).await;
                return Err(Error::of(what)(error));
            }
        }
        Ok(made.id)
    }

    /// Starts a container. One that runs already is left as it is.
    ///
    /// # Errors
    /// When no engine answers, or it cannot start it: its program is missing, or a folder that it mounts.
    pub async fn start_container(&self, id: &str) -> Result<(), Error> {
        self.client()?
            .start_container(id, None::<StartContainerOptions>)
            .await
            .map_err(Error::of("start the container"))
    }

    /// Asks a container to end, and ends it when it has not within its grace. One that has ended is left as it is.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<(), Error> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        // The engine answers when the container has ended.
        let client = self.client()?.with_timeout(grace + Duration::from_secs(120));
        let stopped = client.stop_container(id, Some(StopContainerOptionsBuilder::new().t(seconds).build())).await;
        unless_gone(stopped).map_err(Error::of("stop the container"))
    }

    /// Ends a container at once. One that has ended is left as it is.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn kill_container(&self, id: &str) -> Result<(), Error> {
        let killed = self.client()?.kill_container(id, None::<KillContainerOptions>).await;
        match unless_gone(killed) {
            // It does not run.
            Err(error) if super::error::status(&error) == Some(409) => Ok(()),
            killed => killed.map_err(Error::of("kill the container")),
        }
    }

    /// Removes a container with the volumes that nobody named, killing it where it runs. One that is gone is fine.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn remove_container(&self, id: &str) -> Result<(), Error> {
        let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        unless_gone(self.client()?.remove_container(id, Some(options)).await).map_err(Error::of("remove the container"))
    }
}

/// What is gone already need not be removed.
pub(super) fn unless_gone(result: Result<(), bollard::errors::Error>) -> Result<(), bollard::errors::Error> {
    match result {
        Err(error) if super::error::status(&error) == Some(404) => Ok(()),
        result => result,
    }
}

fn body(spec: &ContainerSpec, cards: &[String]) -> ContainerCreateBody {
    let first = spec.networks.first();
    let bytes = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let Rare { devices, logging, .. } = &spec.rare;
    // With no network said, none: the default bridge would be a way out.
    let network_mode = first.map_or("none", |attachment| &attachment.network);
    let network_mode = if spec.rare.host_network { "host" } else { network_mode };
    let ipc_mode = (spec.rare.host_ipc).then_some("host").or(spec.rare.shareable_ipc.then_some("shareable"));
    let (anonymous, named): (Vec<&Mount>, Vec<&Mount>) =
        spec.mounts.iter().partition(|mount| mount.source == MountSource::Anonymous);
    let map = |pairs: &BTreeMap<String, String>| (!pairs.is_empty()).then(|| pairs.clone().into_iter().collect());
    let list = |all: &Vec<String>| (!all.is_empty()).then(|| all.clone());
    let host = HostConfig {
        network_mode: Some(network_mode.to_owned()),
        // On this machine's network there is nothing left to close.
        dns: (!spec.rare.host_network).then(|| vec![NO_RESOLVER.into()]),
        binds: Some(named.into_iter().map(bind).collect()),
        mounts: (!anonymous.is_empty()).then(|| anonymous.into_iter().map(nameless).collect()),
        extra_hosts: list(&spec.rare.extra_hosts),
        group_add: list(&spec.rare.group_add),
        sysctls: map(&spec.rare.sysctls),
        annotations: map(&spec.rare.annotations),
        memory_reservation: spec.rare.memory_reservation.map(bytes),
        memory_swap: spec.rare.memory_swap,
        cpu_shares: spec.rare.cpu_shares,
        cpuset_cpus: spec.rare.cpuset.clone(),
        oom_score_adj: spec.rare.oom_score_adj,
        log_config: logging
            .as_ref()
            .map(|logging| HostConfigLogConfig { typ: Some(logging.driver.clone()), config: map(&logging.options) }),
        ipc_mode: ipc_mode.map(str::to_owned),
        pid_mode: spec.rare.host_pid.then(|| "host".to_owned()),
        privileged: spec.rare.privileged.then_some(true),
        devices: (!devices.is_empty()).then(|| devices.iter().map(device).collect()),
        tmpfs: Some(spec.tmpfs.clone().into_iter().collect()),
        restart_policy: Some(restart(spec.restart)),
        init: Some(spec.init),
        readonly_rootfs: Some(spec.read_only),
        cap_add: Some(spec.cap_add.clone()),
        cap_drop: Some(spec.cap_drop.clone()),
        security_opt: Some(spec.security_opt.clone()),
        pids_limit: spec.pids_limit,
        memory: spec.memory.map(bytes),
        nano_cpus: spec.nano_cpus,
        shm_size: spec.shm_size.map(bytes),
        ulimits: Some(
            spec.ulimits
                .iter()
                .map(|(name, limit)| ResourcesUlimits {
                    name: Some(name.clone()),
                    soft: Some(limit.soft),
                    hard: Some(limit.hard),
                })
                .collect(),
        ),
        device_requests: spec.gpu.as_ref().map(|gpu| vec![device_request(gpu, cards)]),
        ..HostConfig::default()
    };
    let endpoints = first.map(|attachment| HashMap::from([(attachment.network.clone(), endpoint(attachment))]));
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        cmd: spec.command.clone(),
        entrypoint: spec.entrypoint.clone(),
        env: Some(spec.environment.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        user: spec.user.clone(),
        working_dir: spec.working_dir.clone(),
        labels: Some(spec.labels.clone().into_iter().collect()),
        healthcheck: spec.healthcheck.as_ref().map(healthcheck),
        hostname: spec.rare.hostname.clone(),
        domainname: spec.rare.domainname.clone(),
        tty: spec.rare.tty.then_some(true),
        open_stdin: spec.rare.stdin_open.then_some(true),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: i64::try_from(spec.stop_grace.as_secs()).ok(),
        host_config: Some(host),
        networking_config: endpoints.map(|endpoints| NetworkingConfig { endpoints_config: Some(endpoints) }),
        ..ContainerCreateBody::default()
    }
}

/// As `docker run --gpus device=...` asks for cards.
fn device_request(gpu: &GpuSpec, cards: &[String]) -> DeviceRequest {
    let capabilities = std::iter::once("gpu".to_owned()).chain(gpu.capabilities.iter().cloned()).collect();
    DeviceRequest {
        driver: Some("nvidia".into()),
        device_ids: Some(cards.to_vec()),
        capabilities: Some(vec![capabilities]),
        ..DeviceRequest::default()
    }
}

fn endpoint(attachment: &Attachment) -> EndpointSettings {
    let ipam = |address: &String| EndpointIpamConfig { ipv4_address: Some(address.clone()), ..Default::default() };
    EndpointSettings {
        aliases: Some(attachment.aliases.clone()),
        ipam_config: attachment.address.as_ref().map(ipam),
        ..EndpointSettings::default()
    }
}

fn bind(mount: &Mount) -> String {
    let source = match &mount.source {
        MountSource::Volume(name) => name.clone(),
        MountSource::Bind(path) => path.display().to_string(),
        // Neither has a path: the one is mounted otherwise, the other was written to a file before.
        MountSource::Anonymous | MountSource::Text(_) => String::new(),
    };
    let options = mount.read_only.then_some("ro").into_iter().chain(mount.options.iter().map(String::as_str));
    let options = options.collect::<Vec<_>>().join(",");
    format!("{source}:{}{}{options}", mount.target, if options.is_empty() { "" } else { ":" })
}

fn nameless(mount: &Mount) -> bollard::models::Mount {
    bollard::models::Mount {
        target: Some(mount.target.clone()),
        typ: Some(MountType::VOLUME),
        read_only: Some(mount.read_only),
        ..Default::default()
    }
}

fn device(device: &Device) -> DeviceMapping {
    DeviceMapping {
        path_on_host: Some(device.source.clone()),
        path_in_container: Some(device.target.clone()),
        cgroup_permissions: Some(device.permissions.clone()),
    }
}

fn restart(restart: Restart) -> RestartPolicy {
    let (name, tries) = match restart {
        Restart::No => (RestartPolicyNameEnum::NO, None),
        Restart::Always => (RestartPolicyNameEnum::ALWAYS, None),
        Restart::UnlessStopped => (RestartPolicyNameEnum::UNLESS_STOPPED, None),
        Restart::OnFailure(tries) => (RestartPolicyNameEnum::ON_FAILURE, tries.map(i64::from)),
    };
    RestartPolicy { name: Some(name), maximum_retry_count: tries }
}

fn healthcheck(check: &Healthcheck) -> HealthConfig {
    let nanoseconds = |time: Option<Duration>| time.map(|time| i64::try_from(time.as_nanos()).unwrap_or(i64::MAX));
    HealthConfig {
        test: Some(check.test.clone()),
        interval: nanoseconds(check.interval),
        timeout: nanoseconds(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: nanoseconds(check.start_period),
        start_interval: nanoseconds(check.start_interval),
    }
}
