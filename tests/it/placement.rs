//! Placement with the double of a runtime: many rounds, fast.

use serde_json::{Value, json};
use sovereign::models::ModelSpec;
use sovereign::placement::{Learned, Lease, Limits, Observation, Placement, Policy, Refusal, Sight, TenantState};
use sovereign::runtime::fake::{Fake, Script};
use sovereign::runtime::{Claim, Runtime};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const BUDGET: u64 = 10;
const SOON: Duration = Duration::from_secs(10);

fn limits() -> Limits {
    let (keep_alive, max_wait) = (Duration::from_secs(60), Duration::from_secs(20));
    Limits { keep_alive, max_wait, max_queue: 100, ..Limits::default() }
}

/// Placement over the double.
struct House {
    fake: Fake,
    placement: Placement,
    shutdown: CancellationToken,
    _budget: watch::Sender<Arc<Observation>>,
}

impl House {
    fn new(limits: Limits, models: &[(&str, Script)]) -> Self {
        let fake = Fake::default();
        for (model, script) in models {
            // Each says its name, so that a test sees who answered.
            fake.script(model, Script { pieces: vec![(*model).to_string()], ..script.clone() });
        }
        let shutdown = CancellationToken::new();
        let claim = Claim { ram: BUDGET, threads: 4, ..Claim::default() };
        let (budget, watched) = watch::channel(Arc::new(Observation::fixed(&claim)));
        let (runtime, sight) = (Runtime::Fake(fake.clone()), Sight::with(watched));
        let placement =
            Placement::with_runtime(runtime, Policy::default(), Learned::default(), limits, sight, shutdown.clone());
        Self { fake, placement, shutdown, _budget: budget }
    }

    async fn acquire(&self, model: &str) -> Result<Lease, Refusal> {
        self.placement.acquire(spec(model)).await
    }

    /// Waits until the status says so.
    async fn until(&self, what: &str, is: impl Fn(&sovereign::placement::Status) -> bool) {
        let mut status = self.placement.status();
        let waited = tokio::time::timeout(SOON, status.wait_for(|status| is(status))).await;
        assert!(waited.is_ok(), "waited for {what}; {:?}", self.placement.status().borrow());
    }
}

/// A model that only the double serves.
pub fn spec(model: &str) -> Arc<ModelSpec> {
    Arc::new(ModelSpec {
        name: model.into(),
        aliases: Vec::new(),
        file: "/nowhere.gguf".into(),
        adopted: false,
        sha256: "0".repeat(64),
        bytes: 1,
        source: "test".into(),
        licence: None,
        pulled_at: 0,
        architecture: "fake".into(),
        parameters: 1,
        quantisation: "F32".into(),
        context_train: 4096,
        embeds: false,
        weights: 1,
        kv_per_token: 0,
        on_card: None,
        workspace: 0,
        adapters: Vec::new(),
        draft: None,
    })
}

fn half_and_more() -> Script {
    Script { ram: 6, load: Duration::from_millis(2), ..Script::default() }
}

async fn ask(lease: &Lease) -> String {
    let url = lease.endpoint().address.url("/v1/chat/completions");
    let body = json!({"messages": []}).to_string();
    let answer = lease.client().post(url).body(body).send().await.unwrap();
    let answer: Value = answer.json().await.unwrap();
    answer["choices"][0]["message"]["content"].as_str().unwrap().to_string()
}

