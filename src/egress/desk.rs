//! What is in force at this moment: the switch, the gates, the owner's decisions, the questions that wait, the
//! connections that live and the hosts that did not answer. Changed under one lock, never across a wait.

use super::consent::{Consent, Lasting, Question, Scope};
use super::flow::{Cord, Cut};
use super::ledger::{self, Entry, Event};
use super::policy::{Basis, Gate, Policy, Reason, Standing, Verdict, decide};
use super::wish::{Class, Wish};
use crate::config::Mode;
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Weak};
use std::time::Duration;
use tokio::sync::{Mutex, oneshot};
use tokio::time::Instant;

/// Questions that may wait at a time, and connections that may wait for one of them.
const QUESTIONS: usize = 32;
const WAITING: usize = 256;
/// Of a long text, what a question shows.
const SHOWN: usize = 4096;
/// Tables of hosts and refusals are swept beyond that.
const REMEMBERED: usize = 1024;

/// See the module.
#[derive(Debug)]
pub(super) struct Desk {
    pub(super) offline: bool,
    /// The classes as the configuration has them, and as they are.
    configured: BTreeMap<Class, Mode>,
    pub(super) gates: BTreeMap<Class, Gate>,
    pub(super) consents: Vec<Consent>,
    asked: Vec<Asked>,
    flows: BTreeMap<u64, Live>,
    /// When hosts were last asked that did not answer.
    silent: HashMap<String, Instant>,
    /// Who may ask a host now: one at a time.
    turns: HashMap<String, Weak<Mutex<()>>>,
    /// When refusals were last written down.
    refused: HashMap<String, Instant>,
    quiet: Duration,
    next: u64,
}

#[derive(Debug)]
struct Asked {
    question: Question,
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    wish: Wish,
    wake: oneshot::Sender<Wake>,
}

/// What somebody who waits for a decision is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    /// Something changed: ask again.
    Again,
    /// The owner said no, this once.
    Declined,
}

/// A connection that lives.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) wish: Wish,
    pub(super) basis: Basis,
    pub(super) cord: Arc<Cord>,
}

impl Desk {
    /// As the configuration and the owner's decisions so far have it.
    pub(super) fn new(policy: &Policy, decisions: &[(u64, Entry)]) -> Self {
        let configured = policy.gates.iter().map(|(class, gate)| (*class, gate.mode)).collect();
        let mut desk = Self {
            offline: false,
            configured,
            gates: policy.gates.clone(),
            consents: Vec::new(),
            asked: Vec::new(),
            flows: BTreeMap::new(),
            silent: HashMap::new(),
            turns: HashMap::new(),
            refused: HashMap::new(),
            quiet: policy.quiet,
            next: 1,
        };
        for (seq, entry) in decisions {
            desk.recall(*seq, entry);
        }
        desk
    }

    /// Takes in a decision that was made before this daemon began.
    fn recall(&mut self, seq: u64, entry: &Entry) {
        let mut decided = |decision: &ledger::Decision, allow| {
            let lasting = match decision.lasting {
                ledger::Lasting::Once => return,
                ledger::Lasting::Until(until) => Lasting::Until(until),
                ledger::Lasting::Always => Lasting::Always,
            };
            self.decided(Consent { id: seq, given: entry.at, scope: decision.scope.clone(), allow, lasting });
        };
        match &entry.event {
            Event::Allowed(decision) => decided(decision, true),
            Event::Denied(decision) => decided(decision, false),
            Event::Revoked { decision } => self.consents.retain(|consent| consent.id != *decision),
            Event::Offline => self.offline = true,
            Event::Online => self.offline = false,
            Event::Set { class, mode, instead_of } => self.set(*class, *mode, *instead_of),
            _ => {}
        }
    }

    /// A decision takes the place of an earlier one about the same.
    pub(super) fn decided(&mut self, consent: Consent) {
        let lasts = |consent: &Consent| !matches!(consent.lasting, Lasting::Errands(_));
        if lasts(&consent) {
            self.consents.retain(|old| old.scope != consent.scope || !lasts(old));
        }
        self.consents.push(consent);
    }

