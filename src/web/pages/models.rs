//! Models: what is installed and what it needs, what is on its way, what can be had.

use super::{Shell, Tab, done, fragment, html, ledger};
use crate::app::App;
use crate::models::{self, Broken, CatalogueEntry, Installed, ModelSpec, Phase, Progress};
use crate::runtime::{Card, Claim};
use crate::web::error::Error;
use crate::web::live::{self, Push};
use crate::web::session::{Htmx, Owner, Sent};
use crate::web::words;
use askama::Template;
use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use axum::routing::{get, post};
use serde::Deserialize;

const PATH: &str = "/models";

pub(super) fn router() -> Router<App> {
    Router::new()
        .route(PATH, get(page))
        .route("/models/live", get(stream))
        .route("/models/pull", post(pull))
        .route("/models/cancel", post(cancel))
        .route("/models/remove", post(remove))
        .route("/models/unload", post(unload))
}

#[derive(Template)]
#[template(path = "models.html")]
struct Page {
    shell: Shell,
    live: String,
}

/// What changes by itself.
#[derive(Debug, Template)]
#[template(path = "models_live.html")]
struct Live<'a> {
    csrf: &'a str,
    pulls: Vec<Pull>,
    installed: Vec<Row>,
    disk: String,
    catalogue: Vec<Entry>,
}

/// A model on its way.
#[derive(Debug, PartialEq)]
struct Pull {
    source: String,
    note: String,
    problem: Option<String>,
    percent: Option<String>,
}

/// A model that is installed.
#[derive(Debug, PartialEq)]
struct Row {
    name: String,
    note: String,
    size: String,
    context: String,
    need: String,
    fit: Fit,
    /// What removing it does to its file.
    removal: String,
}

/// Whether a model can be served here.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Fit {
    class: &'static str,
    text: &'static str,
}

/// A model that can be had.
#[derive(Debug, PartialEq)]
struct Entry {
    name: String,
    title: String,
    description: String,
    size: String,
    licence: String,
}

/// What the page is made of.
struct Now<'a> {
    installed: &'a Installed,
    pulls: &'a [Progress],
    catalogue: &'a [CatalogueEntry],
    free: Option<u64>,
    budget: &'a Claim,
}

impl<'a> Live<'a> {
    /// `need` predicts what a model will occupy.
    fn of(now: &Now<'_>, need: impl Fn(&ModelSpec) -> Claim, csrf: &'a str) -> Self {
        let Now { installed, .. } = now;
        let rows = installed.models.iter().map(|spec| Row::of(spec, &need(spec), now.budget));
        let bytes: u64 = installed.models.iter().map(|spec| spec.bytes).sum();
        let free = now.free.map(|free| format!("{} free", words::size(free)));
        let used = (bytes > 0).then(|| words::size(bytes));
        Self {
            csrf,
            pulls: now.pulls.iter().filter(|pull| pull.phase != Phase::Done).map(Pull::of).collect(),
            installed: rows.chain(installed.broken.iter().map(Row::broken)).collect(),
            disk: [used, free].into_iter().flatten().collect::<Vec<_>>().join(", "),
            catalogue: now.catalogue.iter().filter(|entry| !now.has(entry)).map(Entry::of).collect(),
        }
    }
}

impl Now<'_> {
    /// Whether `entry` is installed, under whatever name, or on its way.
    fn has(&self, entry: &CatalogueEntry) -> bool {
        let is = |name: &str| entry.names().any(|known| known == name);
        let same = |spec: &ModelSpec| is(&spec.name) || entry.sha256.as_ref() == Some(&spec.sha256);
        self.installed.models.iter().any(|spec| same(spec))
            || self.installed.broken.iter().any(|broken| is(&broken.name))
            || self.pulls.iter().any(|pull| !pull.is_over() && is(&pull.source))
    }
}

impl Pull {
    fn of(progress: &Progress) -> Self {
        let share = progress.total.filter(|total| *total > 0).map(|total| progress.done as f64 / total as f64);
        let amount = progress.total.map(|total| format!("{} of {}", words::size(progress.done), words::size(total)));
        Self {
            source: progress.source.clone(),
            note: match progress.phase {
                Phase::Resolving => "looking it up".into(),
                Phase::Downloading => amount.unwrap_or_else(|| words::size(progress.done)),
                Phase::Verifying => "verifying".into(),
                Phase::Done => "done".into(),
                Phase::Failed => String::new(),
            },
            problem: (progress.phase == Phase::Failed).then(|| progress.error.clone().unwrap_or("It failed.".into())),
            percent: share.map(|share| format!("{:.1}", share.min(1.0) * 100.0)),
        }
    }
}

