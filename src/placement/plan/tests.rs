//! A small world carries the effects out: starts, stops and leases take the time that the test gives them, and what
//! the planner promises is checked after every step.

use super::*;
use proptest::prelude::*;
use std::cmp::Reverse;
use std::collections::BinaryHeap;

const LIMITS: Limits = Limits { keep_alive: Duration::from_secs(30), max_wait: Duration::from_secs(20), max_queue: 12 };
const BUDGET: u64 = 10;

/// How one model behaves.
#[derive(Debug, Clone)]
struct Model {
    ram: u64,
    slots: usize,
    load: u64,
    stop: u64,
    fails: bool,
}

/// What somebody does, some milliseconds after the act before it.
#[derive(Debug, Clone)]
enum Act {
    Ask {
        model: usize,
        hold: u64,
    },
    /// The caller of an earlier request, counted from the last, goes away.
    Leave(usize),
    Unload(usize),
    Crash(usize),
    Budget(u64),
}

/// What the world does by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Due {
    Started(InstanceId),
    Ended(InstanceId),
    Released(InstanceId),
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq)]
enum Answer {
    Served(ModelName),
    Refused(Refusal),
}

#[derive(Debug)]
struct Tenant {
    model: usize,
    ready: bool,
    stopping: bool,
    leases: usize,
}

struct World {
    models: Vec<Model>,
    plan: Plan,
    now: u64,
    due: BinaryHeap<Reverse<(u64, u64, Due)>>,
    budget: u64,
    tenants: BTreeMap<InstanceId, Tenant>,
    asked: BTreeMap<RequestId, (u64, u64)>,
    left: BTreeSet<RequestId>,
    answers: BTreeMap<RequestId, (u64, Answer)>,
    trace: Vec<String>,
    order: u64,
    closing: bool,
}

impl World {
    fn new(models: Vec<Model>, limits: Limits) -> Self {
        let mut world = Self {
            models,
            plan: Plan::new(limits),
            now: 0,
            due: BinaryHeap::new(),
            budget: 0,
            tenants: BTreeMap::new(),
            asked: BTreeMap::new(),
            left: BTreeSet::new(),
            answers: BTreeMap::new(),
            trace: Vec::new(),
            order: 0,
            closing: false,
        };
        world.act(Act::Budget(BUDGET));
        world
    }

    fn name(model: usize) -> ModelName {
        format!("model-{model}").into()
    }

    fn ask(&mut self, model: usize, hold: u64) -> RequestId {
        let id = self.asked.len() as RequestId + 1;
        self.asked.insert(id, (self.now, hold));
        let Model { ram, slots, .. } = self.models[model];
        let claim = Claim { ram, ..Claim::default() };
        self.tell(Event::Request { id, want: Want { model: Self::name(model), version: "1".into(), claim, slots } });
        id
    }

    fn act(&mut self, act: Act) {
        match act {
            Act::Ask { model, hold } => drop(self.ask(model % self.models.len(), hold)),
            Act::Leave(back) => {
                let id = (self.asked.len() as u64).saturating_sub(back as u64);
                if self.asked.contains_key(&id) && !self.answers.contains_key(&id) {
                    self.left.insert(id);
                    self.tell(Event::Cancelled(id));
                }
            }
            Act::Unload(model) => self.tell(Event::Unload(Self::name(model % self.models.len()))),
            Act::Crash(model) => {
                let crashed = self.tenants.iter().find(|(_, tenant)| tenant.ready && tenant.model == model);
                if let Some((id, _)) = crashed {
                    self.later(0, Due::Ended(*id));
                }
            }
            Act::Budget(ram) => {
                self.budget = ram;
                self.tell(Event::Budget(Claim { ram, ..Claim::default() }));
            }
        }
    }

    fn later(&mut self, after: u64, due: Due) {
        self.order += 1;
        self.due.push(Reverse((self.now + after, self.order, due)));
    }

