//! What the card and the machine do, as the pages show it: bars, figures and the series of the chart.

use super::words;
use crate::gpu::{Day, Holder, HolderKind, Host, Memory, Point, Sample, Snapshot, Throttle, Xid};
use crate::placement::Status;
use askama::Template;
use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Width of a bar in the units of its view box.
const BAR: u64 = 1000;
/// Processes that get a colour of their own in a card's bar; the rest shares one.
const NAMED: usize = 3;

/// How much of a memory is in use, and by what.
#[derive(Debug, Clone, PartialEq, Eq, Template)]
#[template(path = "memory.html")]
pub struct Bar {
    used: String,
    total: String,
    free: String,
    parts: Vec<Part>,
}

/// A piece of a bar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    class: &'static str,
    label: String,
    size: String,
    start: u64,
    width: u64,
}

impl Bar {
    /// A bar of `memory`, of which `parts` are known by name. What they leave of `used` is `rest`'s.
    fn new(memory: Memory, parts: Vec<(String, u64)>, rest: &str) -> Self {
        const CLASSES: [&str; NAMED] = ["s1", "s2", "s3"];
        let named: u64 = parts.iter().map(|(_, bytes)| bytes).sum();
        let pieces = CLASSES.into_iter().zip(parts).map(|(class, (label, bytes))| (class, label, bytes)).chain([(
            "other",
            rest.to_owned(),
            memory.used.saturating_sub(named),
        )]);
        let scale = |bytes: u64| {
            let share = u128::from(bytes) * u128::from(BAR) / u128::from(memory.total.max(1));
            share.min(u128::from(BAR)) as u64
        };
        let mut at = 0_u64;
        let mut drawn = Vec::new();
        for (class, label, bytes) in pieces.filter(|(_, _, bytes)| *bytes > 0) {
            let start = scale(at);
            at = at.saturating_add(bytes);
            drawn.push(Part { class, label, size: words::size(bytes), start, width: scale(at) - start });
        }
        Self {
            used: words::size(memory.used),
            total: words::size(memory.total),
            free: words::size(memory.free),
            parts: drawn,
        }
    }
}

/// One number, large.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Figure {
    pub label: &'static str,
    pub value: String,
    pub unit: String,
}

impl Figure {
    fn new(label: &'static str, value: Option<f32>, unit: &str) -> Option<Self> {
        let value = format!("{:.0}", value?);
        Some(Self { label, value, unit: unit.into() })
    }

    fn text(label: &'static str, value: String) -> Self {
        Self { label, value, unit: String::new() }
    }
}

/// How long an error of a card is news, in seconds.
const NEWS: i64 = 24 * 3600;
/// Errors that are shown of a card.
const ERRORS: usize = 3;

/// A card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    pub name: String,
    /// What it does, in a word.
    pub note: String,
    /// Why figures are missing.
    pub problem: Option<String>,
    /// What its driver told of lately, and what to do about it.
    pub errors: Vec<String>,
    pub memory: Option<Bar>,
    pub figures: Vec<Figure>,
    /// What seldom changes, in a line.
    pub facts: String,
}

impl Card {
    /// What is shown of `card` at `now`, in unix seconds. What it does not report is not shown.
    pub fn of(card: &Snapshot, now: i64) -> Self {
        let holders = Holder::of(card).into_iter().filter(|holder| holder.kind != HolderKind::Rest).take(NAMED);
        let parts = holders.filter_map(|holder| Some((holder.label(), holder.bytes?))).collect();
        let power = match card.power_limit_watts {
            Some(limit) => format!(" of {limit:.0} W"),
            None => " W".into(),
        };
        let video = card.encoder.into_iter().chain(card.decoder).reduce(f32::max);
        let figures = [
            Figure::new("In use", card.utilisation, " %"),
            Figure::new("Temperature", card.celsius, " °C"),
            Figure::new("Power", card.power_watts, &power),
            Figure::new("Fan", card.fan_percent, " %"),
            Figure::new("Clock", card.clock_mhz.map(|clock| clock as f32), " MHz"),
            // Somebody transcodes.
            Figure::new("Video", video.filter(|percent| *percent >= 1.0), " %"),
        ];
        Self {
            name: card.name.clone(),
            note: note(card),
            problem: card.problem.clone(),
            errors: card
                .xids
                .iter()
                .filter(|xid| now - xid.at < NEWS)
                .take(ERRORS)
                .map(|xid| error(xid, now))
                .collect(),
            memory: card.memory.map(|memory| Bar::new(memory, parts, "Others")),
            figures: figures.into_iter().flatten().collect(),
            facts: facts(card),
        }
    }
}

