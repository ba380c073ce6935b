//! The ledger: what left the house, what wants to, what the owner decided, and the switch.

use super::{Shell, Tab, done, fragment, html};
use crate::app::App;
use crate::config::Mode;
use crate::egress::ledger::Lasting;
use crate::egress::{Answer, Basis, ClassView, ConsentView, Error as Refused, Line, Page as Lines, Period, View};
use crate::web::error::{Error, notices};
use crate::web::live::{self, Push};
use crate::web::session::{Htmx, Owner, Sent};
use crate::web::words;
use crate::{db, egress};
use askama::Template;
use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use serde::Deserialize;

const PATH: &str = "/ledger";
/// Rows of the ledger behind one page.
const ROWS: u32 = 200;
const HOUR: u32 = 3600;

pub(super) fn router() -> Router<App> {
    Router::new()
        .route(PATH, get(page))
        .route("/ledger/live", get(stream))
        .route("/ledger/answer", post(answer))
        .route("/ledger/revoke", post(revoke))
        .route("/ledger/offline", post(offline))
        .route("/ledger/class", post(class))
        .route("/ledger/erase", post(erase))
        .route("/ledger/verify", post(verify))
        .route("/ledger/export", get(export))
}

#[derive(Template)]
#[template(path = "ledger.html")]
struct Page {
    shell: Shell,
    live: String,
    live_updates: bool,
}

/// What changes by itself.
#[derive(Debug, Template)]
#[template(path = "ledger_live.html")]
struct Live<'a> {
    csrf: &'a str,
    problem: Option<String>,
    questions: String,
    offline: bool,
    summary: &'static str,
    classes: Vec<Class>,
    consents: Vec<Consent>,
    live_count: String,
    rows: Vec<Row>,
    before: Option<u64>,
}

/// What waits for the owner, on every page that shows what may cause it.
#[derive(Debug, Template)]
#[template(path = "questions.html")]
struct Questions<'a> {
    csrf: &'a str,
    questions: Vec<Question>,
}

#[derive(Debug)]
struct Question {
    id: u64,
    host: String,
    to: String,
    class: &'static str,
    who: String,
    what: String,
    text: Option<String>,
}

#[derive(Debug, PartialEq)]
struct Class {
    key: &'static str,
    label: &'static str,
    mode: String,
    hosts: String,
}

#[derive(Debug, PartialEq)]
struct Consent {
    id: u64,
    allow: bool,
    class: &'static str,
    host: String,
    who: String,
    until: String,
}

#[derive(Debug, PartialEq)]
struct Row {
    number: u64,
    kind: String,
    when: String,
    what: String,
    who: String,
    host: String,
    address: String,
    out: String,
    come: String,
    how: String,
    basis: String,
    live: bool,
    text: bool,
}

/// What waits for the owner, as a part of a page; empty where nothing does.
pub(super) fn questions(app: &App, csrf: &str) -> String {
    let questions = app.egress.questions();
    if questions.is_empty() {
        return String::new();
    }
    let questions = questions.into_iter().map(Question::of).collect();
    fragment(&Questions { csrf, questions })
}

impl Question {
    fn of(question: egress::Question) -> Self {
        let egress::Question { id, class, initiator, host, port, what, bytes, text, waiting, .. } = question;
        let size = bytes.map(|bytes| format!(", sending {}", words::size(bytes))).unwrap_or_default();
        let others = match waiting {
            0 | 1 => String::new(),
            waiting => format!(" ({waiting} connections wait)"),
        };
        Self {
            id,
            to: format!("{host}:{port}"),
            host,
            class: class.label(),
            who: initiator.to_string(),
            what: format!("{what}{size}{others}"),
            text,
        }
    }
}

impl Class {
    fn of(view: &ClassView) -> Self {
        let ClassView { class, mode, hosts, .. } = view;
        Self { key: class.key(), label: class.label(), mode: mode.to_string(), hosts: hosts.join(", ") }
    }

    fn is(&self, mode: &str) -> bool {
        self.mode == mode
    }
}

impl Consent {
    fn of(view: &ConsentView, now: i64) -> Self {
        let port = view.scope.port.map(|port| format!(":{port}")).unwrap_or_default();
        Self {
            id: view.id,
            allow: view.allow,
            class: view.scope.class.label(),
            host: format!("{}{port}", view.scope.host),
            who: view.scope.initiator.as_ref().map_or("anybody".into(), ToString::to_string),
            until: match view.lasting {
                Lasting::Once => "it is done".into(),
                Lasting::Always => "you revoke it".into(),
                Lasting::Until(at) => {
                    format!("in {}", words::span(u64::try_from(at / 1000 - now).unwrap_or_default()))
                }
            },
        }
    }
}

