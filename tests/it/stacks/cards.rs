//! Containers with cards: an engine of the test's own, a stand-in for NVIDIA's library and one for its container toolkit.

use super::engine::{Engine, IMAGE};
use super::{SOON, container, present, until, write};
use crate::nvml::{Card, Driver, Presence};
use crate::placement::spec;
use serde_json::json;
use sovereign::app::App;
use sovereign::config::Config;
use sovereign::docker::Status;
use sovereign::placement;
use sovereign::runtime::fake::{Fake, Script};
use sovereign::runtime::{Attribution, Claim, Runtime};
use sovereign::stacks::StackState;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

const GPU: &str = "GPU-1";
const GIB: u64 = 1 << 30;
/// What the ledger calls the service.
const SERVICE: &str = "stack draw/web";

/// A daemon whose models are doubles and take memory of the driver's card.
async fn daemon(folder: &Path, engine: &Engine, driver: &Arc<Driver>) -> (App, Fake) {
    let config = json!({
        "docker": {"host": engine.host(), "canary": 1},
        "gpu": {"nvml_library": driver.library()},
        "placement": {"grace": 1, "confirm": 30},
    });
    let file = folder.join("config.yaml");
    std::fs::write(&file, config.to_string()).unwrap();
    let fake = Fake::default();
    let cards = driver.clone();
    fake.on_cards(move |gpu, pid, bytes| cards.hold(gpu, pid, bytes));
    let config = Config::load(Some(&file), Some(folder)).unwrap();
    let app = App::with_runtime(config, Runtime::Fake(fake.clone())).await.unwrap();
    present(&app).await;
    (app, fake)
}

/// Waits until placement's status is so.
async fn status(app: &App, what: &str, is: impl Fn(&placement::Status) -> bool) -> placement::Status {
    let mut status = app.placement.status();
    match tokio::time::timeout(SOON, status.wait_for(|status| is(status))).await {
        Ok(status) => placement::Status::clone(&status.unwrap()),
        Err(_) => panic!("waited for {what}; {:#?}", app.placement.status().borrow()),
    }
}