impl Row {
    fn of(spec: &ModelSpec, need: &Claim, budget: &Claim) -> Self {
        let size = words::size(spec.bytes);
        let facts = [
            spec.embeds.then(|| "for embeddings".to_string()),
            Some(spec.quantisation.clone()),
            Some(words::parameters(spec.parameters)),
            spec.licence.clone(),
        ];
        Self {
            name: spec.name.clone(),
            note: facts.into_iter().flatten().filter(|fact| !fact.is_empty()).collect::<Vec<_>>().join(" · "),
            context: words::thousands(spec.context_train),
            need: words::claim(need),
            fit: if need.fits(budget) {
                Fit { class: "good", text: "Fits" }
            } else {
                Fit { class: "bad", text: "Too large" }
            },
            removal: if !spec.adopted {
                format!("Its file of {size} is deleted.")
            } else {
                format!("Its file stays where it is, at {}.", spec.file.display())
            },
            size,
        }
    }

    fn broken(broken: &Broken) -> Self {
        Self {
            name: broken.name.clone(),
            note: broken.problem.clone(),
            size: "–".into(),
            context: "–".into(),
            need: "–".into(),
            fit: Fit { class: "bad", text: "Missing" },
            removal: format!("What is left of {} is forgotten.", broken.file.display()),
        }
    }
}

impl Entry {
    fn of(entry: &CatalogueEntry) -> Self {
        Self {
            name: entry.name.clone(),
            title: entry.title.clone(),
            description: entry.description.clone(),
            size: entry.bytes.map_or("–".into(), words::size),
            licence: entry.licence.clone(),
        }
    }
}

#[derive(Deserialize)]
struct Source {
    source: String,
}

#[derive(Deserialize)]
struct Name {
    model: String,
}

async fn page(State(app): State<App>, owner: Owner) -> Response {
    let csrf = owner.session.csrf;
    let live = live(&app, &csrf);
    html(&Page { shell: Shell { csrf, tab: Tab::Models }, live })
}

async fn stream(State(app): State<App>, owner: Owner, headers: HeaderMap) -> Response {
    live::to_owner(app, headers, move |app| {
        let csrf = owner.session.csrf.clone();
        async move { vec![Push::content(live(&app, &csrf))] }
    })
}