impl Row {
    fn of(line: Line, now: i64) -> Self {
        let bytes = |bytes: Option<u64>| bytes.map(words::size).unwrap_or_default();
        Self {
            number: line.row,
            kind: line.kind,
            when: words::ago(line.at / 1000, now),
            what: line.what,
            who: match (line.class, line.initiator) {
                (Some(class), Some(initiator)) => format!("{} · {initiator}", class.label()),
                (Some(class), None) => class.label().into(),
                (None, _) => String::new(),
            },
            host: line.host.unwrap_or_default(),
            address: line.address.map(|address| address.to_string()).unwrap_or_default(),
            out: bytes(line.bytes_out),
            come: bytes(line.bytes_in),
            how: line.how,
            basis: match line.basis {
                Some(Basis::Policy) => "its class is on".into(),
                Some(Basis::Consent(id)) => format!("decision {id}"),
                None => String::new(),
            },
            live: line.live,
            text: line.text,
        }
    }
}

impl<'a> Live<'a> {
    fn of(view: &View, lines: Result<Lines, Refused>, questions: String, csrf: &'a str, now: i64) -> Self {
        let (lines, problem) = match lines {
            Ok(lines) => (lines, None),
            Err(error) => (Lines { lines: Vec::new(), before: None }, Some(error.to_string())),
        };
        let off = view.classes.iter().all(|class| class.mode == Mode::Off);
        Self {
            csrf,
            problem,
            questions,
            offline: view.offline,
            summary: match off {
                true => "Every class is off: nothing leaves it.",
                false => "What is on leaves unasked, what is on ask when you say so, and the rest not at all.",
            },
            classes: view.classes.iter().map(Class::of).collect(),
            consents: view.consents.iter().map(|consent| Consent::of(consent, now)).collect(),
            live_count: match view.flows.len() {
                0 => "no connection now".into(),
                flows => format!("{} now", words::count(flows, "connection")),
            },
            rows: lines.lines.into_iter().map(|line| Row::of(line, now)).collect(),
            before: lines.before,
        }
    }
}

#[derive(Deserialize)]
struct Which {
    before: Option<u64>,
}

