//! From what was admitted to a connection: resolved, checked, written down, dialled.

use super::error::Error;
use super::flow::{Cord, Flow, Place, Record};
use super::gate::Egress;
use super::ledger::{self, Contact, Event};
use super::neighbours;
use super::policy::Basis;
use super::resolve::not_outside;
use super::wish::{Class, Wish};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;

/// A server that takes longer to answer is not there.
const CONNECT: Duration = Duration::from_secs(15);
/// Addresses of one name that are tried.
const ADDRESSES: usize = 4;

impl Egress {
    /// Resolves what was admitted, checks where that leads, and dials it.
    pub(super) async fn connect(&self, wish: &Wish, basis: Basis, place: Place) -> Result<Flow, Error> {
        let host = || wish.host.clone();
        let looked_up = match wish.address() {
            Some(_) => None,
            // The question to a name server leaves the house as well.
            None => Some(self.ledger()?.append(Event::LookedUp(contact(wish, Some(basis))), None).await?),
        };
        let addresses = match self.resolver().resolve(&wish.host, wish.port).await {
            Ok(addresses) => addresses,
            Err(source) => {
                self.desk().answered(&wish.host, false);
                return Err(Error::Resolve { host: host(), source });
            }
        };
        // What is listed as the house's own is the owner's to reach, not a container's.
        if wish.stranger || wish.class == Class::Stack || !self.is_lan(&wish.host) {
            // One that leads into the house is enough to distrust whoever says so.
            let networks = neighbours::networks();
            let on_cable = |address| networks.iter().any(|network| network.contains(address));
            let neighbour = |address| on_cable(address).then_some("an address of this machine's own network");
            for address in &addresses {
                if let Some(kind) = not_outside(address.ip()).or_else(|| neighbour(address.ip())) {
                    let refused = Error::NotOutside { host: host(), address: address.ip(), kind };
                    self.note_refusal(wish, refused.to_string());
                    return Err(refused);
                }
            }
        }
        let mut last = None;
        for address in addresses.into_iter().take(ADDRESSES) {
            let mut record = self.record(wish, basis, Some(address.ip()), looked_up, &place.cord).await?;
            let connected = tokio::time::timeout(CONNECT, TcpStream::connect(address)).await;
            let late = |_| std::io::Error::new(std::io::ErrorKind::TimedOut, "nothing answered for 15 s");
            match connected.map_err(late).flatten() {
                Ok(stream) => {
                    self.desk().answered(&wish.host, true);
                    // A failure only delays small packets.
                    let _ = stream.set_nodelay(true);
                    return Flow::new(stream, record, place).map_err(|source| Error::Connect {
                        host: host(),
                        address: address.ip(),
                        source,
                    });
                }
                Err(source) => {
                    record.how = Some(format!("no connection: {source}"));
                    last = Some(Error::Connect { host: host(), address: address.ip(), source });
                }
            }
        }
        self.desk().answered(&wish.host, false);
        let none = || std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
        Err(last.unwrap_or_else(|| Error::Resolve { host: host(), source: none() }))
    }

    /// Writes the row that opens a connection. It will be closed, also when whoever waits for this goes away.
    pub(super) async fn record(
        &self,
        wish: &Wish,
        basis: Basis,
        address: Option<IpAddr>,
        looked_up: Option<u64>,
        cord: &Arc<Cord>,
    ) -> Result<Record, Error> {
        let text = wish.sent.as_ref().and_then(|sent| sent.text.clone());
        let event = Event::Opened {
            contact: contact(wish, Some(basis)),
            address,
            looked_up,
            sent: wish.sent.as_ref().map(|sent| sent.sha256.clone()),
            text: text.is_some(),
        };
        let (ledger, cord) = (self.ledger()?.clone(), cord.clone());
        let written = tokio::spawn(async move {
            let opened = ledger.append(event, text).await?;
            Ok(Record::new(ledger, opened, cord))
        });
        written.await.map_err(|error| Error::Ledger(ledger::Error::Write(error.to_string())))?
    }
}

/// Whom a wish is about, and why it may pass, as the ledger has it.
pub(super) fn contact(wish: &Wish, basis: Option<Basis>) -> Contact {
    let Wish { class, initiator, host, port, what, .. } = wish;
    Contact { class: *class, initiator: initiator.clone(), host: host.clone(), port: *port, basis, what: what.clone() }
}
