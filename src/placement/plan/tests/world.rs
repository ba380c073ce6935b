//! A small world that carries the planner's effects out: starts, stops, rests and leases take the time that the test
//! gives them, memory is seen once a second, and what the planner promises is checked after every step.

use super::super::*;
use crate::placement::event::{Hold, Observed, Seen};
use crate::runtime::{Rest, Rung, Setting};
use std::cmp::Reverse;
use std::collections::BinaryHeap;

pub const LIMITS: Limits = Limits {
    keep_alive: Duration::from_secs(10),
    max_wait: Duration::from_secs(20),
    patience: Duration::from_secs(5),
    max_queue: 12,
    park_for: Duration::from_secs(20),
    parked_memory: 6,
    tolerance: 0,
    grace: Duration::from_secs(2),
    confirm: Duration::from_secs(3),
    settles: Duration::from_secs(5),
    lost_after: Duration::from_secs(3),
};
/// Bytes of host memory.
pub const RAM: u64 = 10;
/// Bytes of the one card.
pub const VRAM: u64 = 10;
pub const GPU: &str = "GPU-1";

/// How one model behaves. Times are milliseconds.
#[derive(Debug, Clone)]
pub struct Model {
    pub claims: Vec<Claim>,
    pub slots: usize,
    pub load: u64,
    pub stop: u64,
    /// For how long its memory shows after its end.
    pub lingers: u64,
    pub rests: bool,
    /// Its variants up to this one fail to start.
    pub fails: usize,
    /// Ends only when it is killed.
    pub deaf: bool,
    pub pinned: bool,
    pub embeds: bool,
    /// Nobody says how much it may hold.
    pub elastic: bool,
    /// It serves nothing: it is room that somebody takes, one at a time.
    pub hold: Hold,
}

impl Model {
    pub fn new(claims: &[Claim]) -> Self {
        Self {
            claims: claims.to_vec(),
            slots: 2,
            load: 1_000,
            stop: 100,
            lingers: 0,
            rests: false,
            fails: 0,
            deaf: false,
            pinned: false,
            elastic: false,
            embeds: false,
            hold: Hold::Leased,
        }
    }

    fn want(&self, model: usize) -> Want {
        let rest = |rung, vram, ram| Rest { rung, residue: self::claim(ram, vram) };
        let variant = |claim: &Claim| {
            let on_card = claim.on(GPU) > 0;
            let rests = vec![rest(Rung::Sleep, 1, claim.on(GPU) + claim.ram), rest(Rung::Park, 0, claim.on(GPU))];
            Variant {
                setting: Setting { gpu: on_card.then(|| GPU.into()), context: 1, kv: None },
                claim: claim.clone(),
                slots: self.slots,
                rests: if self.rests && claim.on(GPU) > 1 { rests } else { Vec::new() },
            }
        };
        Want {
            model: World::name(model),
            version: "1".into(),
            variants: self.claims.iter().map(variant).collect(),
            rungs: &[Rung::Shrink, Rung::Sleep, Rung::Stop, Rung::Kill],
            weight: 4,
            pinned: self.pinned || self.hold != Hold::Leased,
            keep_alive: None,
            elastic: self.elastic,
            embeds: self.embeds,
            hold: self.hold,
            cost: Duration::from_millis(500),
        }
    }
}

pub fn claim(ram: u64, vram: u64) -> Claim {
    let vram = if vram == 0 { BTreeMap::new() } else { BTreeMap::from([(GPU.to_string(), vram)]) };
    Claim { ram, threads: 1, vram }
}

/// What somebody does.
#[derive(Debug, Clone)]
pub enum Act {
    Ask {
        model: usize,
        hold: u64,
    },
    /// The caller of an earlier request, counted from the last, goes away.
    Leave(usize),
    Unload(usize),
    Crash(usize),
    /// Host memory is more or less.
    Ram(u64),
    /// Others use so much of the card.
    Foreign(u64),
    /// A model that runs takes so much more of the card than it may.
    Grow(usize, u64),
    /// The card goes, or comes back.
    Card(bool),
}

