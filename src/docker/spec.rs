//! What a container is made from, and how the engine is told.

use super::{Docker, Error, Exit, PORTS, Publish, SERVICE, STACK};
use bollard::models::{
    ContainerCreateBody, DeviceRequest, EndpointSettings, HealthConfig, HostConfig, NetworkConnectRequest,
    NetworkingConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptions, RemoveContainerOptionsBuilder, StartContainerOptions,
    StopContainerOptionsBuilder,
};
use serde::Serialize;
use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::time::Duration;

/// What the same [`ContainerSpec`] makes: another number where that is another container, so that those of before are
/// made anew.
pub const REVISION: u32 = 2;

/// Where the engine's resolver is told to forward what it does not know itself: the container's own loopback, where
/// nobody answers. Engines before 25.0.5 forward such queries from this machine's side, out of internal networks, where
/// this machine's resolver listens on a loopback address (CVE-2024-29018); data leaves in names that are looked up.
const NO_RESOLVER: &str = "127.0.0.1";

/// What a container is made from. Its digest tells whether an existing one still is what is wanted.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ContainerSpec {
    /// The image, by tag or digest.
    pub image: String,
    /// Arguments, over the image's.
    pub command: Option<Vec<String>>,
    /// The program, over the image's.
    pub entrypoint: Option<Vec<String>>,
    /// Its environment.
    pub environment: BTreeMap<String, String>,
    /// User, or user and group, by name or number, over the image's.
    pub user: Option<String>,
    /// Where it starts, over the image's.
    pub working_dir: Option<String>,
    /// The networks that it is on. On the first it is from the start.
    pub networks: Vec<Attachment>,
    /// What of the outside it sees as files.
    pub mounts: Vec<Mount>,
    /// Folders in memory, with the options of their mounts.
    pub tmpfs: BTreeMap<String, String>,
    /// The ports that the daemon forwards to it.
    pub ports: Vec<Publish>,
    /// Labels, besides ours.
    pub labels: BTreeMap<String, String>,
    /// How the engine asks whether it is well, over the image's.
    pub healthcheck: Option<Healthcheck>,
    /// When the engine starts it again.
    pub restart: Restart,
    /// The signal that asks it to end, over the image's.
    pub stop_signal: Option<String>,
    /// How long it may take to end once asked.
    pub stop_grace: Duration,
    /// Whether an init process reaps its orphans.
    pub init: bool,
    /// Whether its file system is read-only.
    pub read_only: bool,
    /// Capabilities that it has besides `cap_drop`.
    pub cap_add: Vec<String>,
    /// Capabilities that it lacks.
    pub cap_drop: Vec<String>,
    /// Security options.
    pub security_opt: Vec<String>,
    /// The most processes that it may have; -1 for any number.
    pub pids_limit: Option<i64>,
    /// The most memory, in bytes.
    pub memory: Option<u64>,
    /// The most processor time, in billionths of a core.
    pub nano_cpus: Option<i64>,
    /// The size of its /dev/shm, in bytes.
    pub shm_size: Option<u64>,
    /// Limits of the kernel's, by name.
    pub ulimits: BTreeMap<String, Ulimit>,
    /// What it may ask its proxy for, where its stack has a way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub exit: Option<Exit>,
    /// The cards that it sees, where it sees any. Left out of the digest where it is none, as it was before there were any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<GpuSpec>,
}

/// What a container wants of cards.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GpuSpec {
    /// Which.
    pub cards: Cards,
    /// What of the driver it uses, such as `compute` and `utility`.
    pub capabilities: Vec<String>,
    /// Bytes of each card that it may take; none where its file does not say.
    pub vram: Option<u64>,
}

/// Which cards a container sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum Cards {
    /// Any one.
    One,
    /// All that there are.
    All,
    /// These, by UUID, or by number where there is one card.
    These(Vec<String>),
}

/// A network that a container is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The network.
    pub network: String,
    /// Names under which the others there reach it.
    pub aliases: Vec<String>,
}

/// Something of the outside that a container sees as files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mount {
    /// What it is.
    pub source: MountSource,
    /// The path in the container.
    pub target: String,
    /// Whether it may not be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub enum MountSource {
    /// A volume of the engine's, by name.
    Volume(String),
    /// A path of the engine's machine.
    Bind(PathBuf),
}

/// When the engine starts a container again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub enum Restart {
    /// Never.
    #[default]
    No,
    /// Whenever it ends.
    Always,
    /// Whenever it ends, unless it was stopped on purpose.
    UnlessStopped,
    /// When it ends with an error; so many times, if a number is said.
    OnFailure(Option<u32>),
}

/// How the engine asks whether a container is well.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Healthcheck {
    /// `CMD` with arguments, `CMD-SHELL` with a command, or `NONE`; empty for the image's.
    pub test: Vec<String>,
    /// Between two checks.
    pub interval: Option<Duration>,
    /// What one may take.
    pub timeout: Option<Duration>,
    /// Failures in a row that make it unhealthy.
    pub retries: Option<u32>,
    /// How long failures do not count after its start.
    pub start_period: Option<Duration>,
    /// Between two checks during that time.
    pub start_interval: Option<Duration>,
}

impl Healthcheck {
    /// Whether it switches the image's check off.
    pub fn is_none(&self) -> bool {
        self.test.first().is_some_and(|kind| kind == "NONE")
    }
}

/// A limit of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Ulimit {
    /// Where it begins.
    pub soft: i64,
    /// How far the container may raise it.
    pub hard: i64,
}

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
        let options = CreateContainerOptionsBuilder::new().name(name).build();
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
    let host = HostConfig {
        // With no network said, none: the default bridge would be a way out.
        network_mode: Some(first.map_or("none", |attachment| &attachment.network).to_owned()),
        dns: Some(vec![NO_RESOLVER.into()]),
        binds: Some(spec.mounts.iter().map(bind).collect()),
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
    EndpointSettings { aliases: Some(attachment.aliases.clone()), ..EndpointSettings::default() }
}

fn bind(mount: &Mount) -> String {
    let source = match &mount.source {
        MountSource::Volume(name) => name.clone(),
        MountSource::Bind(path) => path.display().to_string(),
    };
    format!("{source}:{}{}", mount.target, if mount.read_only { ":ro" } else { "" })
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
