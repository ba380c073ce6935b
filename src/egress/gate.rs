//! The one gate: what wants out is admitted here, dialled from here, and written down before it leaves.

use super::client::{Outside, Trust};
use super::consent::{Answer, Consent, Lasting, Period, Question, Scope};
use super::desk::{Desk, Wake, now};
use super::dial::contact;
use super::error::{Error, Refusal};
use super::flow::{Cord, Entrusted, Flow, Place};
use super::ledger::{self, Decision, Event, Ledger};
use super::lines::{self, Page};
use super::policy::{Basis, Policy, Reason, Verdict};
use super::resolve::Resolver;
use super::view::View;
use super::wish::{Class, Initiator, Wish};
use crate::config::{Config, Mode};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::watch;

/// A handle on the gate; cheap to clone.
#[derive(Debug, Clone)]
pub struct Egress(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    policy: Policy,
    resolver: Resolver,
    trust: Trust,
    /// Or why nothing can be written, and so nothing leaves.
    ledger: Result<Ledger, String>,
    desk: Mutex<Desk>,
    /// Counts changes, for those who watch.
    changes: watch::Sender<u64>,
}

/// What was admitted, and may be dialled as long as it would still be.
#[derive(Debug)]
pub struct Permit {
    wish: Wish,
}

impl Permit {
    /// What was admitted.
    pub fn wish(&self) -> &Wish {
        &self.wish
    }
}

impl Egress {
    /// The gate of a daemon: its configuration, and the ledger in its state folder. A ledger that was changed, or cannot be
    /// opened, lets the daemon start, and nothing out.
    ///
    /// # Errors
    /// When the configuration names a host that is none.
    pub async fn open(config: &Config) -> Result<Self, String> {
        let policy = Policy::new(config)?;
        Ok(match Ledger::open(config.state_dir()).await {
            Ok((ledger, decisions)) => Self::with(policy, Resolver::System, Trust::default(), Ok(ledger), &decisions),
            Err(error) => {
                tracing::error!(%error, "nothing leaves the house: its ledger cannot be trusted");
                Self::shut(policy, &error.to_string())
            }
        })
    }

    /// A gate whose ledger goes with the process.
    pub fn in_memory(policy: Policy, resolver: Resolver) -> Self {
        Self::with(policy, resolver, Trust::default(), Ok(Ledger::in_memory()), &[])
    }

    /// A gate of parts.
    pub(super) fn with(
        policy: Policy,
        resolver: Resolver,
        trust: Trust,
        ledger: Result<Ledger, String>,
        decisions: &[(u64, ledger::Entry)],
    ) -> Self {
        let desk = Mutex::new(Desk::new(&policy, decisions));
        Self(Arc::new(Inner { policy, resolver, trust, ledger, desk, changes: watch::Sender::new(0) }))
    }

    /// Whether a wish may pass: policy, the switch, hosts that did not answer lately, and the owner's consent, for which
    /// this waits where the class says ask.
    ///
    /// # Errors
    /// When it may not; says why, and what to do.
    pub async fn admit(&self, wish: Wish) -> Result<Permit, Refusal> {
        loop {
            let asked = {
                let mut desk = self.desk();
                match (&self.0.ledger, desk.decide(&wish)) {
                    (Err(error), _) => Err(Reason::Ledger(error.clone())),
                    (Ok(_), Verdict::Allow(_)) => return Ok(Permit { wish }),
                    (Ok(_), Verdict::Refuse(reason)) => Err(reason),
                    (Ok(_), Verdict::Ask) => desk.ask(&wish),
                }
            };
            let (waiter, woken) = match asked {
                Ok(asked) => asked,
                Err(reason) => return Err(self.refuse(&wish, reason)),
            };
            self.changed();
            let waiting = Waiting { egress: self, waiter };
            let patience = self.0.policy.question_timeout;
            let woken = tokio::time::timeout(patience, woken).await;
            drop(waiting);
            match woken {
                Ok(Ok(Wake::Declined)) => return Err(self.refuse(&wish, Reason::Declined)),
                Ok(_) => {}
                Err(_) => return Err(self.refuse(&wish, Reason::Unanswered(patience))),
            }
        }
    }

    /// Writes down that something wanted out that its own kind may not, whatever the policy says.
    pub fn turn_away(&self, wish: &Wish, reason: Reason) -> Refusal {
        self.refuse(wish, reason)
    }