    /// Changes a class, as long as the configuration says what it said when that was decided.
    pub(super) fn set(&mut self, class: Class, mode: Mode, instead_of: Mode) {
        let configured = self.configured(class);
        if let Some(gate) = self.gates.get_mut(&class) {
            gate.mode = if configured == instead_of { mode } else { configured };
        }
    }

    /// What the configuration says of a class.
    pub(super) fn configured(&self, class: Class) -> Mode {
        self.configured.get(&class).copied().unwrap_or_default()
    }

    /// Whether a wish may pass now.
    pub(super) fn decide(&self, wish: &Wish) -> Verdict {
        let since = self.silent.get(&wish.host).map(Instant::elapsed);
        self.judge(wish, since.and_then(|since| self.quiet.checked_sub(since)).filter(|left| !left.is_zero()))
    }

    fn judge(&self, wish: &Wish, quiet: Option<Duration>) -> Verdict {
        match self.gates.get(&wish.class) {
            Some(gate) => {
                let (offline, consents, now) = (self.offline, &self.consents[..], now());
                decide(Standing { offline, gate, consents, quiet, now }, wish)
            }
            None => Verdict::Refuse(Reason::Off(wish.class)),
        }
    }

    /// Lets a wish wait for the owner. Who wants the same of the same host waits for the same answer.
    pub(super) fn ask(&mut self, wish: &Wish) -> Result<(u64, oneshot::Receiver<Wake>), Reason> {
        let id = self.number();
        let (wake, woken) = oneshot::channel();
        let waiter = Waiter { id, wish: wish.clone(), wake };
        let same = |asked: &&mut Asked| {
            let Question { class, initiator, host, port, .. } = &asked.question;
            (class, initiator, host, port) == (&wish.class, &wish.initiator, &wish.host, &wish.port)
        };
        if let Some(asked) = self.asked.iter_mut().find(same) {
            if asked.waiting.len() >= WAITING {
                return Err(Reason::Crowded);
            }
            asked.waiting.push(waiter);
            asked.question.waiting = asked.waiting.len();
            return Ok((id, woken));
        }
        if self.asked.len() >= QUESTIONS {
            return Err(Reason::Crowded);
        }
        let text = wish.sent.as_ref().and_then(|sent| sent.text.as_ref());
        let question = Question {
            id,
            class: wish.class,
            initiator: wish.initiator.clone(),
            host: wish.host.clone(),
            port: wish.port,
            what: wish.what.clone(),
            bytes: wish.sent.as_ref().map(|sent| sent.bytes),
            text: text.map(|text| text.chars().take(SHOWN).collect()),
            waiting: 1,
            since: now(),
        };
        self.asked.push(Asked { question, waiting: vec![waiter] });
        Ok((id, woken))
    }

    /// Forgets somebody who waits no longer, and the question with the last one.
    pub(super) fn left(&mut self, waiter: u64) {
        for asked in &mut self.asked {
            asked.waiting.retain(|waiting| waiting.id != waiter);
            asked.question.waiting = asked.waiting.len();
        }
        self.asked.retain(|asked| !asked.waiting.is_empty());
    }

    /// What waits for the owner.
    pub(super) fn questions(&self) -> impl Iterator<Item = &Question> {
        self.asked.iter().map(|asked| &asked.question)
    }

    /// What a question is about, and the errands that wait for it.
    pub(super) fn question(&self, id: u64) -> Option<(Scope, Vec<Weak<()>>)> {
        let asked = self.asked.iter().find(|asked| asked.question.id == id)?;
        let Question { class, initiator, host, port, .. } = &asked.question;
        let scope =
            Scope { class: *class, host: host.parse().ok()?, port: Some(*port), initiator: Some(initiator.clone()) };
        Some((scope, asked.waiting.iter().map(|waiter| waiter.wish.errand.downgrade()).collect()))
    }

