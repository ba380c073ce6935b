//! The last hour, second by second, in a form that is small: about 200 KB with one card.

use super::Sample;
use std::collections::VecDeque;

/// Seconds that are kept.
const KEPT: i64 = 3600;

/// The last hour.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// Cards in the order of the columns. One that vanished keeps its column: it may come back.
    uuids: Vec<String>,
    points: VecDeque<Packed>,
}

/// One second, as it is kept.
#[derive(Debug, Clone)]
struct Packed {
    at: i64,
    cpu: Percent,
    memory: Percent,
    cards: Box<[(Percent, Percent)]>,
}

/// One second.
#[derive(Debug, Clone, PartialEq)]
pub struct Point {
    /// Unix seconds.
    pub at: i64,
    /// Percent of the processors' time.
    pub cpu: Option<f32>,
    /// Percent of the host's memory.
    pub memory: Option<f32>,
    /// The cards that were asked for, in that order.
    pub cards: Vec<CardPoint>,
}

/// One card in one second.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct CardPoint {
    /// Percent of the time in which it computed.
    pub utilisation: Option<f32>,
    /// Percent of its memory.
    pub memory: Option<f32>,
}

/// A percentage in tenths, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Percent(u16);

impl Percent {
    const ABSENT: Self = Self(u16::MAX);

    fn new(percent: Option<f32>) -> Self {
        percent.map_or(Self::ABSENT, |percent| Self((percent.clamp(0.0, 100.0) * 10.0).round() as u16))
    }

    fn get(self) -> Option<f32> {
        (self != Self::ABSENT).then(|| f32::from(self.0) / 10.0)
    }
}

/// `part` of `whole` in percent.
fn percent(part: u64, whole: u64) -> Option<f32> {
    (whole > 0).then(|| (part as f64 * 100.0 / whole as f64) as f32)
}

impl Point {
    /// What is kept of `sample`, for its own cards.
    pub fn of(sample: &Sample) -> Self {
        Self {
            at: sample.at,
            cpu: sample.host.cpu_percent,
            memory: percent(sample.host.memory_used, sample.host.memory_total),
            cards: sample
                .cards
                .iter()
                .map(|card| CardPoint {
                    utilisation: card.utilisation,
                    memory: card.memory.and_then(|memory| percent(memory.used, memory.total)),
                })
                .collect(),
        }
    }
}

impl History {
    /// Adds a second, and forgets what is older than an hour.
    pub(super) fn push(&mut self, sample: &Sample) {
        for card in &sample.cards {
            if !self.uuids.contains(&card.uuid) {
                self.uuids.push(card.uuid.clone());
            }
        }
        let point = Point::of(sample);
        let mut cards = vec![(Percent::ABSENT, Percent::ABSENT); self.uuids.len()];
        for (card, values) in sample.cards.iter().zip(&point.cards) {
            if let Some(column) = self.uuids.iter().position(|uuid| *uuid == card.uuid) {
                cards[column] = (Percent::new(values.utilisation), Percent::new(values.memory));
            }
        }
        // The clock may have been set back; a chart goes one way.
        while self.points.back().is_some_and(|last| last.at >= point.at) {
            self.points.pop_back();
        }
        self.points.push_back(Packed {
            at: point.at,
            cpu: Percent::new(point.cpu),
            memory: Percent::new(point.memory),
            cards: cards.into(),
        });
        while self.points.front().is_some_and(|first| first.at <= point.at - KEPT) {
            self.points.pop_front();
        }
    }

    /// Every second, oldest first, with the cards `uuids`.
    pub fn points<'a>(&'a self, uuids: &[&str]) -> impl Iterator<Item = Point> + use<'a> {
        let columns: Vec<Option<usize>> =
            uuids.iter().map(|uuid| self.uuids.iter().position(|known| known == uuid)).collect();
        self.points.iter().map(move |point| Point {
            at: point.at,
            cpu: point.cpu.get(),
            memory: point.memory.get(),
            cards: columns
                .iter()
                .map(|column| {
                    // A card that came later has no column in older seconds.
                    let packed = column.and_then(|column| point.cards.get(column));
                    packed.map_or_else(CardPoint::default, |(utilisation, memory)| CardPoint {
                        utilisation: utilisation.get(),
                        memory: memory.get(),
                    })
                })
                .collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Host, Memory, Snapshot};

    fn sample(at: i64, cards: &[(&str, f32)]) -> Sample {
        let card = |(uuid, utilisation): &(&str, f32)| Snapshot {
            uuid: (*uuid).into(),
            utilisation: Some(*utilisation),
            memory: Some(Memory { total: 8, used: 2, free: 6 }),
            ..Snapshot::default()
        };
        let host = Host { memory_total: 100, memory_used: 40, cpu_percent: Some(12.34), cpus: 2 };
        Sample { at, host, cards: cards.iter().map(card).collect() }
    }

    #[test]
    fn an_hour_is_kept() {
        let mut history = History::default();
        (0..4000).for_each(|at| history.push(&sample(at, &[])));
        let points: Vec<Point> = history.points(&[]).collect();
        assert_eq!((points.len(), points[0].at, points[3599].at), (3600, 400, 3999));
        assert_eq!((points[0].cpu, points[0].memory), (Some(12.3), Some(40.0)));
    }

    #[test]
    fn cards_keep_their_columns() {
        let mut history = History::default();
        history.push(&sample(1, &[("a", 10.0)]));
        history.push(&sample(2, &[("b", 20.0), ("a", 11.0)]));
        history.push(&sample(3, &[("b", 21.0)]));
        let check = |uuids: &[&str], expected: &[&[Option<f32>]]| {
            let use_of = |point: Point| point.cards.iter().map(|card| card.utilisation).collect::<Vec<_>>();
            assert_eq!(history.points(uuids).map(use_of).collect::<Vec<_>>(), expected, "{uuids:?}");
        };
        check(&["a", "b"], &[&[Some(10.0), None], &[Some(11.0), Some(20.0)], &[None, Some(21.0)]]);
        check(&["c"], &[&[None], &[None], &[None]]);
    }

    #[test]
    fn a_clock_that_is_set_back_rewrites() {
        let mut history = History::default();
        [10, 11, 12, 11].into_iter().for_each(|at| history.push(&sample(at, &[])));
        assert_eq!(history.points(&[]).map(|point| point.at).collect::<Vec<_>>(), [10, 11]);
    }
}
