//! Placement in turmoil: the real loop over the real probe, which reads a stand-in for NVIDIA's library, and the double
//! of a runtime. Starts fail, tenants leak, hang, crash and take what is not theirs, others take the card, the card falls
//! off the bus. Nothing is over-committed, nobody is stuck, no claim is left.

use crate::nvml::{Card, Driver, Presence};
use crate::placement::spec;
use sovereign::config;
use sovereign::gpu::{Probe, Reading};
use sovereign::placement::{Learned, Limits, Observation, Placement, Policy, Refusal, Sight, Status};
use sovereign::runtime::fake::{Fake, Script};
use sovereign::runtime::{Claim, Rest, Rung, Runtime};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Sequences in an ordinary run; `SOVEREIGN_TURMOIL` asks for others.
const SEQUENCES: u64 = 200;
/// Sequences at once. They mostly wait.
const TOGETHER: usize = 24;
const GPU: &str = "GPU-1";
const GIB: u64 = 1 << 30;
const VRAM: u64 = 8 * GIB;
const RAM: u64 = 16 * GIB;
/// The number of a process of somebody else's.
const STRANGER: u32 = 7;
const LOOK: Duration = Duration::from_millis(20);
/// Nobody waits longer for an answer, whatever happens.
const STUCK: Duration = Duration::from_secs(60);

/// Numbers that are the same in every run of one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn once_in(&mut self, times: u64) -> bool {
        self.roll(times) == 0
    }

    fn up_to(&mut self, ms: u64) -> Duration {
        Duration::from_millis(self.roll(ms + 1))
    }
}

fn limits() -> Limits {
    let ms = Duration::from_millis;
    Limits {
        keep_alive: ms(200),
        max_wait: ms(1_500),
        patience: ms(150),
        max_queue: 16,
        park_for: ms(300),
        parked_memory: 6 * GIB,
        tolerance: 0,
        grace: ms(60),
        confirm: ms(150),
        settles: ms(200),
        lost_after: ms(100),
    }
}

/// A model: on the card, smaller on the card, on the processor.
fn script(dice: &mut Dice, honest: bool) -> Script {
    let on = |gib: u64| Claim { ram: GIB / 2, threads: 1, vram: BTreeMap::from([(GPU.to_string(), gib * GIB)]) };
    let gib = 1 + dice.roll(7);
    let mut claims = vec![on(gib)];
    if gib > 2 && dice.once_in(2) {
        claims.push(on(gib / 2));
    }
    if dice.once_in(2) {
        claims.push(Claim { ram: gib * GIB, threads: 1, ..Claim::default() });
    }
    let on_card = |gib_tenths: u64| BTreeMap::from([(GPU.to_string(), gib_tenths * GIB / 10)]);
    let rest = |rung, vram, ram| Rest { rung, residue: Claim { vram, ram, threads: 0 } };
    let rests = vec![rest(Rung::Sleep, on_card(4), gib * GIB), rest(Rung::Park, BTreeMap::new(), gib * GIB)];
    Script {
        claims,
        rests: if dice.once_in(2) { rests } else { Vec::new() },
        rungs: &[Rung::Shrink, Rung::Sleep, Rung::Stop, Rung::Kill],
        load: dice.up_to(60),
        rest: dice.up_to(20),
        wake: dice.up_to(20),
        lingers: if dice.once_in(3) { dice.up_to(150) } else { Duration::ZERO },
        excess: if !honest && dice.once_in(6) { GIB / 4 } else { 0 },
        hangs_loading: dice.once_in(20),
        hangs_stopping: dice.once_in(10),
        refuses_rests: dice.once_in(5),
        ..Script::default()
    }
}