/// What the world does by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Started(InstanceId),
    Ended(InstanceId),
    Rested(InstanceId),
    Woken(InstanceId),
    Released(InstanceId),
    Freed(u64),
    Look,
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Served(ModelName),
    Refused(Refusal),
}

#[derive(Debug)]
pub struct Tenant {
    pub model: usize,
    pub variant: Variant,
    pub state: State,
    rested: Option<Rung>,
    between: Option<Rung>,
    pub leases: usize,
    /// Bytes of the card beyond what it may hold.
    extra: u64,
    /// What it was last seen to hold of the card.
    seen: u64,
    unloaded: bool,
}

impl Tenant {
    /// What it may hold; on its way to a rest or from it, what it holds there too.
    fn grant(&self) -> Claim {
        let residue = |rung| &self.variant.rests.iter().find(|rest| rest.rung == rung).expect("it can").residue;
        let mut grant = self.rested.map_or(&self.variant.claim, residue).clone();
        if let Some(rung) = self.between {
            grant.raise(residue(rung));
        }
        grant
    }

    fn on_card(&self) -> u64 {
        let extra = if self.rested.is_some() { 0 } else { self.extra };
        self.grant().on(GPU) + extra
    }
}

pub struct World {
    pub models: Vec<Model>,
    pub limits: Limits,
    pub plan: Plan,
    pub now: u64,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    ram: u64,
    foreign: u64,
    lingering: u64,
    card: bool,
    /// Whether it was there when it was last looked for.
    card_seen: bool,
    /// Of what was last seen: when, and what was not ours.
    seen: (u64, u64),
    given_back: Option<u64>,
    pub tenants: BTreeMap<InstanceId, Tenant>,
    pub asked: BTreeMap<RequestId, (u64, u64)>,
    left: BTreeSet<RequestId>,
    pub answers: BTreeMap<RequestId, (u64, Answer)>,
    pub trace: Vec<String>,
    order: u64,
    closing: bool,
    /// Somebody took memory that was not its own: starts may then meet a card that is fuller than it was seen to be.
    pub turmoil: bool,
}

impl World {
    pub fn new(models: Vec<Model>, limits: Limits) -> Self {
        let mut world = Self {
            models,
            limits,
            plan: Plan::new(limits),
            now: 0,
            due: BinaryHeap::new(),
            ram: RAM,
            foreign: 0,
            lingering: 0,
            card: true,
            card_seen: true,
            seen: (0, 0),
            given_back: None,
            tenants: BTreeMap::new(),
            asked: BTreeMap::new(),
            left: BTreeSet::new(),
            answers: BTreeMap::new(),
            trace: Vec::new(),
            order: 0,
            closing: false,
            turmoil: false,
        };
        world.look();
        world
    }

    pub fn name(model: usize) -> ModelName {
        format!("model-{model}").into()
    }

    pub fn ask(&mut self, model: usize, hold: u64) -> RequestId {
        let id = self.asked.len() as RequestId + 1;
        self.asked.insert(id, (self.now, hold));
        let want = Arc::new(self.models[model].want(model));
        self.tell(Event::Request { id, want });
        id
    }

