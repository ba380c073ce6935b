//! What the gate looks like to people, for the page and the command line.

use super::consent::{Consent, Lasting, Question, Scope};
use super::desk::{Desk, Live, now};
use super::ledger;
use super::policy::Basis;
use super::wish::{Class, Initiator};
use crate::config::Mode;
use serde::{Deserialize, Serialize};
use std::sync::atomic::Ordering;

/// What is in force, what waits and what lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct View {
    /// Whether the switch is off.
    pub offline: bool,
    /// Every class.
    pub classes: Vec<ClassView>,
    /// What waits for the owner.
    pub questions: Vec<Question>,
    /// What the owner decided and still holds.
    pub consents: Vec<ConsentView>,
    /// Connections that live.
    pub flows: Vec<FlowView>,
}

/// A class.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClassView {
    /// Which.
    pub class: Class,
    /// What it is.
    pub mode: Mode,
    /// What the configuration says.
    pub configured: Mode,
    /// The only hosts that it may reach; none listed: any.
    pub hosts: Vec<String>,
}

/// A decision of the owner's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConsentView {
    /// The ledger's entry of it.
    pub id: u64,
    /// When it was made, in milliseconds since 1970.
    pub given: i64,
    /// What it is about.
    #[serde(flatten)]
    pub scope: Scope,
    /// Whether that may pass.
    pub allow: bool,
    /// How long.
    pub lasting: ledger::Lasting,
}

/// A connection that lives.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowView {
    /// The ledger's row; 0 before there is one.
    pub row: u64,
    /// What for.
    pub class: Class,
    /// Whose.
    pub initiator: Initiator,
    /// Where to.
    pub host: String,
    /// The port there.
    pub port: u16,
    /// Why it may.
    pub basis: Basis,
    /// Bytes that left so far.
    pub bytes_out: u64,
    /// Bytes that came so far.
    pub bytes_in: u64,
}

impl View {
    pub(super) fn of(desk: &Desk) -> Self {
        let now = now();
        let class = |class: Class| {
            let gate = desk.gates.get(&class);
            ClassView {
                class,
                mode: gate.map(|gate| gate.mode).unwrap_or_default(),
                configured: desk.configured(class),
                hosts: gate.map(|gate| gate.hosts.iter().map(ToString::to_string).collect()).unwrap_or_default(),
            }
        };
        let consents = desk.consents.iter().filter(|consent| consent.is_in_force(now));
        Self {
            offline: desk.offline,
            classes: Class::ALL.map(class).into(),
            questions: desk.questions().cloned().collect(),
            consents: consents.map(ConsentView::of).collect(),
            flows: desk.flows().map(FlowView::of).collect(),
        }
    }
}

impl ConsentView {
    fn of(consent: &Consent) -> Self {
        let lasting = match &consent.lasting {
            Lasting::Errands(_) => ledger::Lasting::Once,
            Lasting::Until(until) => ledger::Lasting::Until(*until),
            Lasting::Always => ledger::Lasting::Always,
        };
        Self { id: consent.id, given: consent.given, scope: consent.scope.clone(), allow: consent.allow, lasting }
    }
}

impl FlowView {
    fn of(live: &Live) -> Self {
        Self {
            row: live.cord.opened.load(Ordering::Relaxed),
            class: live.wish.class,
            initiator: live.wish.initiator.clone(),
            host: live.wish.host.clone(),
            port: live.wish.port,
            basis: live.basis,
            bytes_out: live.cord.bytes_out.load(Ordering::Relaxed),
            bytes_in: live.cord.bytes_in.load(Ordering::Relaxed),
        }
    }
}
