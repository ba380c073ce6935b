//! What the owner decided, and what waits for a decision.

use super::policy::Pattern;
use super::wish::{Class, Initiator, Wish};
use serde::{Deserialize, Serialize};
use std::sync::Weak;

/// A decision of the owner's: something may pass, or may not.
#[derive(Debug, Clone)]
pub struct Consent {
    /// The ledger's entry of it.
    pub id: u64,
    /// When it was given, in milliseconds since 1970.
    pub given: i64,
    /// What it is about.
    pub scope: Scope,
    /// Whether that may pass.
    pub allow: bool,
    /// How long.
    pub lasting: Lasting,
}

/// What a decision is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Scope {
    /// The class.
    pub class: Class,
    /// The hosts.
    pub host: Pattern,
    /// The port; none named: every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Who may; nobody named: everybody.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub initiator: Option<Initiator>,
}

/// How long a decision holds.
#[derive(Debug, Clone)]
pub enum Lasting {
    /// Until these errands are over.
    Errands(Vec<Weak<()>>),
    /// Until then, in milliseconds since 1970.
    Until(i64),
    /// Until it is revoked.
    Always,
}

impl Consent {
    /// Whether it says something about a wish at a time.
    pub fn covers(&self, wish: &Wish, now: i64) -> bool {
        let Scope { class, host, port, initiator } = &self.scope;
        *class == wish.class
            && host.matches(&wish.host)
            && port.is_none_or(|port| port == wish.port)
            && initiator.as_ref().is_none_or(|initiator| *initiator == wish.initiator)
            && match &self.lasting {
                Lasting::Errands(errands) => errands.iter().any(|errand| wish.errand.is(errand)),
                Lasting::Until(until) => now < *until,
                Lasting::Always => true,
            }
    }

    /// Whether it may still say something.
    pub fn is_in_force(&self, now: i64) -> bool {
        match &self.lasting {
            Lasting::Errands(errands) => errands.iter().any(|errand| errand.strong_count() > 0),
            Lasting::Until(until) => now < *until,
            Lasting::Always => true,
        }
    }
}

/// The owner's answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// Whether it may pass.
    pub allow: bool,
    /// How long that holds.
    #[serde(default)]
    pub period: Period,
}

/// How long an answer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// For what was asked about, and no longer.
    #[default]
    Once,
    /// For so many seconds.
    Seconds(u32),
    /// Until it is revoked.
    Always,
}

/// What waits for the owner's decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Names it, as long as the daemon runs.
    pub id: u64,
    /// What for.
    pub class: Class,
    /// Who wants it.
    pub initiator: Initiator,
    /// Where to.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// What it is about.
    pub what: String,
    /// Bytes of the body that would be sent, where that is known.
    pub bytes: Option<u64>,
    /// The body that would be sent, where it is text; its beginning, where it is long.
    pub text: Option<String>,
    /// Connections that wait for the answer.
    pub waiting: usize,
    /// When it was first asked, in milliseconds since 1970.
    pub since: i64,
}

impl Question {
    /// Whether an errand of the owner's asks it, which was begun with these words.
    pub fn is_about(&self, class: Class, errand: &str) -> bool {
        self.class == class
            && self.initiator == Initiator::Owner
            && self.what.strip_suffix(errand).is_some_and(|request| request.ends_with(" for "))
    }
}