fn error(xid: &Xid, now: i64) -> String {
    format!("{}: {} (Xid {}). What to do: {}.", words::ago(xid.at, now), xid.meaning, xid.code, xid.advice)
}

fn facts(card: &Snapshot) -> String {
    let link = card.pcie.and_then(|pcie| {
        let link = format!("PCIe {}.0 x{}", pcie.generation?, pcie.width?);
        // A card in a narrow slot loads models slowly; an idle one lowers its generation by itself.
        let narrow = pcie.max_width.filter(|most| pcie.width < Some(*most));
        Some(narrow.map_or(link.clone(), |most| format!("{link} of x{most}")))
    });
    let facts = [
        card.driver.as_ref().map(|version| format!("Driver {version}")),
        card.compute_capability.map(|capability| format!("compute {capability}")),
        link,
        card.performance_state.map(|state| format!("P{state}")),
    ];
    facts.into_iter().flatten().collect::<Vec<_>>().join(" · ")
}

fn note(card: &Snapshot) -> String {
    let slow = |reason: &Throttle| match reason {
        Throttle::Power => "at its power limit",
        Throttle::Heat => "slowed down by heat",
        Throttle::PowerBrake => "slowed down by its power supply",
        Throttle::Hardware => "slowed down by itself",
    };
    match (card.throttle.as_deref().unwrap_or_default(), card.utilisation) {
        ([], Some(busy)) if busy >= 1.0 => "at work".into(),
        ([], Some(_)) => "idle".into(),
        ([], None) => String::new(),
        (reasons, _) => reasons.iter().map(slow).collect::<Vec<_>>().join(", "),
    }
}

/// The machine around the cards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    pub note: String,
    pub memory: Option<Bar>,
    pub figures: Vec<Figure>,
}

impl Machine {
    /// What is shown of `host`, and of how busy `placement` is.
    pub fn of(host: &Host, placement: &Status, uptime: u64) -> Self {
        let memory = Memory {
            total: host.memory_total,
            used: host.memory_used,
            free: host.memory_total.saturating_sub(host.memory_used),
        };
        let answering: usize = placement.tenants.iter().map(|tenant| tenant.leases).sum();
        Self {
            note: words::count(host.cpus, "processor"),
            // No part of it is called the models': most of what they occupy are pages of their files, which the
            // kernel can drop and does not count as used. The table of what is in memory has them.
            memory: (memory.total > 0).then(|| Bar::new(memory, vec![("Programs".into(), memory.used)], "")),
            figures: [
                Figure::new("Processor", host.cpu_percent, " %"),
                Some(Figure::text("Models", placement.tenants.len().to_string())),
                Some(Figure::text("Requests", answering.to_string())),
                Some(Figure::text("Up for", words::span(uptime))),
            ]
            .into_iter()
            .flatten()
            .collect(),
        }
    }
}

