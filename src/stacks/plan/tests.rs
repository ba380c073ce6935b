use super::*;
use crate::stacks::compose;
use crate::stacks::spec::{docker_name, resolve};
use proptest::prelude::*;
use std::collections::{BTreeMap, HashMap};
use std::path::Path;

fn spec(text: &str) -> Spec {
    let file = Path::new("s.yaml");
    let origin = compose::Origin { file: file.into(), base: None, variables: HashMap::new() };
    resolve("s", &compose::load(text, &origin).unwrap(), file, &HashMap::new()).unwrap()
}

const THREE: &str = "services:\n  db: {image: db:1, volumes: ['data:/d']}\n  init: {image: app:1}\n\
    \x20 web: {image: app:1, stop_grace_period: 1s, depends_on: {db: {condition: service_healthy}, init: {condition: service_completed_successfully}}}\n\
    volumes: {data: }\n";

/// What is there once a stack is up: its containers run, its jobs are done.
fn existing(spec: &Spec) -> Existing {
    let containers = spec.services.iter().map(|service| Container {
        id: format!("id-{}", service.name),
        stack: spec.name.clone(),
        service: service.name.clone(),
        image: service.container.image.clone(),
        phase: if service.is_job { Phase::Exited(0) } else { Phase::Running },
        health: None,
        restarts: 0,
        started_at: None,
        config: service.config.clone(),
        ports: Vec::new(),
        addresses: Vec::new(),
        labels: BTreeMap::new(),
    });
    let (networks, volumes) = (spec.networks.keys().cloned().collect(), spec.volumes.keys().cloned().collect());
    Existing { networks, volumes, containers: containers.collect() }
}

/// Effects in short.
fn short(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Pull(image) => format!("pull {image}"),
            Effect::CreateNetwork(name) => format!("network {name}"),
            Effect::CreateVolume(name) => format!("volume {name}"),
            Effect::RemoveContainer { service, grace, .. } => format!("stop {service} {}s", grace.as_secs()),
            Effect::Run(service) => format!("run {service}"),
            Effect::Start { service, .. } => format!("start {service}"),
            Effect::Await(service, goal) => format!("{service} {goal:?}"),
            Effect::RemoveNetwork(name) => format!("rm network {name}"),
            Effect::RemoveVolume(name) => format!("rm volume {name}"),
        })
        .collect()
}

#[track_caller]
fn check(effects: Vec<Effect>, expected: &[&str]) {
    assert_eq!(short(&effects), expected);
}

const READY: [&str; 2] = ["db Ready", "web Ready"];

#[test]
fn from_nothing() {
    let expected = [
        "pull app:1",
        "pull db:1",
        "network sovereign.s.default",
        "volume sovereign.s.data",
        "run db",
        "run init",
        "db Healthy",
        "init Completed",
        "run web",
        "db Ready",
        "web Ready",
    ];
    check(up(&spec(THREE), &Existing::default()), &expected);
}

#[test]
fn what_is_as_wanted_is_not_touched() {
    let spec = spec(THREE);
    check(up(&spec, &existing(&spec)), &READY);
    let mut paused = existing(&spec);
    paused.containers[0].phase = Phase::Paused;
    check(up(&spec, &paused), &READY);
}

#[test]
fn what_has_ended_is_started_again() {
    let spec = spec(THREE);
    let mut ended = existing(&spec);
    ended.containers[0].phase = Phase::Exited(137);
    check(up(&spec, &ended), &["start db", "db Ready", "web Ready"]);
    let mut ended = existing(&spec);
    ended.containers[2].phase = Phase::Exited(0);
    check(up(&spec, &ended), &["db Healthy", "init Completed", "start web", "db Ready", "web Ready"]);
    // A job that failed is tried again.
    let mut failed = existing(&spec);
    failed.containers[1].phase = Phase::Exited(1);
    check(up(&spec, &failed), &["start init", "db Ready", "web Ready"]);
}

#[test]
fn another_configuration_makes_a_container_anew() {
    let old = spec(THREE);
    let new = spec(&THREE.replace("db:1", "db:2"));
    let expected = ["pull db:2", "stop db 10s", "run db", "db Ready", "web Ready"];
    check(up(&new, &existing(&old)), &expected);
}

#[test]
fn what_the_file_no_longer_has_goes() {
    let old = spec(THREE);
    let new = spec("services:\n  db: {image: db:1, volumes: ['data:/d']}\nvolumes: {data: }\n");
    check(up(&new, &existing(&old)), &["stop init 10s", "stop web 10s", "db Ready"]);
}

#[test]
fn a_network_that_was_removed_takes_its_containers_with_it() {
    let spec = spec("services: {a: {image: x}}");
    let mut gone = existing(&spec);
    gone.networks.clear();
    let expected = ["pull x", "stop a 10s", "network sovereign.s.default", "run a", "a Ready"];
    check(up(&spec, &gone), &expected);
}

#[test]
fn a_second_container_of_a_service_goes() {
    let spec = spec("services: {a: {image: x}}");
    let mut twice = existing(&spec);
    let mut second = twice.containers[0].clone();
    second.id = "second".into();
    twice.containers.push(second);
    let effects = up(&spec, &twice);
    assert!(matches!(&effects[0], Effect::RemoveContainer { id, .. } if id == "second"), "{effects:?}");
    assert_eq!(effects.len(), 2);
}

#[test]
fn down_and_removed() {
    let spec = spec(THREE);
    let there = existing(&spec);
    let down_effects = ["stop web 1s", "stop init 10s", "stop db 10s", "rm network sovereign.s.default"];
    check(down(Some(&spec), &there, false), &down_effects);
    let mut removed = down_effects.to_vec();
    removed.push("rm volume sovereign.s.data");
    check(down(Some(&spec), &there, true), &removed);
    // Without the file, all of it goes as well.
    assert_eq!(down(None, &there, true).len(), 5);
    check(down(Some(&spec), &Existing::default(), true), &[]);
}

