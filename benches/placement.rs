//! How long one decision of placement's planner takes with a hundred models, most of them in memory, and a thousand requests
//! that wait: `cargo bench --bench placement`.

use sovereign::placement::Limits;
use sovereign::placement::event::{Effect, Event, Observed, Seen, Want};
use sovereign::placement::plan::Plan;
use sovereign::runtime::{Claim, Rest, Rung, Setting, Variant};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

const MODELS: u64 = 100;
const WAITING: u64 = 1_000;
const GPU: &str = "GPU-1";
const GIB: u64 = 1 << 30;

/// Every model wants a card's share, smaller on the card, or the processor.
fn want(model: u64) -> Arc<Want> {
    let on_card = |bytes: u64| BTreeMap::from([(GPU.to_string(), bytes)]);
    let bytes = GIB / 8 + model * (GIB / 100);
    let rest = |rung, vram, ram| Rest { rung, residue: Claim { vram, ram, threads: 0 } };
    let variant = |vram: BTreeMap<String, u64>, ram| Variant {
        setting: Setting { gpu: vram.keys().next().cloned(), context: 4096, kv: None },
        rests: if vram.is_empty() {
            Vec::new()
        } else {
            vec![rest(Rung::Sleep, on_card(GIB / 16), bytes), rest(Rung::Park, BTreeMap::new(), bytes)]
        },
        claim: Claim { vram, ram, threads: 1 },
        slots: 2,
    };
    Arc::new(Want {
        model: format!("model-{model}").into(),
        version: "1".into(),
        variants: vec![
            variant(on_card(bytes), GIB / 64),
            variant(on_card(bytes / 2), GIB / 64),
            variant(BTreeMap::new(), bytes),
        ],
        rungs: &[Rung::Sleep, Rung::Stop, Rung::Kill],
        weight: 4,
        pinned: false,
        keep_alive: None,
        elastic: false,
        embeds: false,
        hold: Default::default(),
        cost: Duration::from_secs(1),
    })
}

fn main() {
    let limits = Limits { max_queue: usize::MAX, max_wait: Duration::from_secs(3600), ..Limits::default() };
    let mut plan = Plan::new(limits);
    let mut now = Duration::ZERO;
    let mut step = |plan: &mut Plan, event| {
        now += Duration::from_millis(1);
        plan.handle(event, now)
    };
    let observed = |taken| {
        let seen = Seen { budget: 16 * GIB, used: None, measured: BTreeMap::new() };
        Event::Observed(Observed {
            taken,
            ram: 64 * GIB,
            threads: 16,
            cards: BTreeMap::from([(GPU.to_string(), seen)]),
        })
    };
    step(&mut plan, observed(Duration::from_secs(1)));
    let wants: Vec<Arc<Want>> = (0..MODELS).map(want).collect();
    let mut serving = Vec::new();
    let mut id = 0;
    // Fill the card and the queue. What starts is ready at once, and keeps its first requests.
    while (plan.waiting().count() as u64) < WAITING {
        id += 1;
        let event = Event::Request { id, want: wants[(id % MODELS) as usize].clone() };
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in step(&mut plan, event) {
                match effect {
                    Effect::Start { instance, .. } | Effect::Wake(instance) => events.push(Event::Ready(instance)),
                    Effect::Serve { instance, .. } => serving.push(instance),
                    _ => {}
                }
            }
        }
    }
    let loaded = plan.ledger().entries.len();
    println!(
        "{loaded} instances, {} requests wait for {MODELS} models, {} are answered",
        plan.waiting().count(),
        serving.len()
    );
    // A lease ends and another request comes: two decisions, after which as many wait as before.
    let mut spans = Vec::new();
    for round in 0..20_000_u64 {
        let event = match round % 2 {
            0 => Event::Released(serving[(round / 2) as usize % serving.len()]),
            _ => {
                id += 1;
                Event::Request { id, want: wants[(id % MODELS) as usize].clone() }
            }
        };
        let begun = Instant::now();
        let effects = step(&mut plan, event);
        spans.push(begun.elapsed());
        for effect in effects {
            if let Effect::Start { instance, .. } | Effect::Wake(instance) = effect {
                step(&mut plan, Event::Ready(instance));
            }
        }
    }
    spans.sort_unstable();
    let at = |share: f64| spans[((spans.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e6;
    println!("a decision takes {:.1} us (median), {:.1} (90%), {:.1} (99%)", at(0.5), at(0.9), at(0.99));
}
