use super::event::InstanceId;
use super::task::Message;
use crate::runtime::{Attribution, Reserved};
use tokio::sync::mpsc;

/// Room on cards, until it is dropped: whoever holds it drops it when what sat there has gone.
#[derive(Debug)]
pub struct Seat {
    pub(super) cards: Vec<String>,
    pub(super) reserved: Reserved,
    pub(super) instance: InstanceId,
    pub(super) messages: mpsc::UnboundedSender<Message>,
}

impl Seat {
    /// The cards, by UUID.
    pub fn cards(&self) -> &[String] {
        &self.cards
    }

    /// This container sits there from now on: what it takes of the cards is measured against what it may.
    pub fn occupied(&self, container: &str) {
        let who = Attribution::Container(container.to_owned());
        // Without its task there is nobody who measures.
        let _ = self.messages.send(Message::Attributed { instance: self.instance, who });
    }

    /// Returns when placement wants it to end: it holds more than it may, or its card is lost, or the daemon stops.
    pub async fn asked(&self) {
        self.reserved.asked().await;
    }

    /// Returns when it has not ended in time, and is to be ended by force.
    pub async fn killed(&self) {
        self.reserved.killed().await;
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        // Its end gives the room back. Were the lease given back before, somebody else could be given this seat.
        self.reserved.left();
    }
}