#[test]
fn goals() {
    let spec = spec("services: {a: {image: x}}");
    let base = existing(&spec).containers.remove(0);
    let check = |phase, health, restarts, goal, restart, expected: Option<Result<(), &str>>| {
        let container = Container { phase, health, restarts, ..base.clone() };
        let reached = reached(&container, goal, restart);
        match (&reached, expected) {
            (Some(Err(why)), Some(Err(part))) => assert!(why.contains(part), "{why}"),
            (reached, expected) => {
                assert_eq!(reached.is_some(), expected.is_some(), "{phase:?} {health:?} {goal:?}");
                assert_eq!(reached.as_ref().is_some_and(Result::is_ok), expected.is_some_and(|e| e.is_ok()));
            }
        }
    };
    use Goal::{Completed, Healthy, Ready};
    let no = Restart::No;
    check(Phase::Running, None, 0, Ready, no, Some(Ok(())));
    check(Phase::Running, None, 0, Healthy, no, Some(Err("no health check")));
    check(Phase::Running, None, 0, Completed, no, None);
    check(Phase::Running, Some(Health::Starting), 0, Ready, no, None);
    check(Phase::Running, Some(Health::Healthy), 9, Ready, no, Some(Ok(())));
    check(Phase::Running, Some(Health::Unhealthy), 0, Healthy, no, Some(Err("unhealthy")));
    check(Phase::Created, None, 0, Ready, no, None);
    check(Phase::Exited(0), None, 0, Ready, no, Some(Ok(())));
    check(Phase::Exited(0), None, 0, Ready, Restart::Always, Some(Err("ended")));
    check(Phase::Exited(0), None, 0, Completed, no, Some(Ok(())));
    check(Phase::Exited(2), None, 0, Completed, no, Some(Err("exit code 2")));
    check(Phase::Restarting, None, 1, Ready, Restart::Always, None);
    check(Phase::Restarting, None, 3, Ready, Restart::Always, Some(Err("keeps ending")));
}

/// What the engine would make of effects, refusing what it would refuse.
fn carry_out(spec: &Spec, existing: &Existing, effects: &[Effect]) -> Existing {
    let mut after = existing.clone();
    for effect in effects {
        match effect {
            Effect::Pull(_) => {}
            Effect::CreateNetwork(name) => assert!(after.networks.insert(name.clone())),
            Effect::CreateVolume(name) => assert!(after.volumes.insert(name.clone())),
            Effect::RemoveContainer { id, .. } => {
                let before = after.containers.len();
                after.containers.retain(|container| container.id != *id);
                assert_eq!(after.containers.len(), before - 1, "{id} is not there");
            }
            Effect::Run(name) => {
                assert!(after.containers.iter().all(|container| container.service != *name), "the name is taken");
                let service = spec.service(name).unwrap();
                assert!(service.container.networks.iter().all(|on| after.networks.contains(&on.network)));
                let whole = self::existing(spec).containers;
                after.containers.push(whole.into_iter().find(|container| container.service == *name).unwrap());
            }
            Effect::Start { id, .. } => {
                let container = after.containers.iter_mut().find(|container| container.id == *id).unwrap();
                let is_job = spec.service(&container.service).unwrap().is_job;
                container.phase = if is_job { Phase::Exited(0) } else { Phase::Running };
            }
            Effect::Await(name, _) => assert!(after.containers.iter().any(|container| container.service == *name)),
            Effect::RemoveNetwork(name) => {
                assert!(after.containers.is_empty(), "something is on the network");
                assert!(after.networks.remove(name));
            }
            Effect::RemoveVolume(name) => assert!(after.containers.is_empty() && after.volumes.remove(name)),
        }
    }
    after
}

fn anything() -> impl Strategy<Value = Existing> {
    let phases = prop_oneof![
        Just(Phase::Created),
        Just(Phase::Running),
        Just(Phase::Restarting),
        Just(Phase::Exited(0)),
        Just(Phase::Exited(1)),
        Just(Phase::Dead),
    ];
    let container = (prop::sample::select(vec!["db", "init", "web", "old"]), phases, any::<bool>());
    (prop::collection::vec(container, 0..6), any::<bool>(), any::<bool>()).prop_map(|(containers, network, volume)| {
        let spec = spec(THREE);
        let whole = existing(&spec).containers;
        let container = |(index, (service, phase, same)): (usize, (&str, Phase, bool))| Container {
            id: format!("{index}"),
            service: service.into(),
            config: match spec.service(service) {
                Some(service) if same => service.config.clone(),
                _ => "other".into(),
            },
            phase,
            ..whole[0].clone()
        };
        Existing {
            networks: network.then(|| docker_name("s", "default")).into_iter().collect(),
            volumes: volume.then(|| docker_name("s", "data")).into_iter().collect(),
            containers: containers.into_iter().enumerate().map(container).collect(),
        }
    })
}

proptest! {
    #[test]
    fn whatever_exists_comes_up_and_then_stays(before in anything()) {
        let spec = spec(THREE);
        let after = carry_out(&spec, &before, &up(&spec, &before));
        prop_assert_eq!(after.containers.len(), spec.services.len());
        prop_assert_eq!(short(&up(&spec, &after)), READY);
    }

    #[test]
    fn whatever_exists_goes_down(before in anything()) {
        let spec = spec(THREE);
        let after = carry_out(&spec, &before, &down(Some(&spec), &before, true));
        prop_assert_eq!(after, Existing::default());
    }
}
