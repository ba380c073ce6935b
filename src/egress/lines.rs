//! The ledger as people read it: one line a connection, its opening and its closing row together.

use super::ledger::{self, Contact, Decision, Entry, Event, Lasting, Ledger, Row};
use super::policy::Basis;
use super::view::FlowView;
use super::wish::{Class, Initiator};
use serde::{Deserialize, Serialize};
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;

/// Some lines, and where those before them begin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// The latest first.
    pub lines: Vec<Line>,
    /// What to ask for to see what was before; nothing where that is all.
    pub before: Option<u64>,
}

/// A connection, a refusal or a decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// The row that it is, or that opened it.
    pub row: u64,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// What kind of row that is.
    pub kind: String,
    /// What for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Class>,
    /// Who wanted it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
    /// Where to, with the port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The address that was dialled.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// Why it might.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub basis: Option<Basis>,
    /// Bytes that left, so far where it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<u64>,
    /// Bytes that came, so far where it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<u64>,
    /// SHA-256 of the body that was sent, where it was one that we held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// Whether that body's text is still there.
    pub text: bool,
    /// Whether it lives.
    pub live: bool,
    /// What it is about, or what was decided.
    pub what: String,
    /// How it ended, or why it was refused.
    pub how: String,
}

/// Reads lines of the ledger; `flows` are the connections that live.
pub(super) async fn read(
    ledger: &Ledger,
    flows: &[FlowView],
    before: Option<u64>,
    limit: u32,
) -> Result<Page, ledger::Error> {
    let rows = ledger.rows(before, limit).await?;
    let next = rows.last().map(|row| row.seq).filter(|first| *first > 1);
    let entry = |row: &Row| row.entry().map_err(|source| ledger::Error::Row { seq: row.seq, source });
    let entries: Result<Vec<(u64, Entry)>, ledger::Error> = rows.iter().map(|row| Ok((row.seq, entry(row)?))).collect();
    let entries = entries?;
    let opened: Vec<u64> =
        entries.iter().filter(|(_, entry)| matches!(entry.event, Event::Opened { .. })).map(|(seq, _)| *seq).collect();
    let mut ends = HashMap::new();
    for row in ledger.closing(&opened).await? {
        if let Event::Closed { opened, bytes_out, bytes_in, how } = entry(&row)?.event {
            ends.insert(opened, (bytes_out, bytes_in, how));
        }
    }
    let texts: HashSet<u64> = ledger.with_text(&opened).await?.into_iter().collect();
    let led = |entry: &(u64, Entry)| match &entry.1.event {
        Event::Opened { looked_up, .. } => *looked_up,
        _ => None,
    };
    let led: HashSet<u64> = entries.iter().filter_map(led).collect();
    let lines = entries.into_iter().filter_map(|(seq, entry)| {
        if led.contains(&seq) {
            return None;
        }
        let live = flows.iter().find(|flow| flow.row == seq);
        Line::of(seq, entry, ends.remove(&seq), live, texts.contains(&seq))
    });
    Ok(Page { lines: lines.collect(), before: next })
}

impl Line {
    /// Nothing for rows that other lines tell of.
    fn of(
        row: u64,
        entry: Entry,
        end: Option<(u64, u64, String)>,
        live: Option<&FlowView>,
        text: bool,
    ) -> Option<Self> {
        let (kind, at) = (entry.event.kind().to_owned(), entry.at);
        let line = |what: String| Self {
            row,
            at,
            kind: kind.clone(),
            class: None,
            initiator: None,
            host: None,
            address: None,
            basis: None,
            bytes_out: None,
            bytes_in: None,
            sent: None,
            text,
            live: live.is_some(),
            what,
            how: String::new(),
        };
        let about = |contact: Contact| Self {
            class: Some(contact.class),
            initiator: Some(contact.initiator),
            host: Some(with_port(&contact.host, contact.port)),
            basis: contact.basis,
            ..line(contact.what)
        };
        Some(match entry.event {
            Event::Closed { .. } => return None,
            Event::LookedUp(contact) => {
                Self { how: "its address was asked for, and nothing else".into(), ..about(contact) }
            }
            Event::Refused { contact, reason } => Self { how: reason, ..about(contact) },
            Event::Opened { contact, address, sent, .. } => {
                let (bytes_out, bytes_in, how) = match (end, live) {
                    (Some((out, come, how)), _) => (Some(out), Some(come), how),
                    (None, Some(live)) => (Some(live.bytes_out), Some(live.bytes_in), "goes on".into()),
                    (None, None) => (None, None, "ended with the daemon, which could not count it".into()),
                };
                Self { address, sent, bytes_out, bytes_in, how, ..about(contact) }
            }
            Event::Allowed(decision) => decided("You allowed", decision, &line),
            Event::Denied(decision) => decided("You refused", decision, &line),
            Event::Revoked { decision } => line(format!("You took decision {decision} back")),
            Event::Offline => line("You took the house offline".into()),
            Event::Online => line("You let the house online".into()),
            Event::Set { class, mode, .. } => {
                Self { class: Some(class), ..line(format!("You turned {class} to {mode}")) }
            }
            Event::Erased { opened } => line(format!("You erased the text beside row {opened}")),
        })
    }
}

fn decided(verb: &str, decision: Decision, line: &impl Fn(String) -> Line) -> Line {
    let Decision { scope, lasting } = decision;
    let host = scope.port.map_or(scope.host.to_string(), |port| with_port(&scope.host.to_string(), port));
    let who = scope.initiator.as_ref().map(|who| format!(" to {who}")).unwrap_or_default();
    let long = match lasting {
        Lasting::Once => ", this once".into(),
        Lasting::Until(until) => match jiff::Timestamp::from_millisecond(until) {
            Ok(until) => format!(", until {}", until.strftime("%F %T UTC")),
            Err(_) => String::new(),
        },
        Lasting::Always => ", always".into(),
    };
    let what = format!("{verb} {} to {host}{who}{long}", scope.class);
    Line { class: Some(scope.class), initiator: scope.initiator, host: Some(host), ..line(what) }
}

/// A host and its port, as addresses are written.
fn with_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}
