//! Home: what the card and the machine do, what is in memory, which containers run. Live.

use super::{Shell, Tab, fragment, html, ledger};
use crate::app::App;
use crate::docker::{self, Container};
use crate::gpu::{self, Day, HolderKind, Point, Sample};
use crate::placement::{Status, SwapKind, TenantState, TenantStatus, Waiting};
use crate::runtime::Rung;
use crate::web::containers;
use crate::web::figures::{self, Card, Figure, Machine};
use crate::web::live::{self, Push};
use crate::web::session::Owner;
use crate::web::words;
use askama::Template;
use axum::extract::State;
use axum::http::HeaderMap;
use axum::response::Response;
use axum::routing::get;
use axum::{Json, Router};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

/// How long a load that failed is news.
const LATELY: SignedDuration = SignedDuration::from_mins(15);

pub(super) fn router() -> Router<App> {
    Router::new().route("/", get(page)).route("/live", get(stream)).route("/live/history", get(history))
}

#[derive(Template)]
#[template(path = "home.html")]
struct Page {
    shell: Shell,
    live: String,
}

/// What changes by itself.
#[derive(Debug, Template)]
#[template(path = "home_live.html")]
struct Live<'a> {
    csrf: &'a str,
    summary: Summary,
    cards: Vec<Card>,
    machine: Machine,
    budget: String,
    tenants: Vec<Tenant>,
    notes: Vec<String>,
    problems: Vec<String>,
    holders: Vec<Holder>,
    energy: Vec<Figure>,
    docker: String,
    containers: Vec<containers::Row>,
}

/// The first line of the page.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    title: String,
    detail: String,
}

/// A model in memory.
#[derive(Debug, PartialEq, Eq)]
struct Tenant {
    model: String,
    runtime: String,
    class: &'static str,
    state: &'static str,
    predicted: String,
    measured: String,
    requests: String,
}

/// Something on a card.
#[derive(Debug, PartialEq, Eq)]
struct Holder {
    name: String,
    /// What it is, and its processes.
    detail: String,
    memory: String,
}

/// What the page is made of.
struct Now<'a> {
    sample: &'a Sample,
    placement: &'a Status,
    docker: &'a docker::State,
    containers: &'a [Container],
    energy: &'a [Day],
    uptime: u64,
    at: Timestamp,
}

impl<'a> Live<'a> {
    fn of(now: &Now<'_>, csrf: &'a str) -> Self {
        let Now { sample, placement, .. } = now;
        Self {
            csrf,
            summary: Summary::of(sample, placement),
            cards: sample.cards.iter().map(|card| Card::of(card, sample.at)).collect(),
            machine: Machine::of(&sample.host, placement, now.uptime),
            budget: budget(placement),
            tenants: placement.tenants.iter().map(Tenant::of).collect(),
            notes: placement.waiting.iter().map(waiting).collect(),
            problems: problems(placement, now.at),
            holders: sample.cards.iter().flat_map(gpu::Holder::of).map(|holder| Holder::of(&holder)).collect(),
            energy: figures::energy(now.energy, now.at),
            docker: match now.docker {
                docker::State::Present(engine) => format!("Docker {}", engine.version),
                docker::State::Absent { .. } => "Docker is not reachable".into(),
            },
            containers: now.containers.iter().map(containers::Row::of).collect(),
        }
    }
}

impl Summary {
    fn of(sample: &Sample, placement: &Status) -> Self {
        let in_state = |state| placement.tenants.iter().find(move |tenant| tenant.state == state);
        let answering = placement.tenants.iter().find(|tenant| tenant.leases > 0);
        let title = match (sample.cards.iter().find(|card| card.problem.is_some()), answering) {
            (Some(card), _) => format!("{} needs a look", card.name),
            (None, Some(tenant)) => format!("{} is answering", tenant.model),
            (None, None) => match (in_state(TenantState::Loading), in_state(TenantState::Ready)) {
                (Some(tenant), _) => format!("Loading {}", tenant.model),
                (None, Some(tenant)) => format!("{} is ready", tenant.model),
                (None, None) => "All quiet".into(),
            },
        };
        let detail = match &sample.cards[..] {
            [] => "No NVIDIA card found: models run on the processor. Nothing leaves the house unseen.".into(),
            [card] => format!("{}, and nothing leaves the house unseen.", card.name),
            cards => format!("{}, and nothing leaves the house unseen.", words::count(cards.len(), "card")),
        };
        Self { title, detail }
    }
}