    /// Dials what was admitted: resolves its name (only now), refuses addresses that are not of the outside, writes the
    /// opening row, and connects to exactly the address that was checked.
    ///
    /// # Errors
    /// When it may not pass any more, the name has no address outside, nothing answers, or the ledger cannot be written.
    pub async fn dial(&self, permit: Permit) -> Result<Flow, Error> {
        let wish = permit.wish;
        let turn = self.desk().turn(&wish.host);
        let _turn = turn.lock().await;
        let (place, basis) = self.begin(&wish)?;
        let cord = place.cord.clone();
        tokio::select! {
            cut = cord.pulled() => Err(Error::Cut { host: wish.host.clone(), cut }),
            flow = self.connect(&wish, basis, place) => flow,
        }
    }

    /// Opens a row for what somebody else will carry out for us.
    ///
    /// # Errors
    /// When it may not pass any more, or the ledger cannot be written.
    pub async fn entrust(&self, permit: Permit) -> Result<Entrusted, Error> {
        let (place, basis) = self.begin(&permit.wish)?;
        let record = self.record(&permit.wish, basis, None, None, &place.cord).await?;
        Ok(Entrusted::new(record, place))
    }

    /// An HTTP client for one errand: what it asks is admitted, dialled and written down request by request. `what` says
    /// in a few words what the errand is.
    pub fn outside(&self, class: Class, initiator: Initiator, what: impl Into<String>) -> Outside {
        Outside::new(self.clone(), class, initiator, what.into())
    }

    /// A gate without a ledger, through which nothing gets; `why` is told.
    pub fn shut(policy: Policy, why: &str) -> Self {
        Self::with(policy, Resolver::System, Trust::default(), Err(why.into()), &[])
    }

    /// Whom certificates are believed of.
    pub(super) fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// What resolves names.
    pub(super) fn resolver(&self) -> &Resolver {
        &self.0.resolver
    }

    /// Whether a host may have an address of the house.
    pub(super) fn is_lan(&self, host: &str) -> bool {
        self.0.policy.is_lan(host)
    }

    /// What is in force, what waits and what lives.
    pub fn view(&self) -> View {
        View::of(&self.desk())
    }

    /// What waits for the owner.
    pub fn questions(&self) -> Vec<Question> {
        self.desk().questions().cloned().collect()
    }

    /// Changes with everything that [`view`](Self::view) shows but the bytes of connections.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// The ledger as people read it: up to `limit` rows' worth of lines before row `before`, the latest first.
    ///
    /// # Errors
    /// When the ledger cannot be read.
    pub async fn lines(&self, before: Option<u64>, limit: u32) -> Result<Page, Error> {
        let flows = self.view().flows;
        Ok(lines::read(self.ledger()?, &flows, before, limit).await?)
    }

    /// The ledger.
    ///
    /// # Errors
    /// Why there is none.
    pub fn ledger(&self) -> Result<&Ledger, Error> {
        self.0.ledger.as_ref().map_err(|error| Error::Ledger(ledger::Error::Write(error.clone())))
    }

    /// Answers a question; those who wait for it go on at once. Returns the decision's number, where it is a lasting one.
    ///
    /// # Errors
    /// When there is no such question any more, or the ledger cannot be written.
    pub async fn answer(&self, question: u64, answer: Answer) -> Result<Option<u64>, Error> {
        let (scope, errands) = self.desk().question(question).ok_or(Error::NoQuestion(question))?;
        if !answer.allow && answer.period == Period::Once {
            self.desk().decline(question);
            self.changed();
            return Ok(None);
        }
        self.decided(scope, answer, errands).await.map(Some)
    }

    /// Decides something before anybody asks.
    ///
    /// # Errors
    /// When it is to hold only once, or the ledger cannot be written.
    pub async fn decide(&self, scope: Scope, answer: Answer) -> Result<u64, Error> {
        if answer.period == Period::Once {
            return Err(Error::Once);
        }
        self.decided(scope, answer, Vec::new()).await
    }

    /// Takes a decision back. Connections that it alone allowed are cut.
    ///
    /// # Errors
    /// When there is no such decision in force, or the ledger cannot be written: it is taken back all the same.
    pub async fn revoke(&self, decision: u64) -> Result<(), Error> {
        {
            let mut desk = self.desk();
            let before = desk.consents.len();
            desk.consents.retain(|consent| consent.id != decision);
            if desk.consents.len() == before {
                return Err(Error::NoDecision(decision));
            }
            desk.review();
        }
        self.write(Event::Revoked { decision }).await.map(drop)
    }

    /// Turns the switch. Going offline cuts every connection.
    ///
    /// # Errors
    /// When the ledger cannot be written: going offline has happened then all the same, going online has not.
    pub async fn set_offline(&self, offline: bool) -> Result<(), Error> {
        if !offline {
            self.write(Event::Online).await?;
        }
        {
            let mut desk = self.desk();
            desk.offline = offline;
            desk.review();
        }
        if offline {
            self.write(Event::Offline).await?;
        }
        self.changed();
        Ok(())
    }