fn tenant<'a>(status: &'a placement::Status, name: &str) -> Option<&'a placement::TenantStatus> {
    status.tenants.iter().find(|tenant| tenant.model == name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_container_with_a_card_has_its_room_and_no_more() {
    let engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let driver = Arc::new(Driver::new(vec![Card::new(GPU, 8 * GIB)]));
    let file = json!({"services": {"web": {
        "image": IMAGE,
        "command": "wait",
        "tmpfs": "/run",
        "gpus": [{"count": 1, "capabilities": ["gpu", "compute", "utility"]}],
        "x-sovereign": {"vram": "3g"},
    }}});
    write(folder.path(), "draw", &file);
    let (app, fake) = daemon(folder.path(), &engine, &driver).await;

    // A model holds most of the card, and is idle.
    let on_card = Claim { vram: BTreeMap::from([(GPU.to_string(), 6 * GIB)]), ..Claim::default() };
    fake.script("chat", Script { claims: vec![on_card], ..Script::default() });
    status(&app, "the card", |status| status.budget.vram.contains_key(GPU)).await;
    drop(app.placement.acquire(spec("chat")).await.unwrap());

    // It makes room for the container, which sees that card, and whose memory is told to be its own.
    app.stacks.up("draw").await.unwrap().await.unwrap();
    assert_eq!(
        engine.asked_for_cards(),
        ["NVIDIA_DRIVER_CAPABILITIES=compute,utility", &format!("NVIDIA_VISIBLE_DEVICES={GPU}")]
    );
    let first = container(&app, "web");
    let held = status(&app, "its room", |status| tenant(status, SERVICE).is_some()).await;
    assert!(tenant(&held, "chat").is_none());
    assert_eq!(tenant(&held, SERVICE).unwrap().granted.on(GPU), 3 * GIB);
    let pid = engine.pid(&first);
    assert!(driver.hold(GPU, pid, 2 * GIB));
    status(&app, "what it holds", |status| {
        tenant(status, SERVICE).is_some_and(|tenant| tenant.measured_vram.get(GPU) == Some(&(2 * GIB)))
    })
    .await;

    // One that does not see its card any more is made anew.
    engine.docker(&["exec", &first, "/hello", "lose"]);
    let mut containers = app.docker.containers();
    let renewed = containers.wait_for(|all| {
        all.iter().any(|one| one.service == "web" && one.id != first && one.status() == Status::Running)
    });
    tokio::time::timeout(SOON, renewed).await.expect("it was not made anew").unwrap();
    driver.hold(GPU, pid, 0);
    until(&app, "draw", "the stack", |view| view.state == StackState::Running && view.progress.is_none()).await;
    let second = container(&app, "web");

    // One that takes more than it may is stopped, and told why.
    let pid = engine.pid(&second);
    assert!(driver.hold(GPU, pid, 5 * GIB));
    let view = until(&app, "draw", "its end", |view| {
        view.problem.as_ref().is_some_and(|problem| problem.contains("was stopped"))
    })
    .await;
    let problem = view.problem.unwrap();
    assert_eq!(problem, "web was stopped: it held 5.0 GiB of a card and may hold 3.0 GiB");
    driver.hold(GPU, pid, 0);
    assert!(tenant(&app.placement.status().borrow(), SERVICE).is_none());

    // Up again, it runs on when the daemon goes, and is known to the next one, however full the card is.
    app.stacks.up("draw").await.unwrap().await.unwrap();
    let third = container(&app, "web");
    let pid = engine.pid(&third);
    assert!(driver.hold(GPU, pid, 3 * GIB) && driver.hold(GPU, 1, 4 * GIB));
    app.close().await;
    let (app, _) = daemon(folder.path(), &engine, &driver).await;
    let known = status(&app, "it to be known", |status| {
        tenant(status, SERVICE).is_some_and(|tenant| tenant.measured_vram.get(GPU) == Some(&(3 * GIB)))
    })
    .await;
    assert_eq!(tenant(&known, SERVICE).unwrap().who, Some(Attribution::Container(third.clone())));
    assert_eq!(known.foreign[GPU], 4 * GIB);
    driver.hold(GPU, 1, 0);

    // A card that is lost takes it along, and brings it back.
    let lose = |presence| {
        driver.change(|script| {
            script.cards[0].presence = presence;
            script.cards[0].processes = Some(Vec::new());
        });
    };
    lose(Presence::Lost);
    until(&app, "draw", "its end", |view| {
        view.problem.as_ref().is_some_and(|problem| problem.contains("its card is not there any more"))
    })
    .await;
    lose(Presence::Present);
    until(&app, "draw", "its return", |view| view.state == StackState::Running && view.progress.is_none()).await;

    // Down, it gives its room back.
    app.stacks.down("draw").await.unwrap().await.unwrap();
    status(&app, "its room", |status| status.tenants.is_empty()).await;
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_one_that_does_not_say_what_it_takes_that_is_learned() {
    let engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let driver = Arc::new(Driver::new(vec![Card::new(GPU, 8 * GIB)]));
    let file = json!({"services": {"web": {"image": IMAGE, "command": "wait", "tmpfs": "/run", "gpus": "all"}}});
    write(folder.path(), "draw", &file);
    let (app, _) = daemon(folder.path(), &engine, &driver).await;
    status(&app, "the card", |status| status.budget.vram.contains_key(GPU)).await;

    app.stacks.up("draw").await.unwrap().await.unwrap();
    let held = status(&app, "its room", |status| tenant(status, SERVICE).is_some()).await;
    assert_eq!(tenant(&held, SERVICE).unwrap().granted.on(GPU), GIB, "what nobody knows is guessed");
    let pid = engine.pid(&container(&app, "web"));
    assert!(driver.hold(GPU, pid, 3 * GIB));
    let is_seen = |status: &placement::Status| {
        tenant(status, SERVICE).is_some_and(|tenant| tenant.measured_vram.get(GPU) == Some(&(3 * GIB)))
    };
    let seen = status(&app, "what it holds", is_seen).await;
    assert!(seen.enforced.is_empty(), "{:?}", seen.enforced);
    app.stacks.down("draw").await.unwrap().await.unwrap();
    driver.hold(GPU, pid, 0);

    app.stacks.up("draw").await.unwrap().await.unwrap();
    let held = status(&app, "its room", |status| tenant(status, SERVICE).is_some()).await;
    assert_eq!(tenant(&held, SERVICE).unwrap().granted.on(GPU), 3 * GIB, "the most that it was seen to hold");
    // The next daemon knows it too, the one that runs and what it takes.
    app.close().await;
    let (app, _) = daemon(folder.path(), &engine, &driver).await;
    let known = status(&app, "it to be known", |status| tenant(status, SERVICE).is_some()).await;
    assert_eq!(tenant(&known, SERVICE).unwrap().granted.on(GPU), 3 * GIB);
    app.stacks.down("draw").await.unwrap().await.unwrap();
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_card_it_is_told_so() {
    let engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let driver = Arc::new(Driver::new(Vec::new()));
    let file = json!({"services": {"web": {"image": IMAGE, "gpus": "all", "x-sovereign": {"vram": "1g"}}}});
    write(folder.path(), "draw", &file);
    let (app, _) = daemon(folder.path(), &engine, &driver).await;
    let error = app.stacks.up("draw").await.unwrap().await.unwrap_err().to_string();
    assert!(error.starts_with("stack draw/web wants a card that is not seen here; seen is none."), "{error}");
    assert!(engine.asked_for_cards().is_empty());
    app.close().await;
}