impl Holder {
    fn of(holder: &gpu::Holder) -> Self {
        let kind = match holder.kind {
            HolderKind::Model => "Model",
            HolderKind::Service => "Service of a stack",
            HolderKind::Container => "Container, not ours",
            HolderKind::Host => "Program of this machine",
            HolderKind::Rest => "In use, and no process's",
        };
        let detail = match &holder.pids[..] {
            [] => kind.into(),
            [pid] => format!("{kind} · process {pid}"),
            pids => format!("{kind} · {} processes", pids.len()),
        };
        Self { name: holder.label(), detail, memory: holder.bytes.map_or("–".into(), words::size) }
    }
}

impl Tenant {
    fn of(tenant: &TenantStatus) -> Self {
        let (class, state) = match tenant.state {
            TenantState::Loading => ("busy", "Loading"),
            TenantState::Ready if tenant.leases > 0 => ("busy", "Answering"),
            TenantState::Ready => ("good", "Idle"),
            TenantState::Draining => ("busy", "Finishing"),
            TenantState::Settling => ("busy", "Going to rest"),
            TenantState::Asleep => ("good", "Asleep"),
            TenantState::Parked => ("good", "Parked"),
            TenantState::Waking => ("busy", "Waking"),
            TenantState::Stopping => ("busy", "Unloading"),
        };
        let on_cards = tenant.measured_vram.values().sum::<u64>();
        Self {
            model: tenant.model.clone(),
            runtime: format!("{} · {}", tenant.runtime, tenant.quant),
            class,
            state,
            predicted: words::claim(&tenant.predicted),
            measured: match (tenant.predicted.on_cards(), tenant.measured_ram) {
                (0, None) => "–".into(),
                (0, Some(bytes)) => words::size(bytes),
                _ => words::size(on_cards),
            },
            requests: format!("{} of {}", tenant.leases, tenant.slots),
        }
    }
}

/// What is held of what there is.
fn budget(placement: &Status) -> String {
    let Status { budget, held, .. } = placement;
    let host = format!("{} of {} of host memory", words::size(held.ram), words::size(budget.ram));
    match budget.on_cards() {
        0 => format!("{host} held"),
        vram => format!("{} of {} of the card and {host} held", words::size(held.on_cards()), words::size(vram)),
    }
}

fn waiting(waiting: &Waiting) -> String {
    format!("{} for {} waiting", words::count(waiting.requests, "request"), waiting.model)
}

/// Loads that failed lately, and were not followed by one that did not; and what was done to those who held too much.
fn problems(placement: &Status, now: Timestamp) -> Vec<String> {
    let mut seen = Vec::new();
    let mut problems = Vec::new();
    let starts = placement.swaps.iter().filter(|swap| matches!(swap.kind, SwapKind::Load | SwapKind::Wake));
    for swap in starts.filter(|swap| now.duration_since(swap.at) < LATELY) {
        if seen.contains(&&swap.model) {
            continue;
        }
        seen.push(&swap.model);
        problems.extend(swap.problem.as_ref().map(|problem| format!("{} did not start: {problem}", swap.model)));
    }
    for enforced in placement.enforced.iter().filter(|enforced| now.duration_since(enforced.at) < LATELY) {
        let what = match enforced.rung {
            Rung::Sleep | Rung::Park => "was sent to rest",
            Rung::Shrink | Rung::Free => "was asked to give memory back",
            Rung::Stop => "was stopped",
            Rung::Kill => "was killed",
        };
        problems.push(format!("{} {what}: {}", enforced.model, enforced.cause));
    }
    problems
}