    /// Changes a class, until the configuration says something else than it says now.
    ///
    /// # Errors
    /// When the ledger cannot be written; then nothing was changed.
    pub async fn set_mode(&self, class: Class, mode: Mode) -> Result<(), Error> {
        let instead_of = self.desk().configured(class);
        self.write(Event::Set { class, mode, instead_of }).await?;
        {
            let mut desk = self.desk();
            desk.set(class, mode, instead_of);
            desk.review();
        }
        self.changed();
        Ok(())
    }

    /// Cuts what lives and closes the ledger.
    pub async fn close(&self) {
        if let Ok(ledger) = &self.0.ledger {
            ledger.close().await;
        }
    }

    async fn decided(&self, scope: Scope, answer: Answer, errands: Vec<std::sync::Weak<()>>) -> Result<u64, Error> {
        let given = now();
        let (lasting, written) = match answer.period {
            Period::Once => (Lasting::Errands(errands), ledger::Lasting::Once),
            Period::Seconds(seconds) => {
                let until = given + i64::from(seconds) * 1000;
                (Lasting::Until(until), ledger::Lasting::Until(until))
            }
            Period::Always => (Lasting::Always, ledger::Lasting::Always),
        };
        let decision = Decision { scope: scope.clone(), lasting: written };
        let event = if answer.allow { Event::Allowed(decision) } else { Event::Denied(decision) };
        let id = self.write(event).await?;
        {
            let mut desk = self.desk();
            desk.decided(Consent { id, given, scope, allow: answer.allow, lasting });
            desk.review();
        }
        self.changed();
        Ok(id)
    }

    async fn write(&self, event: Event) -> Result<u64, Error> {
        let written = self.ledger()?.append(event, None).await;
        self.changed();
        Ok(written?)
    }

    /// Decides again, now that it is dialled, and gives the connection its place: what is decided otherwise from here on
    /// finds it there and cuts it.
    fn begin(&self, wish: &Wish) -> Result<(Place, Basis), Error> {
        let mut desk = self.desk();
        let reason = match (&self.0.ledger, desk.decide(wish)) {
            (Ok(_), Verdict::Allow(basis)) => {
                let cord = Arc::<Cord>::default();
                let id = desk.begin(wish.clone(), basis, cord.clone());
                let until = desk.consents.iter().find(|consent| basis == Basis::Consent(consent.id));
                if let Some(Consent { lasting: Lasting::Until(until), .. }) = until {
                    self.review_at(*until, cord.clone());
                }
                drop(desk);
                self.changed();
                return Ok((Place { egress: self.clone(), id, cord }, basis));
            }
            (Ok(_), Verdict::Ask) => Reason::Declined,
            (Ok(_), Verdict::Refuse(reason)) => reason,
            (Err(error), _) => Reason::Ledger(error.clone()),
        };
        drop(desk);
        Err(Error::Refused(self.refuse(wish, reason)))
    }

    /// Looks at the connections again when a consent is over.
    fn review_at(&self, until: i64, cord: Arc<Cord>) {
        let (inner, cord) = (Arc::downgrade(&self.0), Arc::downgrade(&cord));
        let left = Duration::from_millis(u64::try_from(until - now()).unwrap_or(0) + 1);
        tokio::spawn(async move {
            tokio::time::sleep(left).await;
            if let (Some(inner), Some(_)) = (inner.upgrade(), cord.upgrade()) {
                inner.desk.lock().unwrap_or_else(PoisonError::into_inner).review();
            }
        });
    }

    fn refuse(&self, wish: &Wish, reason: Reason) -> Refusal {
        if self.desk().is_news(wish, &reason) {
            self.note_refusal(wish, reason.to_string());
        }
        self.changed();
        Refusal { host: wish.host.clone(), reason }
    }

    pub(super) fn note_refusal(&self, wish: &Wish, reason: String) {
        if let Ok(ledger) = &self.0.ledger {
            ledger.note(Event::Refused { contact: contact(wish, None), reason });
        }
    }

    /// Frees a connection's place.
    pub(super) fn ended(&self, id: u64) {
        self.desk().end(id);
        self.changed();
    }

    fn changed(&self) {
        self.0.changes.send_modify(|changes| *changes += 1);
    }

    pub(super) fn desk(&self) -> MutexGuard<'_, Desk> {
        self.0.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody's place at a question; dropping it leaves.
struct Waiting<'a> {
    egress: &'a Egress,
    waiter: u64,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.egress.desk().left(self.waiter);
        self.egress.changed();
    }
}
