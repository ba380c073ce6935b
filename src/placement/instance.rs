//! The life of one instance, from its start to its end.

use super::event::{Event, InstanceId};
use super::task::Message;
use crate::runtime::{Exit, Grant, Parked, Rung, Running, StartError, Tenant};
use std::future::Future;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// A start that takes longer hangs: the largest file that fits a NAS's memory is read in less.
const START_WITHIN: Duration = Duration::from_secs(330);

/// What an instance is told while it runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Rest.
    Rest(Rung),
    /// Wake.
    Wake,
    /// Give back what can be given back.
    Ease(Rung),
}

/// One instance.
pub struct Life {
    /// Which.
    pub instance: InstanceId,
    /// What runs.
    pub tenant: Tenant,
    /// How much it may occupy.
    pub grant: Grant,
    /// Cancelled when it is to stop.
    pub stop: CancellationToken,
    /// Cancelled when it is to end at once.
    pub kill: CancellationToken,
    /// What it is told meanwhile.
    pub orders: mpsc::UnboundedReceiver<Order>,
    /// Where to tell what happens.
    pub messages: mpsc::WeakUnboundedSender<Message>,
}

impl Life {
    /// Starts it, tells that, does what it is told, and tells its end.
    pub async fn live(mut self) {
        let instance = self.instance;
        let mut running = match self.start(None).await {
            Ok(running) => running,
            Err(Exit { reason, .. }) => return self.tell(Message::Event(Event::Failed { instance, reason })),
        };
        let exit = self.serve(&mut running).await;
        if exit.card_failed {
            self.tell(Message::Event(Event::CardFailed { instance, reason: exit.reason.clone() }));
        }
        self.tell(Message::Event(Event::Exited { instance, reason: exit.reason }));
    }

    /// Starts it, from what is left of one that was parked if one was, and tells that.
    async fn start(&mut self, parked: Option<Parked>) -> Result<Running, Exit> {
        let instance = self.instance;
        let messages = self.messages.clone();
        let told = move |who| {
            if let Some(messages) = messages.upgrade() {
                let _ = messages.send(Message::Attributed { instance, who });
            }
        };
        let started = tokio::select! {
            started = self.tenant.start(&self.grant, &self.stop, &told, parked) => started,
            () = self.kill.cancelled() => Err(StartError::Stopped),
            () = tokio::time::sleep(START_WITHIN) => {
                Err(StartError::Failed(format!("it was not ready within {} s", START_WITHIN.as_secs())))
            }
        };
        let mut running = match started {
            Ok(running) => running,
            Err(error) => {
                if let StartError::CardFailed(reason) = &error {
                    self.tell(Message::Event(Event::CardFailed { instance, reason: reason.clone() }));
                }
                return Err(Exit { reason: error.to_string(), card_failed: false });
            }
        };
        let endpoint = running.endpoint.clone();
        if endpoint.is_none() && self.tenant.spec().is_some() {
            running.stop().await;
            return Err(Exit { reason: "it started, but answers no requests".into(), card_failed: false });
        }
        self.tell(Message::Loaded { instance, who: running.who.clone(), endpoint, exits: running.exits.clone() });
        Ok(running)
    }

    async fn serve(&mut self, running: &mut Running) -> Exit {
        loop {
            let mut exits = running.exits.clone();
            let order = tokio::select! {
                exit = exits.wait() => return exit,
                () = self.stop.cancelled() => return self.end(running).await,
                () = self.kill.cancelled() => return self.end(running).await,
                Some(order) = self.orders.recv() => order,
            };
            let done = match order {
                Order::Rest(rung) | Order::Ease(rung) => self.while_alive(running, running.take(rung)).await,
                Order::Wake => self.while_alive(running, running.wake()).await,
            };
            match (done, order) {
                (None, _) => {}
                (Some(Ok(())), Order::Rest(rung)) => match running.parked().filter(|_| rung == Rung::Park) {
                    None => self.tell(Message::Event(Event::Rested(self.instance))),
                    Some(parked) => {
                        // That it ends now is no news to those who would ask it.
                        self.tell(Message::Leaves(self.instance));
                        self.end(running).await;
                        self.tell(Message::Event(Event::Rested(self.instance)));
                        match self.resume(parked).await {
                            Ok(again) => *running = again,
                            Err(exit) => return exit,
                        }
                    }
                },
                (Some(Ok(())), Order::Wake) => self.tell(Message::Event(Event::Ready(self.instance))),
                (Some(Ok(())), Order::Ease(_)) => {}
                // It keeps what it has; the next rung follows.
                (Some(Err(reason)), Order::Ease(rung)) => {
                    tracing::warn!(model = self.tenant.name(), ?rung, reason, "memory was not given back");
                }
                (Some(Err(reason)), _) => {
                    let exit = self.end(running).await;
                    return Exit { reason: format!("{reason} ({})", exit.reason), ..exit };
                }
            }
        }
    }

    /// Nothing runs until it is to wake: then it starts anew, with what is left of it.
    async fn resume(&mut self, parked: Parked) -> Result<Running, Exit> {
        loop {
            let order = tokio::select! {
                () = self.stop.cancelled() => None,
                () = self.kill.cancelled() => None,
                order = self.orders.recv() => order,
            };
            match order {
                Some(Order::Wake) => return self.start(Some(parked)).await,
                Some(Order::Rest(_) | Order::Ease(_)) => {}
                None => return Err(Exit { reason: "it was parked".into(), card_failed: false }),
            }
        }
    }

    /// What comes of `doing`, unless the tenant ends or is to end before.
    async fn while_alive<T>(&self, running: &Running, doing: impl Future<Output = T>) -> Option<T> {
        let mut exits = running.exits.clone();
        tokio::select! {
            done = doing => Some(done),
            _ = exits.wait() => None,
            () = self.stop.cancelled() => None,
            () = self.kill.cancelled() => None,
        }
    }

    /// Stops it, and ends it at once when that is asked.
    async fn end(&self, running: &mut Running) -> Exit {
        let mut exits = running.exits.clone();
        if !self.kill.is_cancelled() {
            tokio::select! {
                exit = running.stop() => return exit,
                () = self.kill.cancelled() => {}
            }
        }
        running.kill();
        exits.wait().await
    }

    fn tell(&self, message: Message) {
        if let Some(messages) = self.messages.upgrade() {
            // Without its loop nobody wants to know.
            let _ = messages.send(message);
        }
    }
}