/// One sequence. In an `honest` one nobody takes memory that is not granted, so that no start may find the card full.
async fn sequence(seed: u64) {
    let mut dice = Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let honest = seed.is_multiple_of(2);
    let driver = Arc::new(Driver::new(vec![Card::new(GPU, VRAM)]));
    let fake = Fake::default();
    let cards = driver.clone();
    fake.on_cards(move |gpu, pid, bytes| cards.hold(gpu, pid, bytes));

    let probe = Probe::new(&config::Gpu { nvml_library: Some(driver.library()), ..config::Gpu::default() });
    let nothing = Reading { at: Instant::now(), cards: Vec::new() };
    let (publish, observations) = watch::channel(Arc::new(Observation::of(RAM, 0, &nothing)));
    let looking = tokio::spawn(look(probe, publish));
    let shutdown = CancellationToken::new();
    let (runtime, sight) = (Runtime::Fake(fake.clone()), Sight::with(observations));
    let placement =
        Placement::with_runtime(runtime, Policy::default(), Learned::default(), limits(), sight, shutdown.clone());
    let watching = tokio::spawn(watch_budget(placement.status(), honest));

    let models: Vec<String> = (0..2 + dice.roll(3)).map(|model| format!("model-{model}")).collect();
    let mut callers = JoinSet::new();
    for _ in 0..10 + dice.roll(15) {
        let model = &models[dice.roll(models.len() as u64) as usize];
        let mut script = script(&mut dice, honest);
        if dice.roll(10) < 3 {
            script.failure = Some("it says so".into());
        }
        fake.script(model, script);
        let (asked, spec, hold) = (placement.clone(), spec(model), dice.up_to(120));
        callers.spawn(async move {
            let lease = timeout(STUCK, asked.acquire(spec)).await.expect("a request is stuck")?;
            sleep(hold).await;
            drop(lease);
            Ok::<(), Refusal>(())
        });
        match dice.roll(12) {
            0 => fake.crash(model),
            1 if !honest => {
                // He takes what there is.
                driver.hold(GPU, STRANGER, dice.roll(6) * GIB);
            }
            2 => driver.change(|script| {
                script.cards[0].presence = Presence::Lost;
                script.cards[0].processes = Some(Vec::new());
            }),
            3 => driver.change(|script| script.cards[0].presence = Presence::Present),
            4 => timeout(STUCK, placement.unload(model)).await.expect("an unload is stuck"),
            _ => {}
        }
        sleep(dice.up_to(60)).await;
    }
    driver.change(|script| script.cards[0].presence = Presence::Present);
    while let Some(answer) = callers.join_next().await {
        // Refused is an answer too.
        let _ = answer.unwrap();
    }
    // Whatever rests or idles ends by itself.
    let mut status = placement.status();
    let nothing = |status: &Arc<Status>| {
        status.tenants.is_empty() && status.held == Claim::default() && status.waiting.is_empty()
    };
    let ended = timeout(STUCK, status.wait_for(nothing)).await.is_ok();
    assert!(ended, "claims are left: {:#?}", placement.status().borrow());
    let journal = fake.journal();
    assert!(!honest || journal.out_of_memory == 0, "{} starts found the card full", journal.out_of_memory);
    shutdown.cancel();
    timeout(STUCK, placement.stopped()).await.expect("the loop does not end");
    watching.await.unwrap();
    looking.abort();
}

/// Reads the cards all the time.
async fn look(mut probe: Probe, publish: watch::Sender<Arc<Observation>>) {
    loop {
        let at = Instant::now();
        let reading = Reading { at, cards: probe.read() };
        publish.send_replace(Arc::new(Observation::of(RAM, 0, &reading)));
        sleep(LOOK).await;
    }
}

/// What is held is never more than there is, while nobody takes what is not granted and the card is there.
async fn watch_budget(mut status: watch::Receiver<Arc<Status>>, honest: bool) {
    while status.changed().await.is_ok() {
        let status = status.borrow_and_update().clone();
        assert!(status.held.ram <= RAM, "{} of {} of host memory", status.held.ram, RAM);
        if honest && let Some(budget) = status.budget.vram.get(GPU) {
            assert!(status.held.on(GPU) <= *budget, "{} of {budget} of the card: {status:#?}", status.held.on(GPU));
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_lost_in_turmoil() {
    let sequences = std::env::var("SOVEREIGN_TURMOIL").ok().and_then(|text| text.parse().ok()).unwrap_or(SEQUENCES);
    let together = Arc::new(Semaphore::new(TOGETHER));
    let mut running = JoinSet::new();
    for seed in 1..=sequences {
        let together = together.clone();
        running.spawn(async move {
            let _turn = together.acquire().await.unwrap();
            (seed, tokio::spawn(sequence(seed)).await)
        });
    }
    while let Some(done) = running.join_next().await {
        let (seed, done) = done.unwrap();
        assert!(done.is_ok(), "sequence {seed}: {done:?}");
    }
}