#[tokio::test]
async fn two_models_share_room_for_one_under_concurrent_requests() {
    let house = Arc::new(House::new(limits(), &[("a", half_and_more()), ("b", half_and_more())]));
    let mut callers = JoinSet::new();
    for caller in 0..8_u32 {
        let house = house.clone();
        callers.spawn(async move {
            // A caller's choices are its own, and the same in every run.
            let mut seed = caller;
            for _ in 0..25 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let model = if seed >> 31 == 0 { "a" } else { "b" };
                let lease = house.acquire(model).await.unwrap();
                assert_eq!(lease.endpoint().model, model);
                assert_eq!(ask(&lease).await, model);
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let journal = house.fake.journal();
    assert_eq!(journal.requests, 200);
    assert!(journal.peak_ram <= BUDGET, "{} of {BUDGET} held", journal.peak_ram);
    assert!(journal.starts.len() > 2, "both were swapped in: {:?}", journal.starts);
    house.until("all leases to be back", |status| status.tenants.iter().all(|tenant| tenant.leases == 0)).await;
}

#[tokio::test]
async fn a_caller_that_stops_waiting_is_forgotten() {
    let house = House::new(limits(), &[("a", half_and_more()), ("b", half_and_more())]);
    let lease = house.acquire("a").await.unwrap();
    {
        let waits = house.acquire("b");
        tokio::pin!(waits);
        tokio::select! {
            _ = &mut waits => panic!("there is no room for b"),
            () = house.until("b to wait", |status| status.waiting.iter().any(|waiting| waiting.model == "b")) => {}
        }
        let draining = |status: &sovereign::placement::Status| status.tenants[0].state == TenantState::Draining;
        house.until("a to make room", draining).await;
    }
    house.until("b to be forgotten", |status| status.waiting.is_empty()).await;
    // Nobody wants the room any more.
    let second = house.acquire("a").await.unwrap();
    drop((lease, second));
    assert_eq!(house.fake.journal().starts, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_saw_an_end_is_not_sent_there_again() {
    // The end reaches callers and the loop at the same time: in some rounds callers are the first.
    for round in 0..200 {
        let house = House::new(limits(), &[("a", Script { load: Duration::ZERO, ..half_and_more() })]);
        let lease = house.acquire("a").await.unwrap();
        house.fake.crash("a");
        lease.ended(SOON).await.expect("it ends");
        let next = house.acquire("a").await.unwrap();
        assert_eq!(next.ended(Duration::ZERO).await, None, "round {round}");
        assert_eq!(ask(&next).await, "a");
    }
}

#[tokio::test]
async fn why_a_model_does_not_load_reaches_the_caller() {
    let reason = "tensor blk.3.attn_q.weight lies beyond the end of the file";
    let broken = Script { failure: Some(reason.into()), ..half_and_more() };
    let house = House::new(limits(), &[("broken", broken), ("a", half_and_more())]);
    let refusal = house.acquire("broken").await.unwrap_err();
    assert!(refusal.to_string().contains(reason), "{refusal}");
    // Its claim is free again.
    house.acquire("a").await.unwrap();
    let status = house.placement.status().borrow().clone();
    assert_eq!(status.swaps[1].problem.as_deref(), Some(reason));
    assert_eq!(status.held.ram, 6);
}

#[tokio::test]
async fn a_crash_frees_the_claim_and_the_next_request_loads_again() {
    let house = House::new(limits(), &[("a", half_and_more())]);
    let lease = house.acquire("a").await.unwrap();
    house.fake.crash("a");
    assert!(lease.ended(SOON).await.is_some());
    house.until("the claim to be free", |status| status.held.ram == 0).await;
    drop(lease);
    let lease = house.acquire("a").await.unwrap();
    assert_eq!(ask(&lease).await, "a");
    assert_eq!(house.fake.journal().starts, ["a", "a"]);
}

#[tokio::test]
async fn an_idle_model_is_unloaded() {
    let limits = Limits { keep_alive: Duration::ZERO, ..limits() };
    let house = House::new(limits, &[("a", half_and_more())]);
    let lease = house.acquire("a").await.unwrap();
    assert_eq!(house.placement.status().borrow().tenants.len(), 1);
    drop(lease);
    house.until("a to be unloaded", |status| status.tenants.is_empty() && status.held.ram == 0).await;
}

#[tokio::test]
async fn unload_returns_when_the_last_lease_is_back() {
    let house = House::new(limits(), &[("a", half_and_more())]);
    let lease = house.acquire("a").await.unwrap();
    let unload = house.placement.unload("a");
    tokio::pin!(unload);
    tokio::select! {
        () = &mut unload => panic!("a lease is out"),
        () = house.until("a to drain", |status| status.tenants[0].state == TenantState::Draining) => {}
    }
    drop(lease);
    tokio::time::timeout(SOON, unload).await.unwrap();
    house.until("a to be gone", |status| status.tenants.is_empty()).await;
    // What is not loaded is unloaded at once.
    tokio::time::timeout(SOON, house.placement.unload("a")).await.unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_every_tenant_and_refuses_the_rest() {
    let slow = Script { load: Duration::from_secs(3600), ..half_and_more() };
    let house = House::new(limits(), &[("a", Script { ram: 4, ..half_and_more() }), ("slow", slow)]);
    let lease = house.acquire("a").await.unwrap();
    let waits = house.acquire("slow");
    tokio::pin!(waits);
    tokio::select! {
        _ = &mut waits => panic!("it loads for an hour"),
        () = house.until("slow to load", |status| status.tenants.len() == 2) => {}
    }
    house.shutdown.cancel();
    assert_eq!(waits.await.unwrap_err(), Refusal::Closing);
    tokio::time::timeout(SOON, house.placement.stopped()).await.unwrap();
    assert_eq!(house.acquire("a").await.unwrap_err(), Refusal::Closing);
    assert!(lease.ended(SOON).await.is_some());
}

#[tokio::test]
async fn a_start_that_nobody_waits_for_any_more_may_finish_or_be_given_up() {
    let slow = Script { load: Duration::from_secs(3600), ..half_and_more() };
    let house = House::new(limits(), &[("slow", slow)]);
    {
        let waits = house.acquire("slow");
        tokio::pin!(waits);
        tokio::select! {
            _ = &mut waits => panic!("it loads for an hour"),
            () = house.until("slow to load", |status| status.tenants.len() == 1) => {}
        }
    }
    tokio::time::timeout(SOON, house.placement.unload("slow")).await.unwrap();
    house.until("the claim to be free", |status| status.held.ram == 0).await;
}

#[tokio::test]
async fn a_dropped_answer_ends_the_request_at_the_runtime() {
    let endless = Script { pause: Duration::from_secs(3600), ..half_and_more() };
    let house = House::new(limits(), &[("a", endless)]);
    let lease = house.acquire("a").await.unwrap();
    let url = lease.endpoint().address.url("/v1/chat/completions");
    let body = json!({"stream": true}).to_string();
    let answer = lease.client().post(url).body(body).send().await.unwrap();
    assert_eq!(house.fake.journal().answering, 1);
    drop(answer);
    let noticed = tokio::time::timeout(SOON, house.fake.until(|journal| journal.answering == 0)).await;
    assert!(noticed.is_ok(), "the runtime still answers");
}