/// The chart's data: `at` in unix seconds, and as many values for each label.
#[derive(Debug, PartialEq, Serialize)]
struct Chart {
    labels: Vec<String>,
    at: Vec<i64>,
    values: Vec<Vec<Option<f32>>>,
}

impl Chart {
    fn of(labels: Vec<String>, points: impl Iterator<Item = Point>) -> Self {
        let mut values = vec![Vec::new(); labels.len()];
        let mut at = Vec::new();
        for point in points {
            at.push(point.at);
            for (column, value) in values.iter_mut().zip(figures::values(&point)) {
                column.push(value);
            }
        }
        Self { labels, at, values }
    }
}

/// One more second of it.
#[derive(Debug, Serialize)]
struct Second {
    at: i64,
    values: Vec<Option<f32>>,
}

async fn page(State(app): State<App>, owner: Owner) -> Response {
    let csrf = owner.session.csrf;
    let live = live(&app, &csrf).await;
    html(&Page { shell: Shell { csrf, tab: Tab::Home }, live })
}

async fn stream(State(app): State<App>, owner: Owner, headers: HeaderMap) -> Response {
    live::to_owner(app, headers, move |app| {
        let csrf = owner.session.csrf.clone();
        async move {
            let sample = app.gpu.latest();
            let second = Second { at: sample.at, values: figures::values(&Point::of(&sample)) };
            let mut pushes = vec![Push::content(live(&app, &csrf).await)];
            pushes.extend(serde_json::to_string(&second).ok().map(|data| Push { event: Some("sample"), data }));
            pushes
        }
    })
}

async fn history(State(app): State<App>, _: Owner) -> Json<Chart> {
    let sample = app.gpu.latest();
    let uuids: Vec<&str> = sample.cards.iter().map(|card| card.uuid.as_str()).collect();
    Json(app.gpu.history(|history| Chart::of(figures::labels(&sample), history.points(&uuids))))
}

