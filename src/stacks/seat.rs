//! The room on cards that containers take. A container with a card starts once placement has room for it, and is
//! stopped when placement says so: it took more than it may, or its card is lost.

use super::error::Error;
use super::spec::ServiceSpec;
use super::station::Work;
use super::wanted::Wanted;
use super::{Stacks, apply};
use crate::docker::{self, Cards, Container, GpuSpec, Phase};
use crate::placement::{Refusal, Seat, Status};
use crate::runtime::{Reserved, Room};
use jiff::Timestamp;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a container may take to end of which no file says it.
const GRACE: Duration = Duration::from_secs(10);

/// A container that takes, or will take, room on a card.
#[derive(Debug, Clone)]
pub(super) struct Sitter {
    pub stack: String,
    pub service: String,
    pub container: String,
    /// Its start before this one.
    pub last_start: Option<Timestamp>,
    pub grace: Duration,
    /// Cancelled when it will not start after all.
    pub left: CancellationToken,
}

impl Sitter {
    fn new(stack: &str, service: &str, container: &str, last_start: Option<Timestamp>, grace: Duration) -> Self {
        let (stack, service, container) = (stack.to_owned(), service.to_owned(), container.to_owned());
        Self { stack, service, container, last_start, grace, left: CancellationToken::new() }
    }
}

/// What the ledger calls a service. No model's name has a space.
pub(super) fn name(stack: &str, service: &str) -> String {
    format!("stack {stack}/{service}")
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self::Service(refusal.to_string())
    }
}

impl Stacks {
    /// Room for a service's container, once there is some.
    pub(super) async fn seat(&self, stack: &str, service: &ServiceSpec, gpu: &GpuSpec) -> Result<Seat, Error> {
        let (service, image) = (&service.name, &service.container.image);
        let room = self.room(gpu.vram, image).await?;
        let reserved = Reserved::new(name(stack, service), gpu.cards.clone(), room, None);
        Ok(self.0.placement.reserve(reserved).await?)
    }

    /// What a container of `image` may take, or is expected to.
    async fn room(&self, vram: Option<u64>, image: &str) -> Result<Room, docker::Error> {
        Ok(match vram {
            Some(bytes) => Room::Said(bytes),
            None => Room::Unsaid { guess: self.0.undeclared, image: self.0.docker.image_id(image).await? },
        })
    }

    /// The container will take the room, until it ends.
    pub(super) fn sit(&self, seat: Seat, sitter: Sitter) {
        self.seated().insert(sitter.container.clone(), sitter.clone());
        tokio::spawn(self.clone().mind(seat, sitter));
    }

    /// The container does not start after all.
    pub(super) fn leave(&self, container: &str) {
        if let Some(sitter) = self.seated().get(container) {
            sitter.left.cancel();
        }
    }

    /// Takes the room for containers that hold cards already, because an earlier daemon or the engine started them.
    pub(super) fn adopt(&self) {
        for container in self.0.docker.containers().borrow().iter() {
            let runs = matches!(container.phase, Phase::Running | Phase::Paused | Phase::Restarting);
            let Some(cards) = container.labels.get(docker::CARDS) else { continue };
            let vram = container.labels.get(docker::VRAM).and_then(|bytes| bytes.parse().ok());
            let sitter = Sitter::new(&container.stack, &container.service, &container.id, None, GRACE);
            let mut seated = self.seated();
            if !runs || seated.contains_key(&container.id) {
                continue;
            }
            seated.insert(container.id.clone(), sitter.clone());
            let cards: Vec<String> = cards.split(',').map(str::to_owned).collect();
            tokio::spawn(self.clone().adopt_one(sitter, cards, vram, container.image.clone()));
        }
    }

    async fn adopt_one(self, sitter: Sitter, cards: Vec<String>, vram: Option<u64>, image: String) {
        let name = name(&sitter.stack, &sitter.service);
        let taken = async {
            self.until_seen(&cards).await;
            let room = self.room(vram, &image).await?;
            let reserved = Reserved::new(name, Cards::These(cards.clone()), room, Some(sitter.container.clone()));
            Ok::<_, Error>(self.0.placement.reserve(reserved).await?)
        };
        let taken = tokio::select! {
            taken = taken => taken,
            () = self.ended(&sitter) => return drop(self.seated().remove(&sitter.container)),
            () = self.0.shutdown.cancelled() => return,
        };
        match taken {
            Ok(seat) => self.mind(seat, sitter).await,
            Err(error) => {
                tracing::warn!(stack = sitter.stack, service = sitter.service, %error, "its memory is not accounted for");
                self.seated().remove(&sitter.container);
            }
        }
    }

    /// Holds the seat while the container sits there, and ends the container when that is asked.
    async fn mind(self, seat: Seat, sitter: Sitter) {
        seat.occupied(&sitter.container);
        let asked = tokio::select! {
            () = self.0.shutdown.cancelled() => return,
            () = seat.asked() => true,
            () = sitter.left.cancelled() => false,
            () = self.ended(&sitter) => false,
        };
        // The daemon that stops asks everybody; its containers run on.
        if self.0.shutdown.is_cancelled() {
            return;
        }
        let cards = seat.cards().to_vec();
        if asked {
            tracing::warn!(stack = sitter.stack, service = sitter.service, "a container has to give up its card");
            self.stop(&seat, &sitter).await;
        }
        self.seated().remove(&sitter.container);
        drop(seat);
        if asked {
            self.tell(&sitter, cards).await;
        }
    }