    pub fn act(&mut self, act: Act) {
        match act {
            Act::Ask { model, hold } => drop(self.ask(model % self.models.len(), hold)),
            Act::Leave(back) => {
                let id = (self.asked.len() as u64).saturating_sub(back as u64);
                if self.asked.contains_key(&id) && !self.answers.contains_key(&id) {
                    self.left.insert(id);
                    self.tell(Event::Cancelled(id));
                }
            }
            Act::Unload(model) => {
                let model = model % self.models.len();
                let unloaded = self.tenants.values_mut().filter(|tenant| tenant.model == model);
                unloaded.for_each(|tenant| tenant.unloaded = true);
                self.tell(Event::Unload(Self::name(model)));
            }
            Act::Crash(model) => {
                let crashed = self.tenants.iter().find(|(_, tenant)| tenant.is(State::Ready) && tenant.model == model);
                if let Some((id, _)) = crashed {
                    self.later(0, Due::Ended(*id));
                }
            }
            Act::Ram(ram) => {
                self.ram = ram;
                self.look();
            }
            Act::Foreign(foreign) => self.foreign = foreign,
            Act::Grow(model, extra) => {
                self.turmoil = true;
                let grows = self.tenants.values_mut().find(|tenant| tenant.is(State::Ready) && tenant.model == model);
                if let Some(tenant) = grows.filter(|tenant| tenant.variant.claim.on(GPU) > 0) {
                    tenant.extra = extra;
                }
            }
            Act::Card(there) => self.card = there,
        }
    }

    fn later(&mut self, after: u64, due: Due) {
        self.order += 1;
        self.due.push(Reverse((self.now + after, self.order, due)));
    }

    /// Lets time pass until `until`.
    pub fn pass(&mut self, until: u64) {
        loop {
            let due = self.due.peek().map(|Reverse((at, ..))| *at);
            let tick = self.plan.next_tick().map(|at| at.as_millis() as u64);
            let Some(next) = due.into_iter().chain(tick).min().filter(|next| *next <= until) else { break };
            assert!(next >= self.now, "the planner asked for a tick in the past");
            self.now = next;
            if due == Some(next) {
                let Some(Reverse((_, _, due))) = self.due.pop() else { unreachable!() };
                self.happen(due);
            } else {
                self.tell(Event::Tick);
                let again = self.plan.next_tick().map(|at| at.as_millis() as u64);
                assert!(again.is_none_or(|again| again > self.now), "a tick at {} changed nothing", self.now);
            }
        }
        self.now = until;
    }

    /// Shows the planner what there is.
    fn look(&mut self) {
        let mut measured = BTreeMap::new();
        for (id, tenant) in &mut self.tenants {
            tenant.seen = tenant.on_card();
            measured.insert(*id, tenant.seen);
        }
        let foreign = self.foreign + self.lingering;
        self.seen = (self.now, foreign);
        self.card_seen = self.card;
        let used = foreign + measured.values().sum::<u64>();
        let seen = Seen { budget: VRAM, used: Some(used), measured };
        let cards = if self.card { BTreeMap::from([(GPU.to_string(), seen)]) } else { BTreeMap::new() };
        let taken = Duration::from_millis(self.now);
        self.tell(Event::Observed(Observed { taken, ram: self.ram, threads: 1, cards }));
        self.later(1_000, Due::Look);
    }

    fn happen(&mut self, due: Due) {
        match due {
            Due::Started(instance) => {
                let Some(tenant) = self.tenants.get_mut(&instance).filter(|tenant| tenant.is(State::Loading)) else {
                    return;
                };
                let model = &self.models[tenant.model];
                let variant = model.claims.iter().position(|claim| *claim == tenant.variant.claim);
                if variant.is_some_and(|variant| variant < model.fails) {
                    let tenant = self.tenants.remove(&instance);
                    self.give_back(tenant.as_ref());
                    self.tell(Event::Failed { instance, reason: "it says so".into() });
                } else {
                    tenant.state = State::Ready;
                    self.tell(Event::Ready(instance));
                }
            }
            Due::Ended(instance) => {
                let Some(tenant) = self.tenants.remove(&instance) else { return };
                self.give_back(Some(&tenant));
                let lingers = self.models[tenant.model].lingers;
                if lingers > 0 {
                    self.lingering += tenant.on_card();
                    self.later(lingers, Due::Freed(tenant.on_card()));
                }
                self.tell(Event::Exited { instance, reason: "it ended".into() });
            }
            Due::Rested(instance) => {
                let Some(tenant) = self.tenants.get_mut(&instance) else { return };
                if let State::Settling(rung) = tenant.state {
                    tenant.state = State::Resting(rung);
                    (tenant.rested, tenant.between) = (Some(rung), None);
                    self.given_back = Some(self.now);
                    self.tell(Event::Rested(instance));
                }
            }
            Due::Woken(instance) => {
                let woken = self.tenants.get_mut(&instance).filter(|tenant| tenant.is(State::Waking));
                if let Some(tenant) = woken {
                    (tenant.state, tenant.between) = (State::Ready, None);
                    self.tell(Event::Ready(instance));
                }
            }
            Due::Released(instance) => {
                if let Some(tenant) = self.tenants.get_mut(&instance) {
                    tenant.leases -= 1;
                }
                self.tell(Event::Released(instance));
            }
            Due::Freed(bytes) => self.lingering -= bytes,
            Due::Look => self.look(),
        }
    }