async fn live(app: &App, csrf: &str) -> String {
    let energy = app.energy.days().await.unwrap_or_else(|error| {
        tracing::warn!(%error, "what the cards drew cannot be read");
        Default::default()
    });
    let now = Now {
        energy: &energy,
        sample: &app.gpu.latest(),
        placement: &app.placement.status().borrow().clone(),
        docker: &app.docker.state().borrow().clone(),
        containers: &app.docker.containers().borrow().clone(),
        uptime: app.started.elapsed().as_secs(),
        at: Timestamp::now(),
    };
    ledger::questions(app, csrf) + &fragment(&Live::of(&now, csrf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::Snapshot;
    use crate::placement::{Enforced, Swap};
    use crate::runtime::Claim;

    fn tenant(state: TenantState, leases: usize) -> TenantStatus {
        TenantStatus {
            model: "gemma".into(),
            runtime: "native".into(),
            quant: "Q4_K_M".into(),
            state,
            setting: crate::runtime::Setting::default(),
            pinned: false,
            measured_vram: std::collections::BTreeMap::new(),
            predicted: Claim { ram: 3 << 29, ..Claim::default() },
            granted: Claim::default(),
            measured_ram: None,
            who: None,
            leases,
            slots: 2,
            started: Timestamp::UNIX_EPOCH,
            idle_since: None,
        }
    }

    #[test]
    fn the_first_line_says_what_matters_most() {
        let check = |cards: Vec<Snapshot>, tenants: Vec<TenantStatus>, title: &str| {
            let sample = Sample { cards, ..Sample::default() };
            let status = Status { tenants, ..Status::default() };
            assert_eq!(Summary::of(&sample, &status).title, title);
        };
        let lost = Snapshot { name: "RTX".into(), problem: Some("gone".into()), ..Snapshot::default() };
        check(vec![], vec![], "All quiet");
        check(vec![], vec![tenant(TenantState::Ready, 0)], "gemma is ready");
        check(vec![], vec![tenant(TenantState::Ready, 0), tenant(TenantState::Loading, 0)], "Loading gemma");
        check(vec![], vec![tenant(TenantState::Ready, 1)], "gemma is answering");
        check(vec![lost], vec![tenant(TenantState::Ready, 1)], "RTX needs a look");
    }

    #[test]
    fn a_model_in_memory() {
        let row = Tenant::of(&tenant(TenantState::Ready, 0));
        assert_eq!((row.state, row.predicted.as_str(), row.measured.as_str()), ("Idle", "1.5 GiB", "–"));
        assert_eq!(Tenant::of(&tenant(TenantState::Ready, 2)).requests, "2 of 2");
    }

    #[test]
    fn who_holds_the_card() {
        let holder = |kind, name: &str, pids: &[u32]| {
            let (card, name, pids) = ("GPU-1".into(), name.into(), pids.to_vec());
            let Holder { name, detail, memory } =
                Holder::of(&gpu::Holder { card, kind, name, pids, bytes: Some(1 << 30) });
            format!("{name}, {detail}, {memory}")
        };
        assert_eq!(holder(HolderKind::Host, "Xorg", &[7]), "host: Xorg, Program of this machine · process 7, 1.0 GiB");
        assert_eq!(
            holder(HolderKind::Service, "vllm/server", &[7, 8]),
            "vllm/server, Service of a stack · 2 processes, 1.0 GiB"
        );
        assert_eq!(holder(HolderKind::Rest, "", &[]), "driver and others, In use, and no process's, 1.0 GiB");
    }

    #[test]
    fn a_failed_load_is_news_until_one_succeeds() {
        let swap = |seconds: i64, problem: Option<&str>| Swap {
            at: Timestamp::from_second(seconds).unwrap(),
            model: "gemma".into(),
            kind: crate::placement::SwapKind::Load,
            took_ms: 1,
            problem: problem.map(Into::into),
        };
        let check = |swaps: Vec<Swap>, now: i64, expected: &[&str]| {
            let status = Status { swaps, ..Status::default() };
            assert_eq!(problems(&status, Timestamp::from_second(now).unwrap()), expected);
        };
        check(vec![swap(10, Some("no memory"))], 20, &["gemma did not start: no memory"]);
        check(vec![swap(10, Some("no memory"))], 2000, &[]);
        check(vec![swap(11, None), swap(10, Some("no memory"))], 20, &[]);
        check(vec![swap(11, Some("b")), swap(10, Some("a"))], 20, &["gemma did not start: b"]);
    }

    #[test]
    fn what_was_done_to_a_model_is_news() {
        let enforced = Enforced {
            at: Timestamp::from_second(10).unwrap(),
            model: "gemma".into(),
            rung: Rung::Stop,
            cause: "its card is not there any more".into(),
            confirmed_ms: None,
        };
        let status = Status { enforced: vec![enforced], ..Status::default() };
        let problems = |now: i64| problems(&status, Timestamp::from_second(now).unwrap());
        assert_eq!(problems(20), ["gemma was stopped: its card is not there any more"]);
        assert!(problems(2000).is_empty());
    }

    #[test]
    fn the_page_without_anything_says_so() {
        let now = Now {
            sample: &Sample::default(),
            placement: &Status::default(),
            docker: &docker::State::Absent { reason: "no socket".into() },
            containers: &[],
            energy: &[],
            uptime: 5,
            at: Timestamp::UNIX_EPOCH,
        };
        let html = fragment(&Live::of(&now, "token"));
        for expected in ["No NVIDIA card found", "No model is loaded", "Docker is not reachable", "There are none."] {
            assert!(html.contains(expected), "{expected} in {html}");
        }
    }
}
