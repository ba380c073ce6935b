use super::flow::Cut;
use super::ledger;
use super::policy::{QUIET, Reason};
use std::io;
use std::net::IpAddr;
use std::time::Duration;

/// Something may not leave the house.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} may not be reached: {reason}")]
pub struct Refusal {
    /// Where it wanted to.
    pub host: String,
    /// Why not.
    pub reason: Reason,
}

/// Why something did not leave the house, or did not come back.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It may not.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The name has no address, or no name server answers.
    #[error("the address of {host} cannot be found: {source}; is the house connected?")]
    Resolve {
        /// The name.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The name leads into the house.
    #[error("{host} leads to {address}, {kind}: refused; if it is a host of your own, list it under egress.lan")]
    NotOutside {
        /// The name.
        host: String,
        /// Where it leads.
        address: IpAddr,
        /// What that is.
        kind: &'static str,
    },
    /// Nothing answers.
    #[error("{host} ({address}) does not answer: {source}")]
    Connect {
        /// The host.
        host: String,
        /// The address that was dialled.
        address: IpAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The owner ended it.
    #[error("the connection to {host} was {cut}")]
    Cut {
        /// The host.
        host: String,
        /// Why.
        cut: Cut,
    },
    /// Its certificate is not its own, or it does not speak TLS.
    #[error("no encrypted connection to {host}: {source}")]
    Tls {
        /// The host.
        host: String,
        /// What TLS said.
        source: io::Error,
    },
    /// Nobody's certificate could be checked.
    #[error("the system's CA certificates cannot be read: {0}; are they installed (ca-certificates)?")]
    Certificates(String),
    /// The connection broke, or the other side does not keep to HTTP.
    #[error("{host}: {problem}")]
    Http {
        /// The host.
        host: String,
        /// What happened.
        problem: String,
    },
    /// A redirect, an address or a header that cannot be followed or sent.
    #[error("{host}: {problem}")]
    Request {
        /// The host.
        host: String,
        /// What is wrong.
        problem: String,
    },
    /// Nothing came for too long.
    #[error("{host} has sent nothing for {} s", patience.as_secs())]
    Late {
        /// The host.
        host: String,
        /// How long it was waited for.
        patience: Duration,
    },
    /// Nothing can be written down, so nothing leaves.
    #[error(transparent)]
    Ledger(#[from] ledger::Error),
    /// It was answered, or whoever asked went away.
    #[error("there is no question {0} any more")]
    NoQuestion(u64),
    /// It was revoked, or its time is over.
    #[error("there is no decision {0} in force")]
    NoDecision(u64),
    /// Only a question can be answered once.
    #[error("what nobody asks cannot be decided once: give a time, or always")]
    Once,
}

impl Error {
    /// Whether the same request may succeed a moment later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Http { .. } | Self::Late { .. } => true,
            // What is wrong with a certificate stays wrong; what broke may not break again.
            Self::Tls { source, .. } => source.kind() != io::ErrorKind::InvalidData,
            _ => false,
        }
    }

    /// How long to leave the host alone, where it did not answer.
    pub fn silence(&self) -> Option<Duration> {
        match self {
            Self::Resolve { .. } | Self::Connect { .. } => Some(QUIET),
            Self::Refused(Refusal { reason: Reason::Quiet(left), .. }) => Some(*left),
            _ => None,
        }
    }
}
