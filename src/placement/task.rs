//! The loop: takes messages in, asks the planner, and carries out what it says. Starts and stops run in tasks of
//! their own and come back as messages.

use super::event::{Effect, Event, Hold, InstanceId, ModelName, RequestId, Want};
use super::instance::{Life, Order};
use super::learn::Learned;
use super::ledger::State;
use super::observe::{CardUse, Sight};
use super::plan::{Limits, Plan};
use super::policy::Policy;
use super::report::{Clock, status};
use super::{Lease, Refusal, Seat, Serving, Status, Swap, SwapKind, SwapTotal};
use crate::egress;
use crate::models::ModelSpec;
use crate::runtime::{Attribution, Card, Endpoint, Exit, ExitWatch, Grant, Reserved, Rung, Runtime, Tenant, Variant};
use jiff::Timestamp;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How often the memory of running tenants is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
/// Loads that are remembered.
const SWAPS: usize = 20;

/// What the loop is told.
#[derive(Debug)]
pub enum Message {
    /// A caller wants a lease.
    Acquire { id: RequestId, spec: Arc<ModelSpec>, reply: oneshot::Sender<Result<Lease, Refusal>> },
    /// Somebody wants room for what serves no model.
    Reserve { id: RequestId, reserved: Reserved, reply: oneshot::Sender<Result<Seat, Refusal>> },
    /// Whose memory an instance's is.
    Attributed { instance: InstanceId, who: Attribution },
    /// A start succeeded.
    Loaded { instance: InstanceId, who: Attribution, endpoint: Option<Endpoint>, exits: ExitWatch },
    /// An instance's process ends, as it was told to rest so: that is no end of the instance.
    Leaves(InstanceId),
    /// A model is to be unloaded; `gone` is dropped when it is.
    Unload { model: ModelName, gone: mpsc::Sender<Infallible> },
    /// Something else happened.
    Event(Event),
}

/// The loop's state.
pub struct Task {
    runtime: Runtime,
    policy: Policy,
    learned: Learned,
    plan: Plan,
    sight: Sight,
    messages: mpsc::WeakUnboundedSender<Message>,
    publish: watch::Sender<Arc<Status>>,
    clock: Clock,
    callers: HashMap<RequestId, Caller>,
    /// What would serve a model, as of the last request for it.
    tenants: HashMap<ModelName, Tenant>,
    instances: BTreeMap<InstanceId, Instance>,
    swaps: VecDeque<Swap>,
    totals: Vec<SwapTotal>,
}

/// Who waits for an answer.
enum Caller {
    /// For a model.
    Lease(oneshot::Sender<Result<Lease, Refusal>>),
    /// For room.
    Seat(oneshot::Sender<Result<Seat, Refusal>>),
}

impl Caller {
    fn refuse(self, refusal: Refusal) {
        // A caller that is gone needs no answer.
        match self {
            Self::Lease(reply) => drop(reply.send(Err(refusal))),
            Self::Seat(reply) => drop(reply.send(Err(refusal))),
        }
    }
}

/// What is known of an instance besides what the ledger holds.
pub struct Instance {
    /// What runs.
    pub tenant: Tenant,
    /// Cancels the instance's token when dropped, so that an instance that is forgotten ends.
    stop: Option<DropGuard>,
    kill: CancellationToken,
    orders: mpsc::UnboundedSender<Order>,
    /// Somebody has been given this room.
    seated: bool,
    /// Whose memory it is, once that is known.
    pub who: Option<Attribution>,
    serving: Option<Arc<Serving>>,
    /// Bytes of host memory that it was seen to occupy.
    pub measured_ram: Option<u64>,
    /// Dropped with the instance, for those who wait for its end.
    gone: Vec<mpsc::Sender<Infallible>>,
}

impl Task {
    /// A loop that has not begun.
    pub fn new(
        runtime: Runtime,
        policy: Policy,
        learned: Learned,
        limits: Limits,
        sight: Sight,
        messages: mpsc::WeakUnboundedSender<Message>,
        publish: watch::Sender<Arc<Status>>,
    ) -> Self {
        Self {
            runtime,
            policy,
            learned,
            plan: Plan::new(limits),
            sight,
            messages,
            publish,
            clock: Clock::start(),
            callers: HashMap::new(),
            tenants: HashMap::new(),
            instances: BTreeMap::new(),
            swaps: VecDeque::new(),
            totals: Vec::new(),
        }
    }

