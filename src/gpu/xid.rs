//! Xids: the errors of cards that NVIDIA's driver numbers, and what they mean for the owner.

use serde::{Deserialize, Serialize};

/// An error of a card.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Xid {
    /// When the driver told of it, in unix seconds.
    pub at: i64,
    /// NVIDIA's number of it.
    pub code: u64,
    /// What went wrong.
    pub meaning: String,
    /// What to do about it.
    pub advice: String,
    /// How bad it is.
    pub severity: Severity,
}

/// How bad an error is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A program failed; the card goes on.
    Program,
    /// The card goes on, and should be watched.
    Watch,
    /// The card needs a reset before it works well again.
    Reset,
    /// The card is gone until the machine starts again.
    Lost,
}

impl Xid {
    /// The error `code`, told of at `at`.
    pub fn new(at: i64, code: u64) -> Self {
        let (severity, meaning, advice) = explain(code);
        Self { at, code, meaning: meaning.into(), advice: advice.into(), severity }
    }
}

const BUGGY: &str = "nothing, if one program alone causes it; if several do, the card or its memory may be failing";
const SEATING: &str =
    "if it comes again, check the card's seating, its power cable and the riser, and update the driver";
const RESET: &str =
    "stop what uses the card and run `nvidia-smi --gpu-reset`, or reboot; replace a card that does it often";
const UPDATE: &str = "reboot; if it comes again, update the driver, or try the one before";

/// Severity, meaning and advice, of those that owners meet.
fn explain(code: u64) -> (Severity, &'static str, &'static str) {
    use Severity::{Lost, Program, Reset, Watch};
    match code {
        13 => (Program, "a program made the card's processor fail", BUGGY),
        31 => (Program, "a program read or wrote memory of the card that is not its own", BUGGY),
        32 => (Watch, "the card was sent commands that make no sense", SEATING),
        38 => (Watch, "the card's firmware failed", UPDATE),
        43 => (Program, "a program hung on the card and was ended", BUGGY),
        45 => (Program, "a program's work was taken off the card, after an error or because it ended", BUGGY),
        46 | 109 => (Watch, "the card did not finish its work in time", UPDATE),
        48 | 140 => (Reset, "the card's memory lost data that it could not correct", RESET),
        54 => (Watch, "the card gets too little power", "check its power cables and the power supply"),
        56 => (Watch, "the card's display part failed", UPDATE),
        57 | 58 => (Watch, "the card's memory is unstable", "undo overclocking; a card that goes on so is failing"),
        61 | 62 => (Reset, "the card's own controller stopped", RESET),
        63 => (
            Watch,
            "a bad part of the card's memory was put out of use",
            "reboot when it suits; once or twice is no worry",
        ),
        64 => (Reset, "a bad part of the card's memory could not be put out of use", RESET),
        68 => (Program, "the card's video decoder failed", BUGGY),
        69 => (Program, "a program asked the card for what it cannot do", BUGGY),
        74 => (Reset, "the link between cards failed", "check the bridge between the cards, then reboot"),
        79 => (
            Lost,
            "the card fell off the bus",
            "reboot; if it comes again, check its power cable, its seating, its temperature and the power supply",
        ),
        92 => (Watch, "the card's memory had to be corrected often", "replace the card if it goes on"),
        94 => (Program, "the card's memory lost data, and the program that it belonged to was ended", RESET),
        95 => (Reset, "the card's memory lost data of nobody knows which program", RESET),
        119 | 120 => (Reset, "the card's system processor does not answer", UPDATE),
        143 => (Lost, "the card could not be started", UPDATE),
        154 => (Watch, "the driver asks for the card to be recovered", RESET),
        _ => (Watch, "the driver reported an error", "look its number up among NVIDIA's Xids, and in `dmesg`"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_come_with_advice() {
        let check = |code, severity, meaning: &str, advice: &str| {
            let xid = Xid::new(7, code);
            assert_eq!((xid.at, xid.code, xid.severity), (7, code, severity));
            assert!(xid.meaning.contains(meaning) && xid.advice.contains(advice), "{xid:?}");
        };
        check(79, Severity::Lost, "fell off the bus", "power cable");
        check(31, Severity::Program, "not its own", "one program alone");
        check(48, Severity::Reset, "could not correct", "--gpu-reset");
        check(100_000, Severity::Watch, "an error", "dmesg");
        for code in 0..200 {
            let Xid { meaning, advice, .. } = Xid::new(0, code);
            assert!(!meaning.is_empty() && !advice.is_empty(), "{code}");
        }
    }
}
