//! What cards draw, added up from reading to reading.

use super::Snapshot;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How far two readings of the energy counter may lie apart. What it counted between them was drawn, whatever else was
/// not seen; further apart it is not known when.
const COUNTED: Duration = Duration::from_secs(600);
/// How far two readings of the power may lie apart: what it was between them is a guess that grows with their distance.
const INTEGRATED: Duration = Duration::from_secs(5);

/// Remembers the last reading of each card.
#[derive(Debug, Default)]
pub(super) struct Meter {
    cards: BTreeMap<String, Last>,
}

#[derive(Debug, Clone, Copy)]
struct Last {
    at: Instant,
    millijoules: Option<u64>,
    watts: Option<f32>,
}

/// What a card drew.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Drawn {
    pub joules: f64,
    /// Over this long; the rest of the time is not known.
    pub seconds: f64,
}

impl Drawn {
    pub(super) fn add(&mut self, other: Self) {
        self.joules += other.joules;
        self.seconds += other.seconds;
    }
}

impl Meter {
    /// What each card drew between its last reading and this one, at `at`; nothing for those of which it is not known.
    pub(super) fn add(&mut self, at: Instant, cards: &[Snapshot]) -> BTreeMap<String, Drawn> {
        let mut drawn = BTreeMap::new();
        for card in cards.iter().filter(|card| card.energy_millijoules.is_some() || card.power_watts.is_some()) {
            let now = Last { at, millijoules: card.energy_millijoules, watts: card.power_watts };
            let last = self.cards.insert(card.uuid.clone(), now);
            if let Some(between) = last.and_then(|last| last.until(now)) {
                drawn.insert(card.uuid.clone(), between);
            }
        }
        drawn
    }
}

impl Last {
    fn until(self, now: Self) -> Option<Drawn> {
        let span = now.at.checked_duration_since(self.at).filter(|span| !span.is_zero())?;
        let seconds = span.as_secs_f64();
        // A counter that went back began anew with its driver.
        let counted = self.millijoules.zip(now.millijoules).and_then(|(before, now)| now.checked_sub(before));
        let joules = match counted {
            Some(millijoules) if span <= COUNTED => millijoules as f64 / 1000.0,
            Some(_) => return None,
            None if span <= INTEGRATED => {
                let (before, now) = self.watts.zip(now.watts)?;
                f64::from(before + now) / 2.0 * seconds
            }
            None => return None,
        };
        Some(Drawn { joules, seconds })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn card(millijoules: Option<u64>, watts: Option<f32>) -> Snapshot {
        let uuid = "GPU-1".into();
        Snapshot { uuid, energy_millijoules: millijoules, power_watts: watts, ..Snapshot::default() }
    }

    #[tokio::test]
    async fn what_is_known_is_added_up_and_nothing_else() {
        let start = Instant::now();
        let check = |readings: &[(u64, Option<u64>, Option<f32>)], expected: Option<(f64, f64)>| {
            let mut meter = Meter::default();
            let mut sum: Option<Drawn> = None;
            for (second, millijoules, watts) in readings {
                let drawn = meter.add(start + Duration::from_secs(*second), &[card(*millijoules, *watts)]);
                if let Some(drawn) = drawn.get("GPU-1") {
                    sum.get_or_insert_default().add(*drawn);
                }
            }
            assert_eq!(sum.map(|sum| (sum.joules, sum.seconds)), expected, "{readings:?}");
        };
        // The counter, however the power jumps between readings.
        check(&[(0, Some(1_000), Some(90.0)), (1, Some(41_000), Some(10.0))], Some((40.0, 1.0)));
        // A gap that the counter counted through, and one that is too long.
        check(&[(0, Some(0), None), (600, Some(9_000_000), None)], Some((9_000.0, 600.0)));
        check(&[(0, Some(0), None), (601, Some(9_000_000), None)], None);
        // A driver that was loaded anew: what it counts from there on.
        check(&[(0, Some(7_000), None), (1, Some(100), None), (2, Some(3_100), None)], Some((3.0, 1.0)));
        // The power, where there is no counter; gaps are left out.
        check(&[(0, None, Some(100.0)), (1, None, Some(50.0)), (2, None, Some(50.0))], Some((125.0, 2.0)));
        check(&[(0, None, Some(100.0)), (6, None, Some(100.0)), (7, None, Some(80.0))], Some((90.0, 1.0)));
        check(&[(0, None, Some(100.0)), (1, None, None), (2, None, Some(100.0))], Some((200.0, 2.0)));
        check(&[(0, None, None), (1, None, None)], None);
        // The same reading twice is no time.
        check(&[(0, Some(0), None), (0, Some(5), None)], None);
    }

    proptest! {
        #[test]
        fn a_counter_is_counted_whole(steps in proptest::collection::vec((1_u64..600, 0_u64..10_000_000), 1..50)) {
            let start = Instant::now();
            let mut meter = Meter::default();
            let (mut at, mut counter, mut sum) = (0, 0, Drawn::default());
            meter.add(start, &[card(Some(0), None)]);
            for (seconds, millijoules) in steps {
                at += seconds;
                counter += millijoules;
                for drawn in meter.add(start + Duration::from_secs(at), &[card(Some(counter), None)]).values() {
                    sum.add(*drawn);
                }
            }
            prop_assert!((sum.joules - counter as f64 / 1000.0).abs() < 1e-3);
            prop_assert!((sum.seconds - at as f64).abs() < 1e-6);
        }
    }
}
