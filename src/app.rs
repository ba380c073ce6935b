//! The daemon's parts, wired together: the only place that names all concrete ones.

use crate::auth::{Keys, Sessions};
use crate::config::Config;
use crate::db::Db;
use crate::db::usage::Usage;
use crate::docker::{Container, Docker};
use crate::egress::Egress;
use crate::gpu;
use crate::models::Models;
use crate::placement::{self, Learned, Limits, Placement, Policy, Sight};
use crate::runtime::{Attribution, Runtime};
use crate::stacks::Stacks;
use anyhow::Context;
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Handles on everything that a request may need. Each is cheap to clone, and so is the whole.
#[derive(Debug, Clone)]
pub struct App {
    /// The resolved configuration; its state folder is absolute.
    pub config: Arc<Config>,
    /// `sovereign.db`.
    pub db: Db,
    /// `metrics.db`.
    pub metrics: Db,
    /// The API keys.
    pub keys: Keys,
    /// Who sits at the browser.
    pub sessions: Sessions,
    /// The writer of what was answered.
    pub usage: Usage,
    /// The gate to the outside.
    pub egress: Egress,
    /// What can be served, and the pulls.
    pub models: Models,
    /// What would serve a model; only `placement` starts it.
    pub runtime: Runtime,
    /// Who holds the card and the host's memory.
    pub placement: Placement,
    /// The Docker engine, there or not.
    pub docker: Docker,
    /// Compose files, applied to it.
    pub stacks: Stacks,
    /// What the card and the host do.
    pub gpu: gpu::Monitor,
    /// What the cards drew, day by day.
    pub energy: gpu::Energy,
    /// When the daemon started.
    pub started: Instant,
    /// Cancelled when the daemon stops: whatever streams without end must end then.
    pub closing: CancellationToken,
    /// Cancelled after `closing`, when answers had their time to end.
    tenants: CancellationToken,
}

impl App {
    /// Opens and starts everything, in a state folder that the caller holds.
    ///
    /// # Errors
    /// When something that the daemon cannot do without does not open.
    pub async fn start(config: Config) -> anyhow::Result<Self> {
        let runtime = Runtime::new(&config);
        Self::with_runtime(config, runtime).await
    }

    /// Like [`App::start`], over a runtime of the caller's choice.
    ///
    /// # Errors
    /// As [`App::start`].
    pub async fn with_runtime(config: Config, runtime: Runtime) -> anyhow::Result<Self> {
        let config = Arc::new(config);
        let state = config.state_dir();
        let db = Db::open_main(&state.join("sovereign.db")).await?;
        let metrics = Db::open_metrics(&state.join("metrics.db")).await?;
        let tenants = CancellationToken::new();
        let gpu = gpu::Monitor::start(&config.gpu, metrics.clone()).context("cannot start the probe of the card")?;
        let (policy, limits) = (Policy::new(&config), Limits::new(&config));
        let sight = Sight::follow(&config, &gpu)?;
        let learned = Learned::open(&db).await.context("cannot read what models were seen to hold")?;
        let placement =
            Placement::with_runtime(runtime.clone(), policy.clone(), learned, limits, sight, tenants.clone());
        let docker = Docker::start(&config.docker, tenants.clone());
        tokio::spawn(name_holders(gpu.clone(), docker.containers(), placement.status(), tenants.clone()));
        let egress = Egress::open(&config).await.map_err(anyhow::Error::msg).context("the configuration")?;
        let (engine, gate) = (docker.clone(), egress.clone());
        let stacks = Stacks::open(&config, db.clone(), engine, gate, placement.clone(), tenants.clone());
        let models =
            Models::open(&config, db.clone(), egress.clone()).await.context("cannot read the list of models")?;
        for (name, stays) in policy.kept() {
            let models = models.clone();
            let find = move |name: &str| models.resolve(name).ok();
            tokio::spawn(placement::keep(placement.clone(), name.to_string(), stays, find));
        }
        Ok(Self {
            keys: Keys::open(db.clone()),
            sessions: Sessions::open(db.clone()).await.context("cannot open the dashboard's sessions")?,
            usage: Usage::start(db.clone()),
            egress,
            models,
            runtime,
            placement,
            docker,
            stacks: stacks.await.context("cannot read which stacks are wanted")?,
            energy: gpu::Energy::new(&config.gpu, metrics.clone(), db.clone()),
            gpu,
            started: Instant::now(),
            closing: CancellationToken::new(),
            tenants,
            config,
            db,
            metrics,
        })
    }