/// What the cards drew: today, where `now` is in the newest of `days`, and in all of them.
pub fn energy(days: &[Day], now: Timestamp) -> Vec<Figure> {
    let today = now.to_zoned(TimeZone::system()).date();
    let drawn = |label, day: &Day| {
        let (value, unit) = match day.watt_hours {
            small if small < 1000.0 => (format!("{small:.0}"), " Wh".into()),
            large => (format!("{:.1}", large / 1000.0), " kWh".into()),
        };
        Figure { label, value, unit }
    };
    let mut figures = Vec::new();
    if let Some(day) = days.first().filter(|day| day.date == today) {
        figures.push(drawn("Today", day));
        figures.extend(day.cost().map(|cost| Figure::text("Cost today", cost)));
        let told = day.tokens_per_joule.filter(|_| day.generated_tokens > 0);
        figures.extend(told.map(|tokens| Figure::text("Tokens per joule", format!("{tokens:.2}"))));
    }
    if let Some(sum) = Day::sum(days) {
        figures.push(drawn("Last 30 days", &sum));
        figures.extend(sum.cost().map(|cost| Figure::text("Cost of them", cost)));
    }
    figures
}

/// What the chart's lines are called, in the order of [`values`].
pub fn labels(sample: &Sample) -> Vec<String> {
    let mut labels = Vec::new();
    for (at, _) in sample.cards.iter().enumerate() {
        let card = if sample.cards.len() == 1 { "Card".into() } else { format!("Card {}", at + 1) };
        labels.extend([card.clone(), format!("{card} memory")]);
    }
    labels.extend(["Processor".into(), "Memory".into()]);
    labels
}

