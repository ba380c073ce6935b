//! Room on a card for what serves no model here: a container that draws, transcodes, or serves by itself. It is planned,
//! watched and enforced like any tenant, but somebody else starts and ends it.

use super::{Attribution, Claim, Control, Exit, ExitWatch, Rung, Running, Setting, Variant};
use crate::docker::Cards;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The kind of runtime, as people read it.
pub const NAME: &str = "container";

/// Room that somebody wants.
#[derive(Debug, Clone)]
pub struct Reserved {
    /// Who wants it, for people: `STACK/SERVICE`.
    pub name: String,
    /// On which cards.
    pub cards: Cards,
    /// How much of each of them.
    pub room: Room,
    /// The container, where it runs already: then it holds what it holds, and room is made around it.
    pub running: Option<String>,
    link: Arc<Link>,
}

/// How much somebody wants of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Room {
    /// So many bytes, and no more.
    Said(u64),
    /// Nobody says. What it was seen to take before is expected, `guess` bytes at first; what it takes more is not held
    /// against it.
    Unsaid {
        /// Bytes that are expected of what was never seen.
        guess: u64,
        /// What runs there: a digest.
        image: String,
    },
}

impl Room {
    fn expected(&self) -> u64 {
        match self {
            Self::Said(bytes) | Self::Unsaid { guess: bytes, .. } => *bytes,
        }
    }
}

/// What the two sides share: he who sits there is asked to go, and tells when he has gone.
#[derive(Debug)]
struct Link {
    asked: CancellationToken,
    killed: CancellationToken,
    exit: watch::Sender<Option<Exit>>,
    exits: ExitWatch,
}

impl Reserved {
    /// `room` for `name`, on each of the `cards`.
    pub fn new(name: String, cards: Cards, room: Room, running: Option<String>) -> Self {
        let (exit, exits) = ExitWatch::channel();
        let link = Link { asked: CancellationToken::new(), killed: CancellationToken::new(), exit, exits };
        Self { name, cards, room, running, link: Arc::new(link) }
    }

    /// Where the room could be, on a machine with `cards`; nowhere if it has not those that are wanted.
    pub fn variants(&self, cards: &[&str]) -> Vec<Variant> {
        let claim = |on: &[&str]| Claim {
            vram: on.iter().map(|gpu| ((*gpu).to_string(), self.room.expected())).collect(),
            ..Claim::default()
        };
        let variant = |on: &[&str]| Variant {
            setting: Setting { gpu: on.first().map(|gpu| (*gpu).to_string()), context: 0, kv: None },
            claim: claim(on),
            slots: 1,
            rests: Vec::new(),
        };
        let find = |wanted: &String| match (cards, wanted.as_str()) {
            ([only], "0") => Some(*only),
            _ => cards.iter().find(|card| *card == wanted).copied(),
        };
        match &self.cards {
            Cards::One => cards.iter().map(|card| variant(&[card])).collect(),
            Cards::All if cards.is_empty() => Vec::new(),
            Cards::All => vec![variant(cards)],
            Cards::These(wanted) => {
                let found: Option<Vec<&str>> = wanted.iter().map(find).collect();
                found.filter(|found| !found.is_empty()).map(|found| variant(&found)).into_iter().collect()
            }
        }
    }

    /// It is asked to end, or ended: nothing between can be asked of a container.
    pub const RUNGS: &'static [Rung] = &[Rung::Stop, Rung::Kill];

    /// What bringing it back costs, guessed.
    pub const COST: Duration = Duration::from_secs(10);

    /// It sits there from now on.
    pub(super) fn start(&self) -> Running {
        let who = self.running.clone().map_or(Attribution::Nobody, Attribution::Container);
        let Link { asked, killed, exits, .. } = &*self.link;
        Running::new(who, exits.clone(), None, Control::None, asked.clone(), killed.clone())
    }

    /// Returns when it is to end.
    pub async fn asked(&self) {
        self.link.asked.cancelled().await;
    }

    /// Returns when it is to be ended at once.
    pub async fn killed(&self) {
        self.link.killed.cancelled().await;
    }

    /// It has gone.
    pub fn left(&self) {
        self.link.exit.send_replace(Some(Exit { reason: "its container has ended".into(), card_failed: false }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn room_is_looked_for_on_the_cards_that_are_wanted() {
        let check = |wanted: Cards, cards: &[&str], expected: &[&[&str]]| {
            let reserved = Reserved::new("a/b".into(), wanted, Room::Said(5), None);
            let variants = reserved.variants(cards);
            let on: Vec<Vec<&str>> =
                variants.iter().map(|variant| variant.claim.vram.keys().map(String::as_str).collect()).collect();
            assert_eq!(on, expected);
            assert!(variants.iter().all(|variant| variant.claim.vram.values().all(|bytes| *bytes == 5)));
        };
        let these = |ids: &[&str]| Cards::These(ids.iter().map(|id| (*id).to_string()).collect());
        check(Cards::One, &["a", "b"], &[&["a"], &["b"]]);
        check(Cards::All, &["a", "b"], &[&["a", "b"]]);
        check(these(&["b"]), &["a", "b"], &[&["b"]]);
        check(these(&["0"]), &["a"], &[&["a"]]);
        // A number is the driver's, and two cards are in no order that is known here.
        check(these(&["0"]), &["a", "b"], &[]);
        check(these(&["c"]), &["a", "b"], &[]);
        check(Cards::All, &[], &[]);
        check(Cards::One, &[], &[]);
    }
}