// Fields that are missing are wrong, but a missing token is worse, and told first.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Answered {
    id: String,
    answer: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Decision {
    decision: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Switch {
    offline: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct NewMode {
    class: String,
    mode: Option<Mode>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OneRow {
    row: String,
}

async fn page(State(app): State<App>, owner: Owner, Query(which): Query<Which>) -> Response {
    let csrf = owner.session.csrf;
    let live = live(&app, &csrf, which.before).await;
    html(&Page { shell: Shell { csrf, tab: Tab::Ledger }, live, live_updates: which.before.is_none() })
}

async fn stream(State(app): State<App>, owner: Owner, headers: HeaderMap) -> Response {
    live::to_owner(app, headers, move |app| {
        let csrf = owner.session.csrf.clone();
        async move { vec![Push::content(live(&app, &csrf, None).await)] }
    })
}

async fn live(app: &App, csrf: &str, before: Option<u64>) -> String {
    let lines = app.egress.lines(before, ROWS).await;
    fragment(&Live::of(&app.egress.view(), lines, questions(app, csrf), csrf, db::now()))
}

async fn answer(State(app): State<App>, htmx: Htmx, sent: Sent<Answered>) -> Result<Response, Error> {
    let (allow, period) = match sent.form.answer.as_str() {
        "once" => (true, Period::Once),
        "hour" => (true, Period::Seconds(HOUR)),
        "always" => (true, Period::Always),
        "no" => (false, Period::Once),
        "never" => (false, Period::Always),
        other => return Err(Error::Refused(StatusCode::BAD_REQUEST, format!("{other:?} is no answer"))),
    };
    app.egress.answer(number(&sent.form.id)?, Answer { allow, period }).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn revoke(State(app): State<App>, htmx: Htmx, sent: Sent<Decision>) -> Result<Response, Error> {
    app.egress.revoke(number(&sent.form.decision)?).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn offline(State(app): State<App>, htmx: Htmx, sent: Sent<Switch>) -> Result<Response, Error> {
    let offline = match sent.form.offline.as_str() {
        "true" => true,
        "false" => false,
        other => return Err(Error::Refused(StatusCode::BAD_REQUEST, format!("{other:?} is neither true nor false"))),
    };
    app.egress.set_offline(offline).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn class(State(app): State<App>, htmx: Htmx, sent: Sent<NewMode>) -> Result<Response, Error> {
    let class = sent.form.class.parse().map_err(|error| Error::Refused(StatusCode::NOT_FOUND, error))?;
    let mode = sent.form.mode.ok_or_else(|| Error::Refused(StatusCode::BAD_REQUEST, "a mode is missing".into()))?;
    app.egress.set_mode(class, mode).await.map_err(refused)?;
    Ok(done(htmx, PATH))
}

async fn erase(State(app): State<App>, htmx: Htmx, sent: Sent<OneRow>) -> Result<Response, Error> {
    let row = number(&sent.form.row)?;
    app.egress.ledger().map_err(refused)?.erase(row).await.map_err(|error| refused(error.into()))?;
    Ok(done(htmx, PATH))
}

#[derive(Template)]
#[template(source = r#"<p class="notice" role="status">{{ text }}</p>"#, ext = "html")]
struct Notice<'a> {
    text: &'a str,
}

async fn verify(State(app): State<App>, htmx: Htmx, _sent: Sent<NoFields>) -> Result<Response, Error> {
    let report = app.egress.ledger().map_err(refused)?.verify().await;
    let text = match report.problem {
        Some(problem) => {
            return Err(Error::Refused(StatusCode::CONFLICT, format!("The ledger was changed: {problem}.")));
        }
        None => format!("{} rows, each as it was written. Head: {}", report.rows, report.head),
    };
    Ok(match htmx {
        Htmx(true) => (notices(), html(&Notice { text: &text })).into_response(),
        Htmx(false) => Redirect::to(PATH).into_response(),
    })
}

#[derive(Deserialize)]
struct NoFields {}

async fn export(State(app): State<App>, _owner: Owner) -> Result<Response, Error> {
    let lines = app.egress.ledger().map_err(refused)?.export();
    let headers = [
        (header::CONTENT_TYPE, "application/x-ndjson"),
        (header::CONTENT_DISPOSITION, "attachment; filename=\"egress.jsonl\""),
    ];
    Ok((headers, Body::from_stream(lines)).into_response())
}

fn number(text: &str) -> Result<u64, Error> {
    text.parse().map_err(|_| Error::Refused(StatusCode::BAD_REQUEST, format!("{text:?} is no number")))
}

fn refused(error: Refused) -> Error {
    let status = match error {
        Refused::NoQuestion(_) | Refused::NoDecision(_) => StatusCode::NOT_FOUND,
        // What the disk says is for the owner to read, too.
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    Error::Refused(status, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Egress, Initiator, Policy, Scope};

    #[test]
    fn the_page_is_honest_when_it_is_empty() {
        let config = crate::config::Config::default();
        let policy = Policy::new(&config).unwrap();
        let egress = Egress::shut(policy, "the ledger was changed");
        let lines = Ok(Lines { lines: Vec::new(), before: None });
        let html = fragment(&Live::of(&egress.view(), lines, String::new(), "token", 0));
        assert!(html.contains("id=\"empty\"") && html.contains("data-class=\"model_downloads\""), "{html}");
        // Without a ledger it says why nothing leaves.
        let broken = Err(egress.ledger().unwrap_err());
        let html = fragment(&Live::of(&egress.view(), broken, String::new(), "token", 0));
        assert!(html.contains("the ledger was changed"), "{html}");
    }

    #[test]
    fn what_is_told_of_a_row() {
        let line = Line {
            row: 3,
            at: 60_000,
            kind: "opened".into(),
            class: Some(egress::Class::Stack),
            initiator: Some(Initiator::Stack { stack: "s".into(), service: "<web>".into() }),
            host: Some("a.example:443".into()),
            address: Some("1.1.1.1".parse().unwrap()),
            basis: Some(Basis::Consent(2)),
            bytes_out: Some(10),
            bytes_in: Some(2 << 20),
            sent: None,
            text: false,
            live: false,
            what: "CONNECT".into(),
            how: "ended".into(),
        };
        let row = Row::of(line.clone(), 120);
        assert_eq!((row.when.as_str(), row.out.as_str(), row.come.as_str()), ("1 min ago", "10 B", "2 MiB"));
        assert_eq!((row.who.as_str(), row.basis.as_str()), ("Stacks · the stack s, service <web>", "decision 2"));
        let view = View { offline: true, classes: vec![], questions: vec![], consents: vec![], flows: vec![] };
        let lines = Ok(Lines { lines: vec![line], before: Some(3) });
        let html = fragment(&Live::of(&view, lines, String::new(), "token", 120));
        assert!(html.contains("Go online") && html.contains("/ledger?before=3") && !html.contains("<web>"), "{html}");
    }

    #[test]
    fn what_is_told_of_a_decision() {
        let scope = Scope {
            class: egress::Class::CloudData,
            host: "*.a.example".parse().unwrap(),
            port: Some(443),
            initiator: None,
        };
        let view = ConsentView { id: 1, given: 0, scope, allow: true, lasting: Lasting::Until(7_200_000) };
        let consent = Consent::of(&view, 3600);
        assert_eq!((consent.host.as_str(), consent.who.as_str()), ("*.a.example:443", "anybody"));
        assert_eq!(consent.until, "in 1 h");
    }
}
