mod properties;
mod world;

use super::*;
use crate::placement::event::Hold;
use crate::runtime::Rung;
use world::*;

/// Models that need so much host memory.
fn world(rams: &[u64]) -> World {
    World::new(rams.iter().map(|ram| Model::new(&[claim(*ram, 0)])).collect(), LIMITS)
}

/// Models that need so much of the card.
fn on_card(vrams: &[u64]) -> World {
    World::new(vrams.iter().map(|vram| Model::new(&[claim(0, *vram)])).collect(), LIMITS)
}

#[test]
fn interleaved_requests_swap_once_not_each() {
    let mut world = world(&[6, 6]);
    for _ in 0..3 {
        world.ask(0, 500);
        world.ask(1, 500);
    }
    world.pass(10_000);
    assert_eq!(world.count(" Start {"), 2, "{:#?}", world.trace);
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
    assert_eq!(world.count(" Stop("), 0, "{:#?}", world.trace);
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
    world.models[0].fails = 1;
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
    world.models[0].fails = 0;
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
    assert!(world.tenants.values().all(|tenant| tenant.state != State::Stopping));
    let other = world.ask(1, 100);
    world.pass(2_000);
    assert_eq!(world.answers[&other].1, Answer::Served(World::name(1)));
}

#[test]
fn a_start_waits_until_memory_is_seen_to_be_free() {
    let mut world = on_card(&[6, 6]);
    world.models[0].lingers = 2_500;
    world.ask(0, 100);
    world.pass(3_000);
    let other = world.ask(1, 100);
    world.pass(20_000);
    let (at, answer) = &world.answers[&other];
    assert_eq!(*answer, Answer::Served(World::name(1)));
    // Stopped at 3.1 s, seen to be free at 6 s, loaded in a second.
    assert_eq!(*at, 7_000, "{:#?}", world.trace);
}

#[test]
fn idle_models_rest_and_wake() {
    let models = vec![Model { rests: true, ..Model::new(&[claim(0, 6)]) }; 2];
    let mut world = World::new(models, Limits { parked_memory: 12, ..LIMITS });
    world.act(Act::Ram(12));
    world.ask(0, 100);
    world.pass(3_000);
    world.ask(1, 100);
    world.pass(6_000);
    let again = world.ask(0, 100);
    world.pass(9_000);
    assert_eq!(world.answers[&again].1, Answer::Served(World::name(0)));
    assert_eq!(
        (world.count(" Start {"), world.count(" Wake("), world.count(" Stop(")),
        (2, 1, 0),
        "{:#?}",
        world.trace
    );
    // Its process stays where there is room for that: one of ten beside six.
    assert_eq!(world.count("Rest { instance: 1, rung: Sleep") + world.count("Rest { instance: 2, rung: Sleep"), 2);
}

#[test]
fn the_dear_stay_longer_than_the_cheap() {
    let mut world = on_card(&[4, 4, 4]);
    world.models[0].load = 4_000;
    world.models[1].load = 500;
    world.ask(0, 100);
    world.pass(5_000);
    world.ask(1, 100);
    world.pass(7_000);
    // The first is idle for longer, but loading it again costs eight times as much.
    world.ask(2, 100);
    world.pass(9_500);
    let there: Vec<_> = world.tenants.values().map(|tenant| tenant.model).collect();
    assert_eq!(there, [0, 2]);
}

#[test]
fn what_does_not_fit_runs_smaller_or_elsewhere() {
    let ways = [claim(1, 8), claim(1, 5), claim(6, 0)];
    let check = |foreign: u64, expected: usize| {
        let mut world = World::new(vec![Model::new(&ways)], LIMITS);
        world.act(Act::Foreign(foreign));
        world.pass(8_000);
        let id = world.ask(0, 100);
        world.pass(10_000);
        assert_eq!(world.answers[&id].1, Answer::Served(World::name(0)), "{foreign}");
        let claim = &world.tenants.values().next().unwrap().variant.claim;
        assert_eq!(claim, &ways[expected], "{foreign}");
    };
    check(0, 0);
    check(4, 1);
    check(9, 2);
}

#[test]
fn a_failed_start_is_tried_smaller_then_without_a_card_and_then_what_ran_comes_back() {
    let ways = [claim(0, 8), claim(0, 6), claim(3, 0)];
    let check = |fails: usize, served: bool| {
        let mut world = World::new(vec![Model::new(&[claim(0, 5)]), Model { fails, ..Model::new(&ways) }], LIMITS);
        world.ask(0, 100);
        world.pass(2_000);
        let id = world.ask(1, 100);
        world.pass(8_000);
        assert_eq!(matches!(world.answers[&id].1, Answer::Served(_)), served, "{:?}", world.answers[&id]);
        let there: Vec<_> = world.tenants.values().map(|tenant| tenant.model).collect();
        assert_eq!(there, [usize::from(served)], "{:#?}", world.trace);
    };
    check(1, true);
    check(2, true);
    check(3, false);
}

#[test]
fn pinned_models_stay_and_others_are_told() {
    let mut world = on_card(&[6, 6]);
    world.models[0].pinned = true;
    world.ask(0, 100);
    world.pass(60_000);
    assert_eq!(world.tenants.len(), 1);
    let id = world.ask(1, 100);
    let Answer::Refused(refusal @ Refusal::Pinned { .. }) = &world.answers[&id].1 else {
        panic!("{:?}", world.answers)
    };
    assert!(refusal.to_string().contains("model-0 is to stay"), "{refusal}");
}

