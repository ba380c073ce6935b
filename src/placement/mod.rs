//! Who holds the card and the host's memory.
//!
//! [`Placement::acquire`] gives a [`Lease`] on an endpoint that serves a model, loading it and making room for it
//! where needed. One task owns the state: events go in, the pure planner (`plan`, over the `ledger`) decides, effects
//! come out and are carried out elsewhere (`task`). Slow work, a start or a stop, comes back as an event; so nothing
//! here is locked.

mod card;
pub mod event;
mod instance;
mod keep;
mod learn;
pub mod ledger;
mod observe;
pub mod plan;
mod policy;
mod queue;
mod record;
mod refusal;
mod report;
mod room;
mod seat;
mod status;
mod task;

pub use keep::keep;
pub use learn::Learned;
pub use observe::{CardUse, Observation, Sight, budget};
pub use plan::Limits;
pub use policy::Policy;
pub use refusal::Refusal;
pub use seat::Seat;
pub use status::{Enforced, Status, Swap, SwapKind, SwapTotal, TenantState, TenantStatus, Waiting};

use crate::egress;
use crate::models::ModelSpec;
use crate::runtime::{Endpoint, Exit, ExitWatch, Reserved, Runtime};
use event::{Event, InstanceId, RequestId};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use task::Message;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// A handle on the task that owns placement.
#[derive(Debug, Clone)]
pub struct Placement {
    messages: mpsc::UnboundedSender<Message>,
    status: watch::Receiver<Arc<Status>>,
    next: Arc<AtomicU64>,
}

impl Placement {
    /// Starts placement over a runtime and a sight of the caller's choice.
    ///
    /// Cancelling `shutdown` refuses new requests and stops every tenant: who wants streams to end first waits before.
    pub fn with_runtime(
        runtime: Runtime,
        policy: Policy,
        learned: Learned,
        limits: Limits,
        sight: Sight,
        shutdown: CancellationToken,
    ) -> Self {
        let (messages, inbox) = mpsc::unbounded_channel();
        let (publish, status) = watch::channel(Arc::default());
        let task = task::Task::new(runtime, policy, learned, limits, sight, messages.downgrade(), publish);
        tokio::spawn(task.run(inbox, shutdown));
        Self { messages, status, next: Arc::new(AtomicU64::new(1)) }
    }

    /// A lease on an endpoint that serves `spec`, as soon as there is one. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// Why not, after `placement.max_wait` at the latest.
    pub async fn acquire(&self, spec: Arc<ModelSpec>) -> Result<Lease, Refusal> {
        self.ask(|id, reply| Message::Acquire { id, spec, reply }).await
    }

    /// Room for what serves no model here, as soon as there is some: idle models make it. It lasts until the seat is
    /// dropped. Dropping the future gives the wait up.
    ///
    /// # Errors
    /// Why there is none, after `placement.max_wait` at the latest.
    pub async fn reserve(&self, reserved: Reserved) -> Result<Seat, Refusal> {
        self.ask(|id, reply| Message::Reserve { id, reserved, reply }).await
    }

    async fn ask<T>(
        &self,
        message: impl FnOnce(RequestId, oneshot::Sender<Result<T, Refusal>>) -> Message,
    ) -> Result<T, Refusal> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(id, reply)).map_err(|_| Refusal::Closing)?;
        let mut given_up = GivenUp { id: Some(id), messages: &self.messages };
        let answer = answer.await;
        given_up.id = None;
        answer.unwrap_or(Err(Refusal::Closing))
    }

    /// What placement knows, now and after every change.
    pub fn status(&self) -> watch::Receiver<Arc<Status>> {
        self.status.clone()
    }

    /// Unloads a model once its leases have ended, refuses who waits for it, and returns when it is gone.
    pub async fn unload(&self, model: &str) {
        let (gone, mut all_gone) = mpsc::channel(1);
        if self.messages.send(Message::Unload { model: model.into(), gone }).is_ok() {
            // Nothing is ever sent: the senders are dropped as the instances end.
            let _ = all_gone.recv().await;
        }
    }

    /// Returns when the task has ended: after a shutdown, when every tenant has.
    pub async fn stopped(&self) {
        self.messages.closed().await;
    }
}

/// The right to ask an endpoint one request. Dropping it gives the right back, so whoever streams the answer owns it.
#[derive(Debug)]
pub struct Lease {
    serving: Arc<Serving>,
    instance: InstanceId,
    messages: mpsc::UnboundedSender<Message>,
}

/// What the leases of one instance share.
#[derive(Debug)]
struct Serving {
    endpoint: Endpoint,
    client: egress::Client,
    exits: ExitWatch,
}

impl Lease {
    /// Where to ask.
    pub fn endpoint(&self) -> &Endpoint {
        &self.serving.endpoint
    }

    /// The client that reaches the endpoint.
    pub fn client(&self) -> &egress::Client {
        &self.serving.client
    }

    /// How the endpoint ended, if it does within `limit`.
    pub async fn ended(&self, limit: Duration) -> Option<Exit> {
        tokio::time::timeout(limit, self.serving.exits.clone().wait()).await.ok()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        // Without its task there is nothing to give back.
        let _ = self.messages.send(Message::Event(Event::Released(self.instance)));
    }
}

/// Tells that a caller has gone away, unless it was answered.
struct GivenUp<'a> {
    id: Option<RequestId>,
    messages: &'a mpsc::UnboundedSender<Message>,
}

impl Drop for GivenUp<'_> {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            let _ = self.messages.send(Message::Event(Event::Cancelled(id)));
        }
    }
}