    async fn stop(&self, seat: &Seat, sitter: &Sitter) {
        let docker = &self.0.docker;
        let stopped = tokio::select! {
            stopped = docker.stop_container(&sitter.container, sitter.grace) => stopped,
            () = seat.killed() => docker.kill_container(&sitter.container).await,
        };
        match stopped {
            Ok(()) => self.ended(sitter).await,
            // Without its engine nobody can stop it; the ledger must not believe that it has gone.
            Err(error) => {
                tracing::error!(stack = sitter.stack, service = sitter.service, %error, "it could not be stopped");
                tokio::select! {
                    () = self.ended(sitter) => {}
                    () = self.0.shutdown.cancelled() => {}
                }
            }
        }
    }

    /// Tells why a container was stopped, and brings its stack back when a card that was lost is back.
    async fn tell(&self, sitter: &Sitter, cards: Vec<String>) {
        let name = name(&sitter.stack, &sitter.service);
        let mut status = self.0.placement.status();
        let left = |status: &Arc<Status>| status.tenants.iter().all(|tenant| tenant.model != name);
        let Ok(seen) = status.wait_for(left).await.map(|status| status.clone()) else { return };
        let record = seen.enforced.iter().find(|record| record.model == name);
        let cause = record.map_or("placement asked for its room", |record| &record.cause);
        if let Some(station) = self.stations().get_mut(&sitter.stack) {
            station.problem = Some(format!("{} was stopped: {cause}", sitter.service));
        }
        self.changed();
        if cards.iter().all(|card| seen.budget.vram.contains_key(card)) {
            return;
        }
        tokio::select! {
            () = self.until_seen(&cards) => {}
            () = self.0.shutdown.cancelled() => return,
        }
        if self.stations().get(&sitter.stack).is_some_and(|station| station.wanted == Some(Wanted::Up)) {
            tracing::info!(stack = sitter.stack, service = sitter.service, "its card is back");
            drop(self.begin(&sitter.stack, Work::Up));
        }
    }

    /// Returns once all of these cards are there.
    async fn until_seen(&self, cards: &[String]) {
        let seen = |status: &Arc<Status>| cards.iter().all(|card| status.budget.vram.contains_key(card));
        // Its sender lives as long as the daemon does anything.
        let _ = self.0.placement.status().wait_for(seen).await;
    }

    /// Returns when the container has ended for good: one that Docker starts again keeps its room.
    async fn ended(&self, sitter: &Sitter) {
        let (mut containers, mut state) = (self.0.docker.containers(), self.0.docker.state());
        let mut seen = false;
        loop {
            // While no engine answers, nothing is known of its containers.
            let present = state.borrow_and_update().engine().is_some();
            let told = containers.borrow_and_update().iter().find(|told| told.id == sitter.container).cloned();
            let over = |told: &Container| {
                let old = sitter.last_start.is_some() && told.started_at <= sitter.last_start;
                matches!(told.phase, Phase::Exited(_) | Phase::Dead | Phase::Removing) && !old
            };
            match told {
                Some(told) if present && over(&told) => return,
                Some(_) => seen = true,
                None if present && seen => return,
                None => {}
            }
            let closed = tokio::select! {
                changed = containers.changed() => changed.is_err(),
                changed = state.changed() => changed.is_err(),
            };
            if closed {
                return;
            }
        }
    }
}

/// Makes a container with cards once there is room, and starts it.
pub(super) async fn run(
    stacks: &Stacks,
    stack: &str,
    service: &ServiceSpec,
    gpu: &GpuSpec,
    cancel: &CancellationToken,
) -> Result<String, Error> {
    let seat = tokio::select! {
        seat = stacks.seat(stack, service, gpu) => seat?,
        () = cancel.cancelled() => return Err(Error::Superseded),
    };
    let id = apply::create(stacks, stack, service, seat.cards()).await?;
    let sitter = Sitter::new(stack, &service.name, &id, None, service.container.stop_grace);
    stacks.sit(seat, sitter);
    match apply::start(stacks, stack, service, &id).await {
        Ok(()) => Ok(id),
        Err(error) => {
            stacks.leave(&id);
            Err(error)
        }
    }
}

/// Starts a container with cards that exists, once there is room.
pub(super) async fn start(
    stacks: &Stacks,
    container: &Container,
    service: &ServiceSpec,
    gpu: &GpuSpec,
    cancel: &CancellationToken,
) -> Result<(), Error> {
    // It sees the cards that it was made with.
    let cards = container.labels.get(docker::CARDS).map(|cards| cards.split(',').map(str::to_owned).collect());
    let gpu = GpuSpec { cards: cards.map_or(gpu.cards.clone(), Cards::These), ..gpu.clone() };
    let seat = tokio::select! {
        seat = stacks.seat(&container.stack, service, &gpu) => seat?,
        () = cancel.cancelled() => return Err(Error::Superseded),
    };
    let Container { stack, id, started_at, .. } = container;
    let sitter = Sitter::new(stack, &service.name, id, *started_at, service.container.stop_grace);
    stacks.sit(seat, sitter);
    let started = stacks.0.docker.start_container(&container.id).await;
    if started.is_err() {
        stacks.leave(&container.id);
    }
    Ok(started?)
}