async fn pull(State(app): State<App>, htmx: Htmx, sent: Sent<Source>) -> Result<Response, Error> {
    app.models.pull(sent.form.source.trim()).map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn cancel(State(app): State<App>, htmx: Htmx, sent: Sent<Source>) -> Response {
    // One that is over by now is what was wanted.
    app.models.cancel(&sent.form.source).await;
    done(htmx, PATH)
}

async fn remove(State(app): State<App>, htmx: Htmx, sent: Sent<Name>) -> Result<Response, Error> {
    let removed = app.models.remove(&sent.form.model).await.map_err(refused)?;
    unload_in_time(&app, removed.name);
    Ok(done(htmx, PATH))
}

async fn unload(State(app): State<App>, htmx: Htmx, sent: Sent<Name>) -> Response {
    unload_in_time(&app, sent.form.model);
    done(htmx, "/")
}

/// Unloads a model once those whom it answers are done, for which nobody waits.
fn unload_in_time(app: &App, model: String) {
    let placement = app.placement.clone();
    tokio::spawn(async move { placement.unload(&model).await });
}

fn refused(error: models::Error) -> Error {
    let status = match error {
        models::Error::NotFound(_) => StatusCode::NOT_FOUND,
        models::Error::Source { .. } => StatusCode::UNPROCESSABLE_ENTITY,
        models::Error::Exists { .. } | models::Error::Busy { .. } => StatusCode::CONFLICT,
        // What the disk or the database says is for the owner to read, too.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Error::Refused(status, error.to_string())
}

/// What a model will occupy, the best way of running it that there is room for.
fn need(app: &App, spec: &ModelSpec) -> Claim {
    let budget = app.placement.status().borrow().budget.clone();
    let card = |(uuid, memory): (&String, &u64)| Card { uuid: uuid.clone(), memory: *memory, capability: None };
    let cards: Vec<Card> = budget.vram.iter().map(card).collect();
    let variants = app.runtime.tenant(spec.clone().into()).variants(&cards);
    let best = variants.iter().find(|variant| variant.claim.fits(&budget)).or(variants.last());
    best.map(|variant| variant.claim.clone()).unwrap_or_default()
}

fn live(app: &App, csrf: &str) -> String {
    let now = Now {
        installed: &app.models.installed().borrow().clone(),
        pulls: &app.models.pulls().borrow().clone(),
        catalogue: app.models.catalogue(),
        free: app.models.free_space(),
        budget: &app.placement.status().borrow().budget.clone(),
    };
    ledger::questions(app, csrf) + &fragment(&Live::of(&now, |spec| need(app, spec), csrf))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    const GIB: u64 = 1 << 30;

    fn spec(name: &str, file: &str) -> ModelSpec {
        ModelSpec {
            name: name.into(),
            aliases: Vec::new(),
            file: file.into(),
            adopted: false,
            sha256: "a".repeat(64),
            bytes: GIB,
            source: "here".into(),
            licence: Some("MIT".into()),
            pulled_at: 0,
            architecture: "qwen2".into(),
            parameters: 1_543_714_304,
            quantisation: "Q4_K_M".into(),
            context_train: 32_768,
            embeds: false,
            weights: 1,
            kv_per_token: 0,
            on_card: None,
            workspace: 0,
            adapters: Vec::new(),
            draft: None,
        }
    }

    fn ram(bytes: u64) -> Claim {
        Claim { ram: bytes, ..Claim::default() }
    }

    #[test]
    fn what_is_told_of_a_model() {
        let row = |spec: &ModelSpec, need: u64| Row::of(spec, &ram(need), &ram(2 * GIB));
        let here = row(&spec("qwen", "/m/qwen.gguf"), GIB);
        assert_eq!(here.note, "Q4_K_M · 1.5 B parameters · MIT");
        assert_eq!((here.context.as_str(), here.fit.text), ("32\u{a0}768", "Fits"));
        assert!(here.removal.contains("deleted"), "{}", here.removal);
        let adopted = row(&ModelSpec { adopted: true, ..spec("qwen", "/elsewhere/qwen.gguf") }, 3 * GIB);
        assert_eq!(adopted.fit.text, "Too large");
        assert!(adopted.removal.contains("stays"), "{}", adopted.removal);
        let embeds = row(&ModelSpec { embeds: true, ..spec("minilm", "/m/minilm.gguf") }, GIB);
        assert!(embeds.note.starts_with("for embeddings · "), "{}", embeds.note);
    }

    #[test]
    fn progress_for_people() {
        let check = |phase, done, total, note: &str, percent: Option<&str>| {
            let error = (phase == Phase::Failed).then(|| "no space".to_owned());
            let pull = Pull::of(&Progress { source: "x".into(), model: None, phase, done, total, error });
            assert_eq!((pull.note.as_str(), pull.percent.as_deref()), (note, percent));
            assert_eq!(pull.problem.as_deref(), (phase == Phase::Failed).then_some("no space"));
        };
        check(Phase::Resolving, 0, None, "looking it up", None);
        check(Phase::Downloading, GIB, Some(4 * GIB), "1.0 GiB of 4.0 GiB", Some("25.0"));
        check(Phase::Downloading, GIB, None, "1.0 GiB", None);
        check(Phase::Failed, GIB, Some(4 * GIB), "", Some("25.0"));
    }

    #[test]
    fn the_catalogue_offers_what_is_not_there() {
        let yaml = "- {name: a, title: A, licence: MIT, description: d, file: a.gguf, context: 1, mirrors: []}\n\
                    - {name: b, title: B, licence: MIT, description: d, file: b.gguf, context: 1, mirrors: []}\n\
                    - {name: c, title: C, licence: MIT, description: d, file: c.gguf, context: 1, mirrors: []}";
        let catalogue: Vec<CatalogueEntry> = serde_yaml::from_str(yaml).unwrap();
        let pull = |source: &str, phase| Progress {
            source: source.into(),
            model: None,
            phase,
            done: 0,
            total: None,
            error: None,
        };
        let now = Now {
            installed: &Installed { models: vec![Arc::new(spec("a", "/m/a.gguf"))], broken: Vec::new() },
            pulls: &[pull("b", Phase::Downloading), pull("c", Phase::Failed)],
            catalogue: &catalogue,
            free: Some(9 * GIB),
            budget: &ram(GIB),
        };
        let live = Live::of(&now, |_| ram(1), "token");
        assert_eq!(live.catalogue.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["c"]);
        assert_eq!(live.disk, "1.0 GiB, 9.0 GiB free");
        let html = fragment(&live);
        assert!(html.contains("data-source=\"b\"") && html.contains("data-model=\"a\""), "{html}");
    }
}
