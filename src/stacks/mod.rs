//! Stacks: compose files, brought up in Docker and kept as their owner wants them.
//!
//! A file is read (`compose`), resolved (`spec`) and compared with what exists; the difference is decided purely
//! (`plan`) and carried out (`apply`). Of each stack one operation runs at a time, and the newest wish wins. What is
//! wanted is kept in the database (`wanted`), so that a stack that is wanted up comes up again when the daemon or the
//! Docker engine does. Networks are internal; `forward` serves the ports, and `proxy` is the
//! way out of stacks that ask for one. What they have in common is `listeners`.

mod allowed;
mod apply;
mod canary;
pub mod compose;
mod error;
mod forward;
mod listeners;
mod permit;
pub mod plan;
mod proxy;
mod pull;
mod resolver;
mod seat;
mod shelf;
pub mod spec;
mod station;
mod text;
mod view;
mod wanted;

pub use allowed::Allowed;
pub use error::Error;
pub use station::Handle;
pub use view::{ServiceView, StackState, StackView};

use crate::config::Config;
use crate::db::Db;
use crate::docker::{Docker, Logs};
use crate::egress::Egress;
use crate::placement::Placement;
use seat::Sitter;
use station::{Station, Work};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use wanted::Wanted;

/// The handle on all stacks. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Stacks(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    docker: Docker,
    egress: Egress,
    db: Db,
    dir: PathBuf,
    stations: Mutex<BTreeMap<String, Station>>,
    /// Held while a wish is written and its operation put into the line, so that both are of one order.
    wishing: tokio::sync::Mutex<()>,
    ports: watch::Receiver<listeners::Board>,
    proxies: watch::Receiver<listeners::Board>,
    placement: Placement,
    /// Containers that take room on cards, by identifier.
    seated: Mutex<BTreeMap<String, Sitter>>,
    /// Where texts that containers read as files are written.
    texts: PathBuf,
    /// Bytes that are expected of a container with a card whose file says nothing.
    undeclared: u64,
    changes: watch::Sender<u64>,
    shutdown: CancellationToken,
}

