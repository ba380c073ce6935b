//! The loop: takes messages in, asks the planner, and carries out what it says. Starts and stops run in tasks of
//! their own and come back as messages.

use super::event::{Effect, Event, InstanceId, ModelName, RequestId, Want};
use super::ledger::State;
use super::plan::{Limits, Plan};
use super::{Lease, Refusal, Serving, Status, Swap, TenantState, TenantStatus, Waiting};
use crate::egress;
use crate::models::ModelSpec;
use crate::runtime::{Attribution, Claim, Endpoint, Exit, ExitWatch, Grant, Runtime, StartError, Tenant};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
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
    /// A start succeeded.
    Loaded { instance: InstanceId, who: Attribution, endpoint: Endpoint, exits: ExitWatch },
    /// A model is to be unloaded; `gone` is dropped when it is.
    Unload { model: ModelName, gone: mpsc::Sender<Infallible> },
    /// Something else happened.
    Event(Event),
}

/// The loop's state.
pub struct Task {
    runtime: Runtime,
    plan: Plan,
    budget: watch::Receiver<Claim>,
    messages: mpsc::WeakUnboundedSender<Message>,
    publish: watch::Sender<Arc<Status>>,
    /// The planner's time zero.
    begun: Instant,
    begun_at: Timestamp,
    callers: HashMap<RequestId, Caller>,
    instances: BTreeMap<InstanceId, Instance>,
    swaps: VecDeque<Swap>,
}

/// Someone who waits for an answer.
struct Caller {
    tenant: Tenant,
    reply: oneshot::Sender<Result<Lease, Refusal>>,
}

/// What is known of an instance besides what the ledger holds.
struct Instance {
    tenant: Tenant,
    /// Cancels the instance's token when dropped, so that an instance that is forgotten ends.
    stop: Option<DropGuard>,
    who: Option<Attribution>,
    serving: Option<Arc<Serving>>,
    measured_ram: Option<u64>,
    /// Dropped with the instance, for those who wait for its end.
    gone: Vec<mpsc::Sender<Infallible>>,
}

impl Task {
    /// A loop that has not begun.
    pub fn new(
        runtime: Runtime,
        limits: Limits,
        budget: watch::Receiver<Claim>,
        messages: mpsc::WeakUnboundedSender<Message>,
        publish: watch::Sender<Arc<Status>>,
    ) -> Self {
        Self {
            runtime,
            plan: Plan::new(limits),
            budget,
            messages,
            publish,
            begun: Instant::now(),
            begun_at: Timestamp::now(),
            callers: HashMap::new(),
            instances: BTreeMap::new(),
            swaps: VecDeque::new(),
        }
    }