/// One second of the chart's lines, in percent.
pub fn values(point: &Point) -> Vec<Option<f32>> {
    let mut values: Vec<Option<f32>> = point.cards.iter().flat_map(|card| [card.utilisation, card.memory]).collect();
    values.extend([point.cpu, point.memory]);
    values
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Capability, Pcie, Process};

    const GIB: u64 = 1 << 30;

    fn process(pid: u32, name: Option<&str>, bytes: u64) -> Process {
        Process { pid, name: name.map(Into::into), bytes: Some(bytes), ..Process::default() }
    }

    #[test]
    fn a_bar_is_as_long_as_what_is_used() {
        let memory = Memory { total: 8 * GIB, used: 6 * GIB, free: 2 * GIB };
        let bar = Bar::new(memory, vec![("a".into(), 4 * GIB), ("b".into(), GIB)], "Others");
        let parts: Vec<_> = bar.parts.iter().map(|part| (part.class, part.start, part.width)).collect();
        assert_eq!(parts, [("s1", 0, 500), ("s2", 500, 125), ("other", 625, 125)]);
        assert_eq!((bar.used.as_str(), bar.free.as_str()), ("6.0 GiB", "2.0 GiB"));
        // Processes may have grown since the memory was read.
        let bar = Bar::new(Memory { total: GIB, used: GIB / 2, free: GIB / 2 }, vec![("a".into(), 9 * GIB)], "Others");
        assert_eq!((bar.parts.len(), bar.parts[0].width), (1, BAR));
        assert_eq!(Bar::new(Memory::default(), Vec::new(), "Others").parts, []);
    }

    #[test]
    fn what_a_card_does_not_report_is_not_shown() {
        let card = Card::of(&Snapshot { name: "A".into(), celsius: Some(41.6), ..Snapshot::default() }, 0);
        let figures: Vec<_> = card.figures.iter().map(|figure| (figure.label, figure.value.as_str())).collect();
        assert_eq!((figures, card.memory, card.note.as_str()), (vec![("Temperature", "42")], None, ""));
    }

    #[test]
    fn errors_of_the_last_day_are_shown() {
        let xids = vec![Xid::new(90_000, 79), Xid::new(3_000, 31)];
        let card = Card::of(&Snapshot { xids, ..Snapshot::default() }, 90_300);
        assert_eq!(card.errors.len(), 1, "{:?}", card.errors);
        assert!(card.errors[0].starts_with("5 min ago: the card fell off the bus (Xid 79)."), "{:?}", card.errors);
    }

    #[test]
    fn energy_is_told_for_today_and_the_days_before() {
        let now = Timestamp::from_second(1_790_000_000).unwrap();
        let today = now.to_zoned(TimeZone::system()).date();
        let day = |date, watt_hours, generated_tokens| Day {
            date,
            watt_hours,
            measured_seconds: 60.0,
            cost_micros: Some(250_000),
            currency: Some("EUR".into()),
            prompt_tokens: 0,
            generated_tokens,
            tokens_per_joule: Some(0.5),
        };
        let check = |days: &[Day], expected: &[&str]| {
            let figures = energy(days, now);
            let told: Vec<String> = figures.iter().map(|f| format!("{}: {}{}", f.label, f.value, f.unit)).collect();
            assert_eq!(told, expected);
        };
        check(&[], &[]);
        let yesterday = today.yesterday().unwrap();
        check(&[day(yesterday, 120.4, 0)], &["Last 30 days: 120 Wh", "Cost of them: 0.25 EUR"]);
        check(
            &[day(today, 500.0, 9), day(yesterday, 1_000.0, 9)],
            &[
                "Today: 500 Wh",
                "Cost today: 0.25 EUR",
                "Tokens per joule: 0.50",
                "Last 30 days: 1.5 kWh",
                "Cost of them: 0.50 EUR",
            ],
        );
    }

    #[test]
    fn what_seldom_changes_is_one_line() {
        let check = |card: Snapshot, expected: &str| assert_eq!(facts(&card), expected);
        let pcie = Pcie { generation: Some(4), width: Some(4), max_width: Some(8), ..Pcie::default() };
        check(Snapshot::default(), "");
        check(
            Snapshot { driver: Some("580.1".into()), pcie: Some(pcie), ..Snapshot::default() },
            "Driver 580.1 · PCIe 4.0 x4 of x8",
        );
        let pcie = Some(Pcie { width: Some(8), ..pcie });
        let compute_capability = Some(Capability { major: 12, minor: 0 });
        check(
            Snapshot { compute_capability, pcie, performance_state: Some(8), ..Snapshot::default() },
            "compute 12.0 · PCIe 4.0 x8 · P8",
        );
    }

    #[test]
    fn a_card_tells_what_it_does() {
        let check = |throttle: Option<Vec<Throttle>>, utilisation: Option<f32>, expected: &str| {
            assert_eq!(note(&Snapshot { throttle, utilisation, ..Snapshot::default() }), expected);
        };
        check(None, None, "");
        check(None, Some(0.0), "idle");
        check(Some(vec![]), Some(40.0), "at work");
        check(Some(vec![Throttle::Power, Throttle::Heat]), Some(99.0), "at its power limit, slowed down by heat");
    }

    #[test]
    fn the_largest_processes_have_colours() {
        let processes = vec![
            process(1, Some("vllm"), 3 * GIB),
            process(2, None, GIB),
            process(3, Some("Xorg"), GIB / 2),
            process(4, Some("x"), GIB / 4),
        ];
        let memory = Some(Memory { total: 8 * GIB, used: 5 * GIB, free: 3 * GIB });
        let bar = Card::of(&Snapshot { processes, memory, ..Snapshot::default() }, 0).memory.expect("a bar");
        let labels: Vec<_> = bar.parts.iter().map(|part| (part.label.as_str(), part.size.as_str())).collect();
        assert_eq!(
            labels,
            [
                ("host: vllm", "3.0 GiB"),
                ("host: process 2", "1.0 GiB"),
                ("host: Xorg", "512 MiB"),
                ("Others", "512 MiB")
            ]
        );
    }

    #[test]
    fn the_chart_has_a_line_for_each_label() {
        let card = Snapshot { utilisation: Some(5.0), ..Snapshot::default() };
        for cards in [vec![], vec![card.clone()], vec![card.clone(), card]] {
            let sample = Sample { cards, ..Sample::default() };
            assert_eq!(labels(&sample).len(), values(&Point::of(&sample)).len());
        }
    }
}