impl Stacks {
    /// Reads what is wanted and starts to keep it, until `shutdown`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open(
        config: &Config,
        db: Db,
        docker: Docker,
        egress: Egress,
        placement: Placement,
        shutdown: CancellationToken,
    ) -> Result<Self, sqlx::Error> {
        let wanted = wanted::read(&db).await?;
        let stations = wanted.into_iter().map(|(name, wanted)| (name, Station::new(wanted))).collect();
        let dir = config.stacks_dir();
        // Where it is ours to make, there is a folder to put files into. Without one there are just no files.
        if config.docker.stacks.is_none()
            && let Err(error) = tokio::fs::create_dir_all(&dir).await
        {
            tracing::warn!(dir = %dir.display(), %error, "there is no folder for stacks");
        }
        let ports = forward::start(&docker, shutdown.clone());
        let proxies = proxy::start(&docker, &egress, shutdown.clone());
        let stacks = Self(Arc::new(Inner {
            docker,
            egress,
            db,
            dir,
            stations: Mutex::new(stations),
            wishing: tokio::sync::Mutex::default(),
            ports,
            proxies,
            placement,
            seated: Mutex::default(),
            texts: config.state_dir().join("texts"),
            undeclared: config.placement.undeclared.0,
            changes: watch::Sender::new(0),
            shutdown,
        }));
        tokio::spawn(stacks.clone().keep());
        if let every @ 1.. = config.docker.canary.0 {
            tokio::spawn(canary::watch(stacks.clone(), std::time::Duration::from_secs(every)));
        }
        Ok(stacks)
    }

    /// All stacks by name: the shipped ones, the owner's, and those of which only containers are left.
    pub async fn list(&self) -> Vec<StackView> {
        let mut shelf = self.shelf().await;
        let containers = self.0.docker.containers().borrow().clone();
        let absent = self.0.docker.state().borrow().absent().is_some();
        let unserved = [&self.0.ports, &self.0.proxies].map(|board| board.borrow().problems.clone());
        let stations = self.stations();
        let mut names: Vec<String> = shelf.keys().cloned().collect();
        names.extend(containers.iter().map(|container| container.stack.clone()));
        names.extend(stations.iter().filter(|(_, station)| station.wanted.is_some()).map(|(name, _)| name.clone()));
        names.sort();
        names.dedup();
        let view = |name: String| {
            let own: Vec<_> = containers.iter().filter(|container| container.stack == name).collect();
            let station = stations.get(&name);
            let operation = station.and_then(|station| station.operation.as_ref());
            let wanted = station.and_then(|station| station.wanted);
            let (spec, refusal) = match shelf.remove(&name) {
                Some(Ok(spec)) => (Some(spec), None),
                Some(Err(error)) => (None, Some(error.to_string())),
                None => (None, Some("its file is gone; it can be stopped and removed, not started".to_owned())),
            };
            let state = match operation.map(|operation| operation.work) {
                _ if absent => StackState::Unknown,
                Some(Work::Up) => StackState::Starting,
                Some(Work::Down | Work::Remove) => StackState::Stopping,
                None => match view::state_of(&own) {
                    StackState::Stopped if wanted == Some(Wanted::Up) => StackState::Failing,
                    state => state,
                },
            };
            let problem = refusal
                .or_else(|| station.and_then(|station| station.problem.clone()))
                .or_else(|| unserved.iter().find_map(|problems| problems.get(&name).cloned()))
                .or_else(|| own.iter().find_map(|container| plan::ailment(container)));
            StackView {
                title: spec.as_ref().map_or_else(|| name.clone(), |spec| spec.title.clone()),
                web: spec.as_ref().and_then(|spec| spec.web.clone()),
                warnings: spec.as_ref().map(|spec| spec.warnings.clone()).unwrap_or_default(),
                description: spec.map(|spec| spec.description).unwrap_or_default(),
                state,
                progress: operation.and_then(|operation| operation.progress.clone()),
                problem,
                up: wanted == Some(Wanted::Up) || (wanted.is_none() && !own.is_empty()),
                removable: wanted == Some(Wanted::Down) && operation.is_none(),
                services: own.into_iter().map(ServiceView::from).collect(),
                name,
            }
        };
        names.into_iter().map(view).collect()
    }

    /// One stack.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none of that name.
    pub async fn get(&self, name: &str) -> Result<StackView, Error> {
        let mut all = self.list().await;
        match all.iter().position(|stack| stack.name == name) {
            Some(index) => Ok(all.swap_remove(index)),
            None => Err(not_found(name, all.into_iter().map(|stack| stack.name))),
        }
    }

    /// Changes whenever what [`list`](Self::list) tells may have changed, except by an edit of the owner's files.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Wants a stack up and begins to bring it up. How that goes is told by [`list`](Self::list); the returned handle
    /// may be waited for, or dropped.
    ///
    /// # Errors
    /// When there is no such stack, its file is not understood, or no Docker engine is there: then nothing changes.
    pub async fn up(&self, name: &str) -> Result<Handle, Error> {
        let mut shelf = self.shelf().await;
        if let Some(spec) = shelf.remove(name) {
            spec?;
        } else {
            self.get(name).await?;
            let file = self.0.dir.join(format!("{name}.yaml"));
            return Err(compose::Error::new(&file, format!("the file of the stack {name} is gone")).into());
        }
        if let Some(reason) = self.0.docker.state().borrow().absent() {
            return Err(crate::docker::Error::Absent { reason: reason.to_owned() }.into());
        }
        self.wish(name, Wanted::Up, Work::Up).await
    }

    /// Wants a stack down and begins to take it down: containers and networks go, volumes stay. Without a Docker
    /// engine the wish is kept, and done when there is one.
    ///
    /// # Errors
    /// When there is no such stack.
    pub async fn down(&self, name: &str) -> Result<Handle, Error> {
        self.get(name).await?;
        self.wish(name, Wanted::Down, Work::Down).await
    }

    /// Takes a stack down and removes its volumes with their data. A file of the owner's stays.
    ///
    /// # Errors
    /// When there is no such stack, or no Docker engine.
    pub async fn remove(&self, name: &str) -> Result<Handle, Error> {
        self.get(name).await?;
        if let Some(reason) = self.0.docker.state().borrow().absent() {
            return Err(crate::docker::Error::Absent { reason: reason.to_owned() }.into());
        }
        self.wish(name, Wanted::Down, Work::Remove).await
    }

    /// What the services of a stack print; with `follow` also what they will.
    ///
    /// # Errors
    /// When there is no such stack, or no Docker engine.
    pub async fn logs(&self, name: &str, follow: bool) -> Result<Logs, Error> {
        self.get(name).await?;
        Ok(self.0.docker.logs(name, follow).await?)
    }

    /// Brings everything to what is wanted, now and whenever a Docker engine appears; tells of changes in between.
    async fn keep(self) {
        let (mut state, mut containers) = (self.0.docker.state(), self.0.docker.containers());
        let (mut ports, mut proxies) = (self.0.ports.clone(), self.0.proxies.clone());
        let mut was_present = false;
        loop {
            let is_present = state.borrow_and_update().engine().is_some();
            if is_present && !was_present {
                self.reconcile();
            }
            was_present = is_present;
            self.adopt();
            self.changed();
            let ended = tokio::select! {
                () = self.0.shutdown.cancelled() => return,
                changed = state.changed() => changed.is_err(),
                changed = containers.changed() => changed.is_err(),
                changed = ports.changed() => changed.is_err(),
                changed = proxies.changed() => changed.is_err(),
            };
            if ended {
                return;
            }
        }
    }

    /// Begins what is wanted of each stack. Nothing is done about stacks of which nothing is wanted: another daemon on
    /// the same engine may want something of them.
    fn reconcile(&self) {
        let running = self.0.docker.containers().borrow().clone();
        let due: Vec<(String, Work)> = self
            .stations()
            .iter()
            .filter_map(|(name, station)| match station.wanted? {
                Wanted::Up => Some((name.clone(), Work::Up)),
                Wanted::Down => {
                    running.iter().any(|container| container.stack == *name).then(|| (name.clone(), Work::Down))
                }
            })
            .collect();
        for (name, work) in due {
            drop(self.begin(&name, work));
        }
    }

    async fn wish(&self, name: &str, wanted: Wanted, work: Work) -> Result<Handle, Error> {
        let _one_at_a_time = self.0.wishing.lock().await;
        self.want(name, Some(wanted)).await?;
        Ok(self.begin(name, work))
    }

    async fn want(&self, name: &str, wanted: Option<Wanted>) -> Result<(), Error> {
        wanted::write(&self.0.db, name, wanted).await?;
        self.stations().entry(name.to_owned()).or_default().wanted = wanted;
        Ok(())
    }

    /// Begins an operation, once those before it have ended.
    fn begin(&self, name: &str, work: Work) -> Handle {
        let cancel = self.0.shutdown.child_token();
        let mut turn = self.stations().entry(name.to_owned()).or_default().enter(work, cancel.clone());
        self.changed();
        let (stacks, name) = (self.clone(), name.to_owned());
        Handle(tokio::spawn(async move {
            turn.comes().await;
            let done = stacks.carry_out(&name, turn.number, work, &cancel).await;
            stacks.end(&name, turn.number, work, &done);
            done
        }))
    }

    async fn carry_out(&self, name: &str, number: u64, work: Work, cancel: &CancellationToken) -> Result<(), Error> {
        let docker = &self.0.docker;
        let spec = match (self.shelf().await.remove(name), work) {
            (Some(Ok(spec)), _) => Some(spec),
            (Some(Err(error)), Work::Up) => return Err(error.into()),
            (None, Work::Up) => return Err(Error::Service("its file is gone".into())),
            (_, Work::Down | Work::Remove) => None,
        };
        let mut existing = apply::survey(docker, name).await?;
        let blind = self.stations().get_mut(name).map(|station| std::mem::take(&mut station.blind)).unwrap_or_default();
        // What they were made from is as it is wanted, and they are not.
        existing.containers.iter_mut().filter(|one| blind.contains(&one.id)).for_each(|one| one.config.clear());
        let effects = match (&spec, work) {
            (Some(spec), Work::Up) => plan::up(spec, &existing),
            (spec, _) => plan::down(spec.as_ref(), &existing, work == Work::Remove),
        };
        let progress = |text: String| self.progress(name, number, text);
        apply::apply(self, name, spec.as_ref(), &existing, effects, cancel, progress).await?;
        if work == Work::Remove {
            text::forget(&self.0.texts, name);
            let _one_at_a_time = self.0.wishing.lock().await;
            // Unless something else is wanted of it meanwhile.
            let is_newest = self.stations().get_mut(name).is_some_and(|station| station.operation(number).is_some());
            if is_newest {
                self.want(name, None).await?;
            }
        }
        Ok(())
    }

    fn progress(&self, name: &str, number: u64, text: String) {
        let told =
            self.stations().get_mut(name).and_then(|station| station.operation(number)).is_some_and(|operation| {
                let is_new = operation.progress.as_ref() != Some(&text);
                operation.progress = Some(text);
                is_new
            });
        if told {
            self.changed();
        }
    }

    fn end(&self, name: &str, number: u64, work: Work, done: &Result<(), Error>) {
        match done {
            Ok(()) => tracing::info!(stack = name, ?work, "done"),
            Err(Error::Superseded) => tracing::info!(stack = name, ?work, "given up for something newer"),
            Err(error) => tracing::warn!(stack = name, ?work, %error, "a stack is not as it is wanted"),
        }
        if let Some(station) = self.stations().get_mut(name)
            && station.operation(number).is_some()
        {
            station.operation = None;
            station.problem = done.as_ref().err().map(Error::to_string);
        }
        self.changed();
    }

    /// Every stack's file, read anew: the owner may have edited it.
    async fn shelf(&self) -> shelf::Shelf {
        let dir = self.0.dir.clone();
        match tokio::task::spawn_blocking(move || shelf::read(&dir)).await {
            Ok(shelf) => shelf,
            Err(error) => {
                tracing::error!(%error, "the stacks' files could not be read");
                shelf::Shelf::new()
            }
        }
    }

    fn changed(&self) {
        self.0.changes.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn seated(&self) -> MutexGuard<'_, BTreeMap<String, Sitter>> {
        self.0.seated.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stations(&self) -> MutexGuard<'_, BTreeMap<String, Station>> {
        self.0.stations.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn not_found(name: &str, known: impl Iterator<Item = String>) -> Error {
    let nearest = known
        .map(|known| (strsim::jaro_winkler(name, &known), known))
        .filter(|(likeness, _)| *likeness > 0.7)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, known)| known);
    Error::NotFound { name: name.into(), nearest }
}