    /// Lets time pass until `until`.
    fn pass(&mut self, until: u64) {
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

    fn happen(&mut self, due: Due) {
        match due {
            Due::Started(instance) => {
                let Some(tenant) = self.tenants.get_mut(&instance).filter(|tenant| !tenant.stopping) else { return };
                if self.models[tenant.model].fails {
                    self.tenants.remove(&instance);
                    self.tell(Event::Failed { instance, reason: "it says so".into() });
                } else {
                    tenant.ready = true;
                    self.tell(Event::Loaded(instance));
                }
            }
            Due::Ended(instance) => {
                if self.tenants.remove(&instance).is_some() {
                    self.tell(Event::Exited { instance, reason: "it ended".into() });
                }
            }
            Due::Released(instance) => {
                if let Some(tenant) = self.tenants.get_mut(&instance) {
                    tenant.leases -= 1;
                }
                self.tell(Event::Released(instance));
            }
        }
    }

    fn tell(&mut self, event: Event) {
        self.trace.push(format!("{} {event:?}", self.now));
        self.closing |= event == Event::Closing;
        for effect in self.plan.handle(event, Duration::from_millis(self.now)) {
            self.trace.push(format!("{} {effect:?}", self.now));
            self.carry_out(effect);
        }
    }

    fn carry_out(&mut self, effect: Effect) {
        match effect {
            Effect::Start { instance, request, claim } => {
                let model = (0..self.models.len())
                    .find(|model| {
                        let name = Self::name(*model);
                        self.plan.waiting().any(|waiter| waiter.id == request && waiter.want.model == name)
                    })
                    .expect("a start is for somebody who waits");
                assert_eq!(claim.ram, self.models[model].ram);
                self.tenants.insert(instance, Tenant { model, ready: false, stopping: false, leases: 0 });
                let held: u64 = self.tenants.values().map(|tenant| self.models[tenant.model].ram).sum();
                assert!(held <= self.budget, "{held} of {} held", self.budget);
                self.later(self.models[model].load, Due::Started(instance));
            }
            Effect::Stop(instance) => {
                let tenant = self.tenants.get_mut(&instance).expect("what is stopped runs");
                assert!(!tenant.stopping, "stopped twice");
                assert!(tenant.leases == 0 || self.closing, "stopped under its leases");
                tenant.stopping = true;
                let stop = self.models[tenant.model].stop;
                self.later(stop, Due::Ended(instance));
            }
            Effect::Serve { request, instance } => {
                let tenant = self.tenants.get_mut(&instance).expect("what serves runs");
                assert!(tenant.ready && !tenant.stopping);
                tenant.leases += 1;
                assert!(tenant.leases <= self.models[tenant.model].slots);
                let model = Self::name(tenant.model);
                let (_, hold) = self.asked[&request];
                self.later(hold, Due::Released(instance));
                self.answer(request, Answer::Served(model));
            }
            Effect::Refuse { request, refusal } => self.answer(request, Answer::Refused(refusal)),
        }
    }

    fn answer(&mut self, request: RequestId, answer: Answer) {
        assert!(!self.left.contains(&request), "{request} had left");
        let (asked, _) = self.asked[&request];
        let waited = self.now - asked;
        assert!(waited <= LIMITS.max_wait.as_millis() as u64, "{request} waited {waited} ms");
        let earlier = self.answers.insert(request, (self.now, answer));
        assert!(earlier.is_none(), "{request} was answered twice");
    }

    /// Lets everything come to its end, and checks that it did.
    fn settle(&mut self) {
        let longest = self.asked.values().map(|(_, hold)| *hold).max().unwrap_or_default();
        let keep = LIMITS.keep_alive.as_millis() as u64;
        self.pass(self.now + 2 * (LIMITS.max_wait.as_millis() as u64 + longest + keep) + 60_000);
        for request in self.asked.keys() {
            assert!(self.answers.contains_key(request) || self.left.contains(request), "{request} was forgotten");
        }
        assert_eq!(self.plan.waiting().count(), 0);
        assert!(self.tenants.is_empty(), "{:?}", self.tenants);
        assert!(self.plan.ledger().entries.is_empty());
    }
}

fn model() -> impl Strategy<Value = Model> {
    (1..=12_u64, 1..=3_usize, 0..8_000_u64, 0..2_000_u64, prop::bool::weighted(0.1))
        .prop_map(|(ram, slots, load, stop, fails)| Model { ram, slots, load, stop, fails })
}

fn act() -> impl Strategy<Value = (u64, Act)> {
    let act = prop_oneof![
        20 => (0..4_usize, 0..15_000_u64).prop_map(|(model, hold)| Act::Ask { model, hold }),
        3 => (0..4_usize).prop_map(Act::Leave),
        1 => (0..4_usize).prop_map(Act::Unload),
        1 => (0..4_usize).prop_map(Act::Crash),
        1 => (4..=BUDGET).prop_map(Act::Budget),
    ];
    (0..3_000_u64, act)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Never over budget, never a lease too many, every request answered once and in time, every lease and every
    /// tenant ends, and the same acts have the same effects.
    #[test]
    fn holds_whatever_happens(
        models in prop::collection::vec(model(), 1..=4),
        acts in prop::collection::vec(act(), 0..80),
        closing in prop::option::of(0..200_u64),
    ) {
        let run = || {
            let mut world = World::new(models.clone(), LIMITS);
            for (after, act) in acts.clone() {
                world.pass(world.now + after);
                world.act(act);
            }
            if let Some(after) = closing {
                world.pass(world.now + after);
                world.tell(Event::Closing);
            }
            world.settle();
            assert_eq!(world.plan.is_closed(), closing.is_some());
            world.trace
        };
        prop_assert_eq!(run(), run());
    }

    /// A model that is asked for without end cannot keep another one out: the other waits for the requests that were
    /// there before it, a stop and a load, no longer.
    #[test]
    fn endless_requests_starve_nobody(
        slots in 1..=3_usize,
        every in 50..500_u64,
        hold in 1..2_000_u64,
        load in 0..3_000_u64,
        stop in 0..1_000_u64,
    ) {
        let model = Model { ram: 6, slots, load, stop, fails: false };
        let limits = Limits { max_queue: usize::MAX, ..LIMITS };
        let mut world = World::new(vec![model.clone(), model], limits);
        let mut other = None;
        for step in 0..200 {
            world.ask(0, hold);
            if step == 100 {
                other = Some((world.now, world.plan.waiting().count() as u64, world.ask(1, hold)));
            }
            world.pass(world.now + every);
        }
        let Some((asked, before, other)) = other else { unreachable!() };
        world.settle();
        let (at, answer) = &world.answers[&other];
        // The queue before it is served in rounds of `slots`, the round in progress and loading come on top.
        let bound = (before / slots as u64 + 2) * hold + 2 * (load + stop);
        if bound < LIMITS.max_wait.as_millis() as u64 {
            prop_assert_eq!(answer, &Answer::Served(World::name(1)));
            prop_assert!(at - asked <= bound, "{} ms, bound {} ms", at - asked, bound);
        }
    }
}

fn world(rams: &[u64]) -> World {
    let model = |ram: &u64| Model { ram: *ram, slots: 2, load: 1_000, stop: 100, fails: false };
    World::new(rams.iter().map(model).collect(), LIMITS)
}

#[test]
fn interleaved_requests_swap_once_not_each() {
    let mut world = world(&[6, 6]);
    for _ in 0..3 {
        world.ask(0, 500);
        world.ask(1, 500);
    }
    world.pass(10_000);
    let starts = world.trace.iter().filter(|line| line.contains(" Start")).count();
    assert_eq!(starts, 2, "{:#?}", world.trace);
    assert_eq!(world.answers.len(), 6);
}

#[test]
fn models_that_fit_together_stay_together() {
    let mut world = world(&[5, 5]);
    for _ in 0..3 {
        world.ask(0, 500);
        world.ask(1, 500);
        world.pass(world.now + 5_000);
    }
    let stops = world.trace.iter().filter(|line| line.contains(" Stop")).count();
    assert_eq!(stops, 0, "{:#?}", world.trace);
}

#[test]
fn the_longest_idle_makes_room() {
    let mut world = world(&[5, 5, 5]);
    for model in [0, 1, 2] {
        world.ask(model, 100);
        world.pass(world.now + 2_000);
    }
    let loaded: Vec<_> = world.tenants.values().map(|tenant| tenant.model).collect();
    assert_eq!(loaded, [1, 2]);
}

#[test]
fn a_small_model_may_pass_one_that_waits_for_room_it_does_not_take() {
    let mut world = world(&[6, 8, 2, 3]);
    world.ask(0, 10_000);
    world.pass(2_000);
    // Waits for the first to end; then 2 of 10 will be left.
    world.ask(1, 100);
    let small = world.ask(2, 100);
    let larger = world.ask(3, 100);
    world.pass(5_000);
    assert!(world.answers.contains_key(&small));
    assert!(!world.answers.contains_key(&larger));
}

#[test]
fn too_large_is_refused_at_once_with_the_numbers() {
    let mut world = world(&[11]);
    let id = world.ask(0, 0);
    let (at, Answer::Refused(refusal)) = &world.answers[&id] else { panic!("served") };
    assert_eq!(*at, 0);
    let text = refusal.to_string();
    assert!(text.contains("needs 11 B") && text.contains("is 10 B"), "{text}");
}

#[test]
fn the_queue_is_bounded() {
    let mut world = world(&[6]);
    let ids: Vec<_> = (0..LIMITS.max_queue + 1).map(|_| world.ask(0, 10)).collect();
    let last = ids[LIMITS.max_queue];
    assert!(matches!(world.answers[&last].1, Answer::Refused(Refusal::QueueFull { waiting: 12, .. })));
    assert_eq!(world.answers.len(), 1);
}

#[test]
fn a_failure_reaches_every_waiter_and_a_row_of_them_cools_down() {
    let mut world = world(&[6]);
    world.models[0].fails = true;
    for row in 1..=FAILURES {
        let ids = [world.ask(0, 0), world.ask(0, 0)];
        world.pass(world.now + 1_000);
        for id in ids {
            let refused = Refusal::Failed { model: "model-0".into(), reason: "it says so".into() };
            assert_eq!(world.answers[&id].1, Answer::Refused(refused), "row {row}");
        }
    }
    let id = world.ask(0, 0);
    let Answer::Refused(Refusal::Crashing { failures, retry_after, .. }) = &world.answers[&id].1 else {
        panic!("{:?}", world.answers[&id])
    };
    assert_eq!((*failures, *retry_after), (FAILURES, COOL_DOWN));

    world.pass(world.now + COOL_DOWN.as_millis() as u64);
    world.models[0].fails = false;
    let id = world.ask(0, 0);
    world.pass(world.now + 1_000);
    assert_eq!(world.answers[&id].1, Answer::Served(World::name(0)));
}

#[test]
fn an_unloaded_model_ends_with_its_leases_and_loads_again() {
    let mut world = world(&[6]);
    world.ask(0, 5_000);
    world.pass(2_000);
    world.act(Act::Unload(0));
    let again = world.ask(0, 100);
    world.pass(5_000);
    assert!(!world.answers.contains_key(&again));
    world.settle();
    assert_eq!(world.answers[&again].1, Answer::Served(World::name(0)));
}

#[test]
fn a_start_that_nobody_waits_for_gives_way() {
    let mut world = world(&[6, 6]);
    world.models[0].load = 60_000;
    world.ask(0, 100);
    world.act(Act::Leave(0));
    // Nobody else wants the room: it goes on.
    world.pass(500);
    assert!(world.tenants.values().all(|tenant| !tenant.stopping));
    let other = world.ask(1, 100);
    world.pass(2_000);
    assert_eq!(world.answers[&other].1, Answer::Served(World::name(1)));
}