    /// The owner says no to a question, this once.
    pub(super) fn decline(&mut self, id: u64) {
        if let Some(at) = self.asked.iter().position(|asked| asked.question.id == id) {
            for waiter in self.asked.remove(at).waiting {
                // Whoever waited may have gone.
                let _ = waiter.wake.send(Wake::Declined);
            }
        }
    }

    /// Registers a connection that begins.
    pub(super) fn begin(&mut self, wish: Wish, basis: Basis, cord: Arc<Cord>) -> u64 {
        let id = self.number();
        self.flows.insert(id, Live { wish, basis, cord });
        id
    }

    /// Forgets a connection that ended.
    pub(super) fn end(&mut self, id: u64) {
        self.flows.remove(&id);
        let now = now();
        self.consents.retain(|consent| consent.is_in_force(now));
    }

    /// The connections that live.
    pub(super) fn flows(&self) -> impl Iterator<Item = &Live> {
        self.flows.values()
    }

    /// After something changed: a connection lives only as long as its wish would be allowed, and who waits for an answer
    /// that is known now asks again.
    pub(super) fn review(&mut self) {
        let now = now();
        self.consents.retain(|consent| consent.is_in_force(now));
        for live in self.flows.values() {
            let why = match self.judge(&live.wish, None) {
                Verdict::Allow(_) => continue,
                Verdict::Ask => Cut::Revoked,
                Verdict::Refuse(Reason::Offline) => Cut::Offline,
                Verdict::Refuse(_) => Cut::Forbidden,
            };
            live.cord.pull(why);
        }
        let mut asked = std::mem::take(&mut self.asked);
        for one in &mut asked {
            let (stay, go) =
                one.waiting.drain(..).partition(|waiter: &Waiter| self.judge(&waiter.wish, None) == Verdict::Ask);
            one.waiting = stay;
            one.question.waiting = one.waiting.len();
            for waiter in go {
                let _ = waiter.wake.send(Wake::Again);
            }
        }
        asked.retain(|one| !one.waiting.is_empty());
        self.asked = asked;
    }

    /// The turn at a host: whoever holds it dials, the others wait and see how that ends.
    pub(super) fn turn(&mut self, host: &str) -> Arc<Mutex<()>> {
        if let Some(turn) = self.turns.get(host).and_then(Weak::upgrade) {
            return turn;
        }
        if self.turns.len() > REMEMBERED {
            self.turns.retain(|_, turn| turn.strong_count() > 0);
        }
        let turn = Arc::default();
        self.turns.insert(host.into(), Arc::downgrade(&turn));
        turn
    }

    /// Notes whether a host answered. One that did not is left alone for a while.
    pub(super) fn answered(&mut self, host: &str, answered: bool) {
        if answered {
            self.silent.remove(host);
            return;
        }
        sweep(&mut self.silent, self.quiet);
        self.silent.insert(host.into(), Instant::now());
    }

    /// Whether a refusal is worth a row: the same one is written once a minute.
    pub(super) fn is_news(&mut self, wish: &Wish, reason: &Reason) -> bool {
        let reason = std::mem::discriminant(reason);
        let Wish { class, initiator, host, port, .. } = wish;
        let key = format!("{class} {initiator} {host} {port} {reason:?}");
        let minute = Duration::from_secs(60);
        if self.refused.get(&key).is_some_and(|last| last.elapsed() < minute) {
            return false;
        }
        sweep(&mut self.refused, minute);
        self.refused.insert(key, Instant::now());
        true
    }

    fn number(&mut self) -> u64 {
        let number = self.next;
        self.next += 1;
        number
    }
}

/// Keeps a table of moments small.
fn sweep(table: &mut HashMap<String, Instant>, lasting: Duration) {
    if table.len() >= REMEMBERED {
        table.retain(|_, at| at.elapsed() < lasting);
    }
    if table.len() >= REMEMBERED {
        table.clear();
    }
}

/// Milliseconds since 1970.
pub(super) fn now() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
