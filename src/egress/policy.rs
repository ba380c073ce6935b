//! What may leave, decided purely: from the classes' gates, the switch, the owner's consents and who did not answer lately.

use super::consent::Consent;
use super::wish::{Class, Wish, normal};
use crate::config::{self, Config, Mode};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A host, or with `*.` before it every host below a domain, or `*`: any.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern(String);

impl Pattern {
    /// Whether it means `host`, which is in its normal spelling.
    pub fn matches(&self, host: &str) -> bool {
        match self.0.strip_prefix('*') {
            Some("") => true,
            Some(below) => host.len() > below.len() && host.ends_with(below),
            None => self.0 == host,
        }
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("*.") {
            Some(domain) => Ok(Self(format!("*.{}", normal(domain)?))),
            None if text == "*" => Ok(Self("*".into())),
            None => normal(text).map(Self),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A class's gate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Gate {
    /// Whether it may be passed.
    pub mode: Mode,
    /// The only hosts that lie behind it; none listed: any.
    pub hosts: Vec<Pattern>,
}

/// What the configuration says.
#[derive(Debug, Clone)]
pub struct Policy {
    /// The classes.
    pub gates: BTreeMap<Class, Gate>,
    /// Hosts of the house that may be reached like those outside.
    pub lan: Vec<Pattern>,
    /// How long a question waits for its answer.
    pub question_timeout: Duration,
    /// How long a host that did not answer is left alone.
    pub quiet: Duration,
}

/// Package indexes whose files lie on another host.
const FILES_OF: [(&str, &str); 1] = [("pypi.org", "files.pythonhosted.org")];

/// One attempt a minute and host.
pub(super) const QUIET: Duration = Duration::from_secs(60);

impl Policy {
    /// As the configuration has it. The hosts that it names as the models' sources are the owner's choice, wherever they are.
    ///
    /// # Errors
    /// When a host is none; names the key.
    pub fn new(config: &Config) -> Result<Self, String> {
        let egress = &config.egress;
        let gate = |class: Class, gate: &config::Gate| {
            let hosts: Result<_, String> = gate.hosts.iter().map(|host| host.parse()).collect();
            let hosts = hosts.map_err(|error| format!("egress.{class}.hosts: {error}"))?;
            Ok::<_, String>((class, Gate { mode: gate.mode, hosts }))
        };
        let gates = [
            gate(Class::ModelDownload, &egress.model_downloads)?,
            gate(Class::ImagePull, &egress.image_pulls)?,
            gate(Class::UpdateCheck, &egress.update_checks)?,
            gate(Class::CloudControl, &egress.cloud_control)?,
            gate(Class::CloudData, &egress.cloud_data)?,
            gate(Class::UrlFetch, &egress.url_fetches)?,
            gate(Class::Stack, &egress.stacks)?,
        ];
        let lan: Result<Vec<Pattern>, String> = egress.lan.iter().map(|host| host.parse()).collect();
        let mut lan = lan.map_err(|error| format!("egress.lan: {error}"))?;
        let sources = [Some(&config.models.huggingface), config.models.python_index.as_ref()];
        let hosts = sources.into_iter().flatten().filter_map(|source| source.parse::<super::Url>().ok());
        for host in hosts.filter_map(|url| url.host_str().map(str::to_owned)) {
            // Whoever names an index names where its files lie.
            let files = FILES_OF.iter().find(|(index, _)| *index == host).map(|(_, files)| (*files).to_owned());
            lan.extend([Some(host), files].into_iter().flatten().filter_map(|host| host.parse().ok()));
        }
        let question_timeout = egress.question_timeout.duration();
        Ok(Self { gates: gates.into(), lan, question_timeout, quiet: QUIET })
    }

    /// Whether a host may have an address of the house.
    pub fn is_lan(&self, host: &str) -> bool {
        self.lan.iter().any(|pattern| pattern.matches(host))
    }
}

/// What a wish meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It may pass.
    Allow(Basis),
    /// The owner decides.
    Ask,
    /// It may not.
    Refuse(Reason),
}

/// Why something may pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Basis {
    /// Its class is on.
    Policy,
    /// The owner said so: the ledger's entry of it.
    Consent(u64),
}

/// Why something may not pass.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Reason {
    /// The switch.
    #[error("the house is offline; `sovereign online` or the Ledger page changes that")]
    Offline,
    /// The class.
    #[error("{0} are off; set egress.{0} to `ask` or `on` in the configuration, or change it on the Ledger page")]
    Off(Class),
    /// The class's list.
    #[error("egress.{0}.hosts in the configuration does not list it")]
    NotListed(Class),
    /// The stack's own list.
    #[error(
        "the file of the stack {stack} does not list it; `x-sovereign: {{egress: [\"{host}:{port}\"]}}` there would"
    )]
    NotOfStack {
        /// The stack.
        stack: String,
        /// The host.
        host: String,
        /// The port there.
        port: u16,
    },
    /// The owner said no for a time or for good.
    #[error("you refused it (entry {0} of the ledger); `sovereign egress revoke {0}` takes that back")]
    Denied(u64),
    /// It did not answer a moment ago.
    #[error("it did not answer a moment ago, and is asked again in {} s", .0.as_secs().max(1))]
    Quiet(Duration),
    /// The owner said no, this once.
    #[error("you refused it")]
    Declined,
    /// Nobody said anything.
    #[error("nobody answered for {} s whether it may; ask again and answer on the dashboard's Ledger page or with `sovereign egress ask`", .0.as_secs())]
    Unanswered(Duration),
    /// Too many questions wait.
    #[error("too many questions wait for you already; answer them on the Ledger page or with `sovereign egress ask`")]
    Crowded,
    /// Nothing can be written down, so nothing leaves.
    #[error("the ledger cannot be written: {0}")]
    Ledger(String),
}

/// What is in force now.
#[derive(Debug, Clone, Copy)]
pub struct Standing<'a> {
    /// Whether the switch is off.
    pub offline: bool,
    /// The wish's gate.
    pub gate: &'a Gate,
    /// What the owner decided.
    pub consents: &'a [Consent],
    /// How long the host is still to be left alone.
    pub quiet: Option<Duration>,
    /// Milliseconds since 1970.
    pub now: i64,
}

/// Whether a wish may pass. A refusal of the owner's goes before everything that allows.
pub fn decide(standing: Standing<'_>, wish: &Wish) -> Verdict {
    let Standing { offline, gate, consents, quiet, now } = standing;
    if offline {
        return Verdict::Refuse(Reason::Offline);
    }
    if gate.mode == Mode::Off {
        return Verdict::Refuse(Reason::Off(wish.class));
    }
    if !gate.hosts.is_empty() && !gate.hosts.iter().any(|pattern| pattern.matches(&wish.host)) {
        return Verdict::Refuse(Reason::NotListed(wish.class));
    }
    let find = |allow: bool| consents.iter().find(|consent| consent.allow == allow && consent.covers(wish, now));
    if let Some(denial) = find(false) {
        return Verdict::Refuse(Reason::Denied(denial.id));
    }
    if let Some(left) = quiet {
        return Verdict::Refuse(Reason::Quiet(left));
    }
    match (gate.mode, find(true)) {
        (Mode::On, _) => Verdict::Allow(Basis::Policy),
        (_, Some(consent)) => Verdict::Allow(Basis::Consent(consent.id)),
        (_, None) => Verdict::Ask,
    }
}

#[cfg(test)]
mod tests;