    /// Stops every tenant, whoever it answers; returns when they have ended.
    pub async fn stop_tenants(&self) {
        self.tenants.cancel();
        self.placement.stopped().await;
    }

    /// Writes what is not written yet and closes the databases. Nothing works afterwards.
    pub async fn close(&self) {
        self.closing.cancel();
        self.models.close().await;
        self.egress.close().await;
        self.stop_tenants().await;
        self.usage.flush().await;
        self.metrics.close().await;
        self.db.close().await;
    }
}

/// Tells the probe what processes on cards are called, now and after every change, until `stop`.
async fn name_holders(
    gpu: gpu::Monitor,
    mut containers: watch::Receiver<Arc<Vec<Container>>>,
    mut placement: watch::Receiver<Arc<placement::Status>>,
    stop: CancellationToken,
) {
    loop {
        let owners = owners(&containers.borrow_and_update(), &placement.borrow_and_update());
        gpu.know(owners);
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            changed = containers.changed() => changed.is_err(),
            changed = placement.changed() => changed.is_err(),
        };
        if ended {
            return;
        }
    }
}

/// What processes and containers are called.
fn owners(containers: &[Container], placement: &placement::Status) -> gpu::Owners {
    let who = |tenant: &placement::TenantStatus| Some((tenant.who.clone()?, tenant.model.clone()));
    let tenants: Vec<(Attribution, String)> = placement.tenants.iter().filter_map(who).collect();
    let served_by = |id: &str| {
        let is = |who: &Attribution| matches!(who, Attribution::Container(container) if container == id);
        tenants.iter().find(|(who, _)| is(who)).map(|(_, model)| model.clone())
    };
    let service = |container: &Container| gpu::Service {
        stack: container.stack.clone(),
        service: container.service.clone(),
        model: served_by(&container.id),
    };
    let process = |(who, model): &(Attribution, String)| match who {
        Attribution::Process(pid) => Some((*pid, model.clone())),
        Attribution::Container(_) | Attribution::Daemon | Attribution::Nobody => None,
    };
    gpu::Owners {
        services: containers.iter().map(|container| (container.id.clone(), service(container))).collect(),
        models: tenants.iter().filter_map(process).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::docker::Phase;
    use crate::placement::{Status, TenantState, TenantStatus};
    use crate::runtime::Claim;
    use std::collections::BTreeMap;

    fn container(id: &str, service: &str) -> Container {
        Container {
            id: id.into(),
            stack: "vllm".into(),
            service: service.into(),
            image: "image".into(),
            phase: Phase::Running,
            health: None,
            restarts: 0,
            started_at: None,
            config: String::new(),
            ports: Vec::new(),
            addresses: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    fn tenant(model: &str, who: Option<Attribution>) -> TenantStatus {
        TenantStatus {
            model: model.into(),
            runtime: "native".into(),
            quant: "Q4_K_M".into(),
            setting: Default::default(),
            state: TenantState::Ready,
            pinned: false,
            predicted: Claim::default(),
            granted: Claim::default(),
            measured_ram: None,
            measured_vram: BTreeMap::new(),
            who,
            leases: 0,
            slots: 1,
            started: jiff::Timestamp::UNIX_EPOCH,
            idle_since: None,
        }
    }

    #[test]
    fn holders_are_called_by_model_or_service() {
        let tenants = vec![
            tenant("gemma", Some(Attribution::Process(7))),
            tenant("qwen", Some(Attribution::Container("aa".into()))),
            tenant("loading", None),
            tenant("double", Some(Attribution::Daemon)),
        ];
        let placement = Status { tenants, ..Status::default() };
        let owners = owners(&[container("aa", "server"), container("bb", "trainer")], &placement);
        assert_eq!(owners.models, BTreeMap::from([(7, "gemma".to_owned())]));
        let service = |service: &str, model: Option<&str>| gpu::Service {
            stack: "vllm".into(),
            service: service.into(),
            model: model.map(Into::into),
        };
        let expected =
            [("aa".to_owned(), service("server", Some("qwen"))), ("bb".to_owned(), service("trainer", None))];
        assert_eq!(owners.services, BTreeMap::from(expected));
    }
}