    fn give_back(&mut self, tenant: Option<&Tenant>) {
        if tenant.is_some_and(|tenant| tenant.variant.claim.on(GPU) > 0) {
            self.given_back = Some(self.now);
        }
    }

    pub fn tell(&mut self, event: Event) {
        self.trace.push(format!("{} {event:?}", self.now));
        self.closing |= event == Event::Closing;
        for effect in self.plan.handle(event, Duration::from_millis(self.now)) {
            self.trace.push(format!("{} {effect:?}", self.now));
            self.carry_out(effect);
        }
    }

    /// Whether a tenant may be disturbed although it answers, or is to stay.
    fn may_go(&self, tenant: &Tenant) -> bool {
        // It may be back, unseen.
        let lost = !(self.card && self.card_seen) && tenant.variant.claim.on(GPU) > 0;
        // Nobody sits there yet.
        let empty = self.models[tenant.model].hold != Hold::Leased && tenant.leases == 0;
        self.closing || lost || empty || tenant.seen > tenant.grant().on(GPU) || self.models[tenant.model].deaf
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { instance, want, variant } => {
                let model = (0..self.models.len()).find(|model| Self::name(*model) == want.model).expect("known");
                assert!(self.models[model].claims.contains(&variant.claim));
                let load = self.models[model].load;
                let state = State::Loading;
                self.tenants.insert(
                    instance,
                    Tenant {
                        model,
                        variant: variant.clone(),
                        state,
                        rested: None,
                        between: None,
                        leases: 0,
                        extra: 0,
                        seen: 0,
                        unloaded: false,
                    },
                );
                // Who sits there already holds what he holds.
                if want.hold != Hold::Held {
                    self.check_room(&variant.claim);
                }
                self.later(load, Due::Started(instance));
            }
            Effect::Rest { instance, rung } => {
                let tenant = &self.tenants[&instance];
                assert!(matches!(tenant.state, State::Ready | State::Resting(_)) && tenant.leases == 0);
                assert!(!self.models[tenant.model].pinned || self.may_go(tenant), "pinned");
                let deaf = self.models[tenant.model].deaf;
                let tenant = self.tenants.get_mut(&instance).expect("it runs");
                let held = tenant.grant();
                (tenant.state, tenant.between) = (State::Settling(rung), Some(rung));
                // The card's part is there already.
                let more = tenant.grant().ram - held.ram;
                self.check_room(&Claim { ram: more, ..Claim::default() });
                if !deaf {
                    self.later(300, Due::Rested(instance));
                }
            }
            Effect::Wake(instance) => {
                let tenant = self.tenants.get_mut(&instance).expect("what wakes is there");
                assert!(matches!(tenant.state, State::Resting(_)));
                let residue = tenant.grant();
                (tenant.state, tenant.between) = (State::Waking, tenant.rested.take());
                let mut more = tenant.grant();
                more.take(&residue);
                self.check_room(&more);
                self.later(200, Due::Woken(instance));
            }
            Effect::Ease { instance, .. } => assert!(self.tenants[&instance].is(State::Ready)),
            Effect::Stop(instance) => {
                let tenant = &self.tenants[&instance];
                assert!(!tenant.is(State::Stopping), "stopped twice");
                assert!(tenant.leases == 0 || self.may_go(tenant), "stopped under its leases");
                let Model { pinned, stop, deaf, .. } = self.models[tenant.model];
                assert!(!pinned || tenant.unloaded || self.may_go(tenant), "a pinned one was stopped");
                self.tenants.get_mut(&instance).expect("what is stopped runs").state = State::Stopping;
                if !deaf {
                    self.later(stop, Due::Ended(instance));
                }
            }
            Effect::Kill(instance) => {
                assert!(self.tenants[&instance].is(State::Stopping));
                self.later(0, Due::Ended(instance));
            }
            Effect::Serve { request, instance } => {
                let tenant = self.tenants.get_mut(&instance).expect("what serves runs");
                assert!(tenant.is(State::Ready));
                tenant.leases += 1;
                assert!(tenant.leases <= tenant.variant.slots);
                let reserved = self.models[tenant.model].hold != Hold::Leased;
                let model = Self::name(tenant.model);
                let (_, hold) = self.asked[&request];
                // Who leaves his seat has ended.
                let over = if reserved { Due::Ended(instance) } else { Due::Released(instance) };
                self.later(hold, over);
                self.answer(request, Answer::Served(model));
            }
            Effect::Refuse { request, refusal } => self.answer(request, Answer::Refused(refusal)),
        }
    }

    /// Never over budget: with all that is granted, what was seen to be held beyond, and what others were seen to hold.
    /// What was seen before memory was last given back does not count as seen. The budget may have shrunk below what is
    /// held; who takes no `more` of it does not mind.
    fn check_room(&self, more: &Claim) {
        let mut held = Claim::default();
        for tenant in self.tenants.values() {
            let mut grant = tenant.grant();
            if let Some(bytes) = grant.vram.get_mut(GPU) {
                *bytes = (*bytes).max(tenant.seen);
            }
            held.add(&grant);
        }
        assert!(more.ram == 0 || held.ram <= self.ram, "{} of {} of host memory", held.ram, self.ram);
        if more.on(GPU) > 0 {
            let (at, foreign) = self.seen;
            assert!(held.on(GPU) + foreign <= VRAM, "{} and {foreign} of others of {VRAM}", held.on(GPU));
            assert!(
                self.given_back.is_none_or(|given_back| at > given_back),
                "started before memory was seen to be free"
            );
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        assert!(!self.left.contains(&request), "{request} had left");
        let (asked, _) = self.asked[&request];
        let waited = self.now - asked;
        assert!(waited <= self.limits.max_wait.as_millis() as u64, "{request} waited {waited} ms");
        let earlier = self.answers.insert(request, (self.now, answer));
        assert!(earlier.is_none(), "{request} was answered twice");
    }

    /// Lets everything come to its end, and checks that it did.
    pub fn settle(&mut self) {
        let longest = self.asked.values().map(|(_, hold)| *hold).max().unwrap_or_default();
        let Limits { max_wait, keep_alive, park_for, confirm, .. } = self.limits;
        self.pass(self.now + max_wait.as_millis() as u64 + longest);
        for model in (0..self.models.len()).filter(|model| self.models[*model].pinned).collect::<Vec<_>>() {
            self.act(Act::Unload(model));
        }
        self.pass(self.now + (2 * keep_alive + 2 * park_for + 4 * confirm).as_millis() as u64 + 40_000);
        for request in self.asked.keys() {
            assert!(self.answers.contains_key(request) || self.left.contains(request), "{request} was forgotten");
        }
        assert_eq!(self.plan.waiting().count(), 0);
        assert!(self.tenants.is_empty(), "{:?}", self.tenants);
        assert!(self.plan.ledger().entries.is_empty());
    }

    pub fn count(&self, what: &str) -> usize {
        self.trace.iter().filter(|line| line.contains(what)).count()
    }
}

impl Tenant {
    fn is(&self, state: State) -> bool {
        self.state == state
    }
}
