//! Figures told to people.

use crate::config::Bytes;
use crate::runtime::Claim;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// `1.2 GiB`.
pub fn size(bytes: u64) -> String {
    Bytes(bytes).to_string()
}

/// Bytes of a claim, for a narrow column: what it holds of cards, and of the host.
pub fn claim(claim: &Claim) -> String {
    let on_cards: u64 = claim.vram.values().sum();
    match (on_cards, claim.ram) {
        (0, ram) => size(ram),
        (vram, 0) => size(vram),
        (vram, ram) => format!("{} + {}", size(vram), size(ram)),
    }
}

/// `1.5 B parameters`, `268 M parameters`.
pub fn parameters(number: u64) -> String {
    match number {
        0..1_000_000_000 => format!("{} M parameters", number / 1_000_000),
        _ => format!("{:.1} B parameters", number as f64 / 1e9),
    }
}

/// `32 768`, with a space that does not break.
pub fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push('\u{a0}');
        }
        text.push(digit);
    }
    text
}

/// `1 request`, `2 requests`.
pub fn count(number: usize, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{number} {one}s") }
}

/// How long something takes or has taken: `12 s`, `5 min`, `3 h`, `12 days`.
pub fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => count((seconds / 86_400) as usize, "day"),
    }
}

/// When something happened, seen from `now`; both in unix seconds.
pub fn ago(at: i64, now: i64) -> String {
    match u64::try_from(now.saturating_sub(at)).unwrap_or_default() {
        0..60 => "just now".into(),
        seconds => format!("{} ago", span(seconds)),
    }
}

/// `24 Nov 2026`, here.
pub fn date(at: i64) -> String {
    let Ok(time) = Timestamp::from_second(at) else { return "–".into() };
    time.to_zoned(TimeZone::system()).strftime("%-d %b %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(thousands(768), "768");
        assert_eq!(thousands(32_768), "32\u{a0}768");
        assert_eq!(thousands(1_048_576), "1\u{a0}048\u{a0}576");
        assert_eq!(parameters(268_098_176), "268 M parameters");
        assert_eq!(parameters(1_543_714_304), "1.5 B parameters");
    }

    #[test]
    fn times() {
        let check = |seconds: i64, expected: &str| assert_eq!(ago(1_000_000_000, 1_000_000_000 + seconds), expected);
        check(-5, "just now");
        check(59, "just now");
        check(60, "1 min ago");
        check(7300, "2 h ago");
        check(86_400, "1 day ago");
        check(864_000, "10 days ago");
        assert_eq!(date(1_764_000_000).split(' ').nth(2), Some("2025"));
    }
}