#[test]
fn rooms_that_are_reserved_make_idle_models_go_and_their_ends_are_no_failures() {
    let mut world = on_card(&[6, 6]);
    world.models[1].hold = Hold::Reserved;
    world.models[1].slots = 1;
    for _ in 0..5 {
        world.ask(0, 100);
        world.pass(world.now + 5_000);
        let room = world.ask(1, 100);
        world.pass(world.now + 5_000);
        assert_eq!(world.answers[&room].1, Answer::Served(World::name(1)));
    }
    assert!(world.tenants.is_empty(), "{:?}", world.tenants);
    // While it is held, it is not for others to take.
    world.ask(1, 30_000);
    world.pass(world.now + 5_000);
    let id = world.ask(0, 100);
    assert!(matches!(&world.answers[&id].1, Answer::Refused(Refusal::Pinned { .. })), "{:?}", world.answers[&id]);
}

#[test]
fn what_somebody_holds_already_is_held_whether_or_not_it_fits() {
    let mut world = on_card(&[6, 6]);
    world.models[1].hold = Hold::Held;
    world.models[1].slots = 1;
    world.ask(0, 100);
    world.pass(2_000);
    let room = world.ask(1, 30_000);
    world.pass(world.now + 2_000);
    assert_eq!(world.answers[&room].1, Answer::Served(World::name(1)));
    let models: Vec<usize> = world.tenants.values().map(|tenant| tenant.model).collect();
    assert_eq!(models, [1], "the idle one made room");
}

#[test]
fn who_does_not_say_how_much_may_grow_and_the_idle_make_room() {
    let mut world = on_card(&[6, 2]);
    world.models[1].hold = Hold::Reserved;
    world.models[1].elastic = true;
    world.models[1].slots = 1;
    world.ask(0, 100);
    world.pass(2_000);
    let room = world.ask(1, 60_000);
    world.pass(world.now + 2_000);
    assert_eq!(world.answers[&room].1, Answer::Served(World::name(1)));
    assert_eq!(world.tenants.len(), 2, "both fit as long as it takes what was expected");
    world.act(Act::Grow(1, 5));
    world.pass(world.now + 20_000);
    let models: Vec<usize> = world.tenants.values().map(|tenant| tenant.model).collect();
    assert_eq!(models, [1], "the idle one made room");
    // What it is seen to hold is held: nothing is promised of it to others.
    let id = world.ask(0, 100);
    world.pass(world.now + 1_000);
    assert!(matches!(&world.answers[&id].1, Answer::Refused(Refusal::Pinned { .. })), "{:?}", world.answers[&id]);
}

#[test]
fn vectors_never_cost_an_answer_its_model() {
    let mut world = world(&[8, 4]);
    world.models[1].embeds = true;
    world.ask(0, 1_000);
    world.pass(5_000);
    let vectors = world.ask(1, 100);
    world.pass(10_000);
    assert!(!world.answers.contains_key(&vectors));
    // Nobody has asked for the other for long enough.
    world.pass(15_000);
    assert_eq!(world.answers[&vectors].1, Answer::Served(World::name(1)));
}

#[test]
fn busy_models_are_left_in_peace_for_as_long_as_swaps_are_dear() {
    let mut world = on_card(&[6, 6]);
    world.models.iter_mut().for_each(|model| model.load = 500);
    for _ in 0..30 {
        world.ask(0, 150);
        world.pass(world.now + 100);
    }
    let asked = world.now;
    let other = world.ask(1, 100);
    for _ in 0..120 {
        world.ask(0, 150);
        world.pass(world.now + 100);
    }
    let (at, _) = world.answers[&other];
    // Four times the cost of both loads, then a stop and a load.
    let least = PATIENCE as u64 * (500 + 500);
    assert!(at - asked >= least && at - asked < least + 2_500, "{} ms", at - asked);
}

#[test]
fn who_holds_too_much_is_walked_down() {
    let mut world = on_card(&[5]);
    world.ask(0, 60_000);
    world.pass(2_000);
    world.act(Act::Grow(0, 3));
    world.pass(30_000);
    let rungs: Vec<Rung> = world.plan.records().map(|record| record.rung).collect();
    // It cannot shrink, it answers and so cannot sleep, it stops.
    assert_eq!(rungs, [Rung::Stop, Rung::Shrink], "{:#?}", world.trace);
    assert!(world.tenants.is_empty());
    let stop = world.plan.records().next().unwrap();
    assert!(stop.confirmed.is_some_and(|at| at > stop.at));
}

#[test]
fn the_deaf_are_killed() {
    let mut world = on_card(&[6, 6]);
    world.models[0].deaf = true;
    world.ask(0, 100);
    world.pass(2_000);
    let other = world.ask(1, 100);
    world.pass(8_000);
    assert_eq!(world.answers[&other].1, Answer::Served(World::name(1)));
    assert_eq!(world.count(" Kill("), 1);
}

#[test]
fn a_card_that_is_lost_takes_its_models_along_and_others_step_in() {
    let mut world = World::new(vec![Model::new(&[claim(0, 5), claim(5, 0)])], LIMITS);
    world.ask(0, 60_000);
    world.pass(2_000);
    world.act(Act::Card(false));
    // One reading may fail; after three seconds without the card it is lost.
    world.pass(7_000);
    let id = world.ask(0, 100);
    world.pass(10_000);
    assert_eq!(world.answers[&id].1, Answer::Served(World::name(0)));
    let ways: Vec<_> = world.tenants.values().map(|tenant| tenant.variant.setting.gpu.clone()).collect();
    assert_eq!(ways, [None]);
    // It comes back, and serves who comes after the other was unloaded.
    world.act(Act::Card(true));
    world.act(Act::Unload(0));
    world.pass(12_000);
    world.ask(0, 100);
    world.pass(15_000);
    let ways: Vec<_> = world.tenants.values().map(|tenant| tenant.variant.setting.gpu.clone()).collect();
    assert_eq!(ways, [Some(GPU.to_string())]);
}
