use std::time::{Duration, Instant};

/// Wrong passwords in a row, and how long the next attempt has to wait for them.
///
/// It counts for the whole process, not for an address: an attacker has many of those, the appliance one owner.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    failures: u32,
    until: Option<Instant>,
}

/// Typing errors that cost nothing.
const FREE: u32 = 4;
/// The owner, too, waits this long at most.
const LONGEST: Duration = Duration::from_secs(60);

impl Throttle {
    /// How long an attempt made `now` has to wait; none when it may go ahead.
    pub(super) fn wait(&self, now: Instant) -> Option<Duration> {
        self.until?.checked_duration_since(now).filter(|wait| !wait.is_zero())
    }

    /// Records a wrong password. An attempt that was told to wait is not one.
    pub(super) fn failed(&mut self, now: Instant) {
        self.failures = self.failures.saturating_add(1);
        if let Some(beyond) = self.failures.checked_sub(FREE) {
            self.until = Some(now + LONGEST.min(Duration::from_secs(1 << beyond.min(6))));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_wait_doubles_up_to_a_minute() {
        let start = Instant::now();
        let check = |failures: u32, expected: u64| {
            let mut throttle = Throttle::default();
            (0..failures).for_each(|_| throttle.failed(start));
            assert_eq!(throttle.wait(start).unwrap_or_default(), Duration::from_secs(expected), "{failures} failures");
            assert_eq!(throttle.wait(start + Duration::from_secs(expected)), None, "{failures} failures, waited");
        };
        check(0, 0);
        check(3, 0);
        check(4, 1);
        check(6, 4);
        check(9, 32);
        check(10, 60);
        check(1_000_000, 60);
    }
}
