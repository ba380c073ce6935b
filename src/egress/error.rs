use super::flow::Cut;
use super::ledger;
use super::policy::Reason;
use std::io;
use std::net::IpAddr;

/// Something may not leave the house.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{host} may not be reached for {what}: {reason}")]
pub struct Refusal {
    /// Where it wanted to.
    pub host: String,
    /// What it was about.
    pub what: String,
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
