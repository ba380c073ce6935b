//! What holds whatever happens.

use super::world::*;
use super::*;
use crate::placement::event::Hold;
use proptest::prelude::*;

/// Random sequences in an ordinary run; `SOVEREIGN_PLANS` asks for others.
const PLANS: u32 = 20_000;

fn plans() -> u32 {
    std::env::var("SOVEREIGN_PLANS").ok().and_then(|text| text.parse().ok()).unwrap_or(PLANS)
}

fn model() -> impl Strategy<Value = Model> {
    let claims = prop_oneof![
        (1..=12_u64).prop_map(|ram| vec![claim(ram, 0)]),
        (1..=12_u64, 0..3_u64).prop_map(|(vram, ram)| vec![claim(ram, vram)]),
        (2..=9_u64, 1..4_u64).prop_map(|(vram, ram)| vec![claim(1, vram), claim(1, vram / 2), claim(ram, 0)]),
    ];
    let times = (0..4_000_u64, 0..2_000_u64, prop_oneof![3 => Just(0), 1 => 0..3_000_u64]);
    let rare = || prop::bool::weighted(0.1);
    let fails = prop_oneof![8 => Just(0), 1 => 1..=3_usize];
    let hold = prop_oneof![8 => Just(Hold::Leased), 1 => Just(Hold::Reserved), 1 => Just(Hold::Held)];
    (claims, 1..=3_usize, times, any::<bool>(), fails, (rare(), rare(), rare(), rare()), hold).prop_map(
        |(claims, slots, (load, stop, lingers), rests, fails, (deaf, pinned, embeds, elastic), hold)| Model {
            claims,
            slots: if hold == Hold::Leased { slots } else { 1 },
            load,
            stop,
            lingers,
            rests,
            // Taking a seat is no more than a word.
            fails: if hold == Hold::Leased { fails } else { 0 },
            deaf,
            pinned,
            elastic,
            embeds,
            hold,
        },
    )
}

fn act() -> impl Strategy<Value = (u64, Act)> {
    let act = prop_oneof![
        24 => (0..4_usize, 0..5_000_u64).prop_map(|(model, hold)| Act::Ask { model, hold }),
        3 => (0..4_usize).prop_map(Act::Leave),
        1 => (0..4_usize).prop_map(Act::Unload),
        1 => (0..4_usize).prop_map(Act::Crash),
        1 => (4..=RAM).prop_map(Act::Ram),
        2 => (0..=VRAM).prop_map(Act::Foreign),
        1 => (0..4_usize, 1..4_u64).prop_map(|(model, extra)| Act::Grow(model, extra)),
        1 => any::<bool>().prop_map(Act::Card),
    ];
    (0..2_000_u64, act)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: plans(), ..ProptestConfig::default() })]

    /// Never over budget, nothing started before memory was seen to be free, never a lease too many, every request
    /// answered once and in time, pins hold, every lease and every tenant ends, and the same acts have the same effects.
    #[test]
    fn holds_whatever_happens(
        models in prop::collection::vec(model(), 1..=4),
        acts in prop::collection::vec(act(), 0..40),
        closing in prop::option::weighted(0.2, 0..200_u64),
        twice in prop::bool::weighted(0.1),
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
        let trace = run();
        if twice {
            prop_assert_eq!(trace, run());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// A model that is asked for without end cannot keep another one out: the other waits for its patience, the requests
    /// that were there before it, a stop and a load, no longer.
    #[test]
    fn endless_requests_starve_nobody(
        slots in 1..=3_usize,
        every in 50..500_u64,
        hold in 1..2_000_u64,
        load in 0..3_000_u64,
        stop in 0..1_000_u64,
    ) {
        let model = Model { slots, load, stop, ..Model::new(&[claim(6, 0)]) };
        let limits = Limits { max_queue: usize::MAX, max_wait: Duration::from_secs(60), ..LIMITS };
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
        let bound = (before / slots as u64 + 2) * hold + 2 * (load + stop) + LIMITS.patience.as_millis() as u64;
        if bound < limits.max_wait.as_millis() as u64 {
            prop_assert_eq!(answer, &Answer::Served(World::name(1)));
            prop_assert!(at - asked <= bound, "{} ms, bound {} ms", at - asked, bound);
        }
    }
}