    /// Runs until `shutdown` and every tenant has ended, or until nobody holds a handle any more.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>, shutdown: CancellationToken) {
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut sees = true;
        let mut closing = false;
        self.observe();
        while !self.plan.is_closed() {
            self.publish.send_replace(Arc::new(status(
                &self.plan,
                &self.instances,
                &self.swaps,
                &self.totals,
                &self.clock,
            )));
            if self.is_moving() {
                self.sight.hurry();
            }
            let tick = self.plan.next_tick().map(|at| self.clock.begun + at);
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.message(message),
                    None => return,
                },
                changed = self.sight.changed(), if sees => {
                    sees = changed;
                    self.observe();
                }
                () = shutdown.cancelled(), if !closing => {
                    closing = true;
                    self.event(Event::Closing);
                }
                () = sleep_until(tick) => self.event(Event::Tick),
                _ = measure.tick(), if self.instances.values().any(|instance| instance.serving.is_some()) => {
                    self.measure();
                }
            }
        }
    }

    /// Whether memory of a card changes hands, so that what was last seen is soon not so.
    fn is_moving(&self) -> bool {
        let ledger = self.plan.ledger();
        let moves = |state| !matches!(state, State::Ready | State::Resting(_));
        let entries = ledger.entries.values();
        !ledger.cards.is_empty()
            && (self.plan.waiting().next().is_some()
                || entries.filter(|entry| entry.variant().claim.on_cards() > 0).any(|entry| moves(entry.state)))
    }

    /// Tells the planner what there is now.
    fn observe(&mut self) {
        let seen = self.sight.latest();
        let who = self.instances.iter().map(|(id, known)| (*id, known.who.as_ref()));
        let observed = seen.seen(self.clock.begun, who);
        self.event(Event::Observed(observed));
        for (id, entry) in &self.plan.ledger().entries {
            if entry.state == State::Ready
                && let Some(known) = self.instances.get(id)
                && let Some(bytes) = entry.measured.values().max()
            {
                self.learned.holds(&known.tenant, entry.variant(), *bytes);
            }
        }
    }

    fn message(&mut self, message: Message) {
        match message {
            Message::Acquire { id, spec, reply } => {
                self.note_ends();
                self.ask(id, self.runtime.tenant(spec), Caller::Lease(reply));
            }
            Message::Reserve { id, reserved, reply } => self.ask(id, Tenant::Reserved(reserved), Caller::Seat(reply)),
            Message::Attributed { instance, who } => {
                if let Some(known) = self.instances.get_mut(&instance) {
                    known.who = Some(who);
                }
            }
            Message::Loaded { instance, who, endpoint, exits } => {
                if let Some(known) = self.instances.get_mut(&instance) {
                    known.who = Some(who);
                    known.serving = endpoint.map(|endpoint| {
                        let client = egress::internal(&endpoint.address);
                        Arc::new(Serving { endpoint, client, exits })
                    });
                }
                self.message(Message::Event(Event::Ready(instance)));
                self.measure();
            }
            Message::Leaves(instance) => {
                if let Some(known) = self.instances.get_mut(&instance) {
                    (known.who, known.serving, known.measured_ram) = (Some(Attribution::Nobody), None, None);
                }
            }
            Message::Unload { model, gone } => {
                for known in self.instances.values_mut().filter(|known| *known.tenant.name() == *model) {
                    known.gone.push(gone.clone());
                }
                self.event(Event::Unload(model));
            }
            Message::Event(event) => {
                match &event {
                    Event::Cancelled(request) => drop(self.callers.remove(request)),
                    Event::Ready(instance) | Event::Rested(instance) => self.remember(*instance, None),
                    Event::Failed { instance, reason } => {
                        self.remember(*instance, Some(reason.clone()));
                        self.instances.remove(instance);
                    }
                    Event::Exited { instance, reason } => self.exited(*instance, reason),
                    _ => {}
                }
                self.event(event);
            }
        }
    }

    fn ask(&mut self, id: RequestId, tenant: Tenant, caller: Caller) {
        let seen = self.sight.latest();
        let card = |uuid: &String| {
            // What is missing now has no figures.
            let CardUse { memory, capability, .. } = seen.cards.get(uuid).cloned().unwrap_or_default();
            Card { uuid: uuid.clone(), memory, capability }
        };
        let cards: Vec<Card> = self.plan.ledger().cards.keys().map(card).collect();
        let want = Arc::new(self.policy.want(&tenant, &cards, &self.learned));
        if want.variants.is_empty() {
            let cards = cards.into_iter().map(|card| card.uuid).collect();
            return caller.refuse(Refusal::NoCard { name: tenant.name().into(), cards });
        }
        self.tenants.insert(want.model.clone(), tenant);
        self.callers.insert(id, caller);
        self.event(Event::Request { id, want });
    }

    fn exited(&mut self, instance: InstanceId, reason: &str) {
        let waking = self.plan.ledger().entries.get(&instance).is_some_and(|entry| entry.state == State::Waking);
        self.remember(instance, waking.then(|| reason.to_string()));
        if let Some(known) = self.instances.remove(&instance)
            && known.stop.is_some()
            && known.tenant.spec().is_some()
        {
            let model = known.tenant.name();
            tracing::error!(model, reason, "a tenant ended by itself; the next request loads it again");
        }
    }

    /// Takes note of tenants that have ended and whose message is still on its way: a caller that saw an end must not be
    /// sent there again.
    fn note_ends(&mut self) {
        let ended = |(&instance, known): (&InstanceId, &Instance)| {
            let Exit { reason, card_failed } = known.serving.as_ref()?.exits.ended()?;
            let failed = card_failed.then(|| Event::CardFailed { instance, reason: reason.clone() });
            Some(failed.into_iter().chain([Event::Exited { instance, reason }]))
        };
        let ended: Vec<Event> = self.instances.iter().filter_map(ended).flatten().collect();
        ended.into_iter().for_each(|event| self.message(Message::Event(event)));
    }

    fn event(&mut self, event: Event) {
        for effect in self.plan.handle(event, self.clock.begun.elapsed()) {
            match effect {
                Effect::Serve { request, instance } => self.serve(request, instance),
                Effect::Refuse { request, refusal } => {
                    if let Some(caller) = self.callers.remove(&request) {
                        tracing::info!(%refusal, "a request was refused");
                        caller.refuse(refusal);
                    }
                }
                Effect::Start { instance, want, variant } => self.start(instance, &want, variant),
                Effect::Rest { instance, rung } => self.order(instance, Order::Rest(rung)),
                Effect::Wake(instance) => self.order(instance, Order::Wake),
                Effect::Ease { instance, rung } => self.order(instance, Order::Ease(rung)),
                Effect::Stop(instance) => {
                    if let Some(known) = self.instances.get_mut(&instance) {
                        tracing::info!(model = known.tenant.name(), "unloading");
                        drop(known.stop.take());
                        if let Tenant::Reserved(reserved) = &known.tenant
                            && !known.seated
                        {
                            reserved.left();
                        }
                    }
                }
                Effect::Kill(instance) => {
                    if let Some(known) = self.instances.get_mut(&instance) {
                        tracing::warn!(model = known.tenant.name(), "it did not end in time and is killed");
                        known.kill.cancel();
                    }
                }
            }
        }
    }

    fn order(&mut self, instance: InstanceId, order: Order) {
        if let Some(known) = self.instances.get(&instance) {
            tracing::info!(model = known.tenant.name(), ?order, "a tenant is told");
            // One that has just ended needs no orders.
            let _ = known.orders.send(order);
        }
    }

    fn serve(&mut self, request: RequestId, instance: InstanceId) {
        let Some(messages) = self.messages.upgrade() else { return };
        let caller = self.callers.remove(&request);
        let known = self.instances.get(&instance);
        let serving = known.and_then(|known| known.serving.clone());
        match (caller, serving, known.map(|known| &known.tenant)) {
            // A caller that is gone drops the lease, or the seat, which releases it.
            (Some(Caller::Lease(reply)), Some(serving), _) => {
                drop(reply.send(Ok(Lease { serving, instance, messages })))
            }
            (Some(Caller::Seat(reply)), _, Some(Tenant::Reserved(reserved))) => {
                let entry = self.plan.ledger().entries.get(&instance);
                let reserved = reserved.clone();
                let cards = entry.map(|entry| entry.variant().claim.vram.keys().cloned().collect());
                if let Some(known) = self.instances.get_mut(&instance) {
                    known.seated = true;
                }
                drop(reply.send(Ok(Seat { cards: cards.unwrap_or_default(), reserved, instance, messages })));
            }
            // The planner counted a lease that nobody took.
            _ => drop(messages.send(Message::Event(Event::Released(instance)))),
        }
    }

    fn start(&mut self, instance: InstanceId, want: &Want, variant: Variant) {
        let tenant = self.tenants.get(&want.model).filter(|tenant| *tenant.version() == *want.version).cloned();
        let Some(tenant) = tenant else {
            // What is to come back may have been replaced meanwhile; a claim without a tenant would be held for ever.
            let failed = Event::Failed { instance, reason: "its file was replaced".into() };
            if let Some(messages) = self.messages.upgrade() {
                let _ = messages.send(Message::Event(failed));
            }
            return;
        };
        tracing::info!(model = tenant.name(), setting = %variant.setting, claim = %variant.claim, "loading");
        let (stop, kill) = (CancellationToken::new(), CancellationToken::new());
        let (orders, inbox) = mpsc::unbounded_channel();
        let life = Life {
            instance,
            tenant: tenant.clone(),
            grant: Grant { variant },
            stop: stop.clone(),
            kill: kill.clone(),
            orders: inbox,
            messages: self.messages.clone(),
        };
        tokio::spawn(life.live());
        let stop = Some(stop.drop_guard());
        let gone = Vec::new();
        let known =
            Instance { tenant, stop, kill, orders, seated: false, who: None, serving: None, measured_ram: None, gone };
        self.instances.insert(instance, known);
    }

    fn measure(&mut self) {
        for instance in self.instances.values_mut() {
            if let Some(Attribution::Process(pid)) = instance.who {
                instance.measured_ram = resident(pid).or(instance.measured_ram);
            }
        }
    }

    /// Remembers that what an instance was told has come to its end.
    fn remember(&mut self, instance: InstanceId, problem: Option<String>) {
        let Some(entry) = self.plan.ledger().entries.get(&instance) else { return };
        if entry.want.hold != Hold::Leased {
            return;
        }
        let (kind, since) = match entry.state {
            State::Loading => (SwapKind::Load, entry.started),
            State::Waking => (SwapKind::Wake, entry.since),
            State::Settling(Rung::Park) => (SwapKind::Park, entry.since),
            State::Settling(_) => (SwapKind::Sleep, entry.since),
            State::Stopping => (SwapKind::Stop, entry.since),
            State::Ready | State::Resting(_) => return,
        };
        let took = self.clock.begun.elapsed().saturating_sub(since);
        if kind == SwapKind::Load
            && problem.is_none()
            && let Some(known) = self.instances.get(&instance)
        {
            self.learned.loaded(&known.tenant, entry.variant(), took);
        }
        let took_ms = took.as_millis() as u64;
        let model = entry.want.model.to_string();
        match &problem {
            None => tracing::info!(model, took_ms, ?kind, "done"),
            Some(reason) => tracing::error!(model, reason, "a model could not be loaded"),
        }
        let swap = Swap { at: Timestamp::now(), model, kind, took_ms, problem };
        SwapTotal::count(&mut self.totals, &swap);
        self.swaps.push_front(swap);
        self.swaps.truncate(SWAPS);
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Bytes of host memory that a process occupies, pages of files that it has mapped included.
fn resident(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kibibytes * 1024)
}