    /// Runs until `shutdown` and every tenant has ended, or until nobody holds a handle any more.
    pub async fn run(mut self, mut inbox: mpsc::UnboundedReceiver<Message>, shutdown: CancellationToken) {
        let mut measure = tokio::time::interval(MEASURE_EVERY);
        measure.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut budget_known = true;
        let mut closing = false;
        let budget = self.budget.borrow_and_update().clone();
        self.event(Event::Budget(budget));
        while !self.plan.is_closed() {
            self.publish.send_replace(Arc::new(self.status()));
            let tick = self.plan.next_tick().map(|at| self.begun + at);
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(message) => self.message(message),
                    None => return,
                },
                changed = self.budget.changed(), if budget_known => {
                    budget_known = changed.is_ok();
                    let budget = self.budget.borrow_and_update().clone();
                    self.event(Event::Budget(budget));
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

    fn message(&mut self, message: Message) {
        match message {
            Message::Acquire { id, spec, reply } => {
                self.note_ends();
                let tenant = self.runtime.tenant(spec);
                let want = want(&tenant);
                self.callers.insert(id, Caller { tenant, reply });
                self.event(Event::Request { id, want });
            }
            Message::Loaded { instance, who, endpoint, exits } => {
                if let Some(known) = self.instances.get_mut(&instance) {
                    known.who = Some(who);
                    let client = egress::internal(&endpoint.address);
                    known.serving = Some(Arc::new(Serving { endpoint, client, exits }));
                }
                self.remember_load(instance, None);
                self.event(Event::Loaded(instance));
                self.measure();
            }
            Message::Unload { model, gone } => {
                for known in self.instances.values_mut().filter(|known| *known.tenant.spec().name == *model) {
                    known.gone.push(gone.clone());
                }
                self.event(Event::Unload(model));
            }
            Message::Event(event) => {
                match &event {
                    Event::Cancelled(request) => {
                        self.callers.remove(request);
                    }
                    Event::Failed { instance, reason } => {
                        self.remember_load(*instance, Some(reason.clone()));
                        self.instances.remove(instance);
                    }
                    Event::Exited { instance, reason } => {
                        if let Some(known) = self.instances.remove(instance)
                            && known.stop.is_some()
                        {
                            let model = &known.tenant.spec().name;
                            tracing::error!(model, reason, "a tenant ended by itself; the next request loads it again");
                        }
                    }
                    _ => {}
                }
                self.event(event);
            }
        }
    }

    /// Takes note of tenants that have ended and whose message is still on its way: a caller that saw an end must not be
    /// sent there again.
    fn note_ends(&mut self) {
        let ended = |(&instance, known): (&InstanceId, &Instance)| {
            let Exit { reason } = known.serving.as_ref()?.exits.ended()?;
            Some(Event::Exited { instance, reason })
        };
        let ended: Vec<Event> = self.instances.iter().filter_map(ended).collect();
        ended.into_iter().for_each(|event| self.message(Message::Event(event)));
    }

    fn event(&mut self, event: Event) {
        for effect in self.plan.handle(event, self.begun.elapsed()) {
            match effect {
                Effect::Serve { request, instance } => self.serve(request, instance),
                Effect::Refuse { request, refusal } => {
                    if let Some(caller) = self.callers.remove(&request) {
                        tracing::info!(model = caller.tenant.spec().name, %refusal, "a request was refused");
                        // A caller that is gone needs no answer.
                        let _ = caller.reply.send(Err(refusal));
                    }
                }
                Effect::Start { instance, request, claim } => self.start(instance, request, claim),
                Effect::Stop(instance) => {
                    if let Some(known) = self.instances.get_mut(&instance) {
                        tracing::info!(model = known.tenant.spec().name, "unloading");
                        drop(known.stop.take());
                    }
                }
            }
        }
    }

    fn serve(&mut self, request: RequestId, instance: InstanceId) {
        let Some(messages) = self.messages.upgrade() else { return };
        let caller = self.callers.remove(&request);
        let serving = self.instances.get(&instance).and_then(|known| known.serving.clone());
        match (caller, serving) {
            (Some(caller), Some(serving)) => {
                // A caller that is gone drops the lease, which releases it.
                let _ = caller.reply.send(Ok(Lease { serving, instance, messages }));
            }
            // The planner counted a lease that nobody took.
            _ => drop(messages.send(Message::Event(Event::Released(instance)))),
        }
    }

    fn start(&mut self, instance: InstanceId, request: RequestId, claim: Claim) {
        let Some(caller) = self.callers.get(&request) else {
            // Cannot be while the planner forgets a request before its caller is forgotten; but a claim without a
            // tenant would be held for ever.
            let failed = Event::Failed { instance, reason: "nobody waits for it any more".into() };
            self.tell(Message::Event(failed));
            return;
        };
        let tenant = caller.tenant.clone();
        tracing::info!(model = tenant.spec().name, runtime = tenant.runtime(), %claim, "loading");
        let stop = CancellationToken::new();
        let run = run(instance, tenant.clone(), Grant { claim }, stop.clone(), self.messages.clone());
        tokio::spawn(run);
        let stop = Some(stop.drop_guard());
        let known = Instance { tenant, stop, who: None, serving: None, measured_ram: None, gone: Vec::new() };
        self.instances.insert(instance, known);
    }

    fn tell(&self, message: Message) {
        if let Some(messages) = self.messages.upgrade() {
            let _ = messages.send(message);
        }
    }

    fn measure(&mut self) {
        for instance in self.instances.values_mut() {
            if let Some(Attribution::Process(pid)) = instance.who {
                instance.measured_ram = resident(pid).or(instance.measured_ram);
            }
        }
    }

    fn remember_load(&mut self, instance: InstanceId, problem: Option<String>) {
        let Some(entry) = self.plan.ledger().entries.get(&instance) else { return };
        if entry.state != State::Loading {
            return;
        }
        let took = self.begun.elapsed().saturating_sub(entry.started);
        let model = entry.want.model.to_string();
        match &problem {
            None => tracing::info!(model, took_ms = took.as_millis(), "loaded"),
            Some(reason) => tracing::error!(model, reason, "a model could not be loaded"),
        }
        self.swaps.push_front(Swap { at: Timestamp::now(), model, took_ms: took.as_millis() as u64, problem });
        self.swaps.truncate(SWAPS);
    }

    fn status(&self) -> Status {
        let ledger = self.plan.ledger();
        let tenants = self.instances.iter().filter_map(|(id, instance)| {
            let entry = ledger.entries.get(id)?;
            let spec = instance.tenant.spec();
            Some(TenantStatus {
                model: spec.name.clone(),
                runtime: instance.tenant.runtime().to_string(),
                quant: spec.quantisation.clone(),
                state: match entry.state {
                    State::Loading => TenantState::Loading,
                    State::Ready if entry.closed || entry.retired => TenantState::Draining,
                    State::Ready => TenantState::Ready,
                    State::Stopping => TenantState::Stopping,
                },
                predicted: instance.tenant.need(),
                granted: entry.want.claim.clone(),
                measured_ram: instance.measured_ram,
                who: instance.who.clone(),
                leases: entry.leases,
                slots: entry.want.slots,
                started: self.wall(entry.started),
                idle_since: entry.is_idle().then(|| self.wall(entry.released)),
            })
        });
        let mut waiting: Vec<Waiting> = Vec::new();
        for waiter in self.plan.waiting() {
            match waiting.iter_mut().find(|known| *known.model == *waiter.want.model) {
                Some(known) => known.requests += 1,
                None => waiting.push(Waiting {
                    model: waiter.want.model.to_string(),
                    requests: 1,
                    since: self.wall(waiter.since),
                }),
            }
        }
        Status {
            budget: ledger.budget.clone(),
            held: ledger.held(&BTreeSet::new()),
            tenants: tenants.collect(),
            waiting,
            swaps: self.swaps.iter().cloned().collect(),
        }
    }

    fn wall(&self, at: Duration) -> Timestamp {
        self.begun_at.checked_add(at).unwrap_or(self.begun_at)
    }
}

/// The life of one instance: started, told, waited for or stopped, told.
async fn run(
    instance: InstanceId,
    tenant: Tenant,
    grant: Grant,
    stop: CancellationToken,
    messages: mpsc::WeakUnboundedSender<Message>,
) {
    let tell = |message| {
        if let Some(messages) = messages.upgrade() {
            // Without its loop nobody wants to know.
            let _ = messages.send(message);
        }
    };
    let failed = |reason: String| Message::Event(Event::Failed { instance, reason });
    let mut running = match tenant.start(&grant, &stop).await {
        Ok(running) => running,
        Err(error @ (StartError::Stopped | StartError::Failed(_))) => return tell(failed(error.to_string())),
    };
    let Some(endpoint) = running.endpoint.clone() else {
        running.stop().await;
        return tell(failed("it started, but answers no requests".into()));
    };
    tell(Message::Loaded { instance, who: running.who.clone(), endpoint, exits: running.exits.clone() });
    let exit = tokio::select! {
        exit = running.exits.wait() => exit,
        () = stop.cancelled() => running.stop().await,
    };
    tell(Message::Event(Event::Exited { instance, reason: exit.reason }));
}

fn want(tenant: &Tenant) -> Want {
    let spec = tenant.spec();
    Want {
        model: spec.name.as_str().into(),
        version: spec.sha256.as_str().into(),
        claim: tenant.need(),
        slots: tenant.slots(),
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
