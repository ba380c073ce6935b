use super::history::History;
use super::meter::Meter;
use super::minutes::Minute;
use super::{Host, Owners, Probe, Snapshot, host};
use crate::config;
use crate::db::{self, Db};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// How often everything is read.
const PERIOD: Duration = Duration::from_secs(1);
/// How often it is read when somebody waits for memory.
const HURRIED: Duration = Duration::from_millis(50);
/// How long a driver may take to answer before its last figures are not shown as the present.
const STALE: Duration = Duration::from_secs(10);

/// Everything at one moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// Unix seconds.
    pub at: i64,
    /// The machine.
    pub host: Host,
    /// Its cards, in the driver's order.
    pub cards: Vec<Snapshot>,
}

/// A handle on the one sampler. It ends with the last handle.
#[derive(Debug, Clone)]
pub struct Monitor {
    samples: watch::Receiver<Arc<Sample>>,
    readings: watch::Receiver<Reading>,
    hurry: Arc<Hurry>,
    owners: watch::Sender<Arc<Owners>>,
    history: Arc<Mutex<History>>,
    joules: Joules,
}

/// What each card drew since the start, by its UUID.
type Joules = Arc<Mutex<BTreeMap<String, f64>>>;

/// What the probe's thread read last.
#[derive(Debug, Clone)]
pub struct Reading {
    /// When reading began: what happened later is not in it.
    pub at: Instant,
    /// The cards, in the driver's order.
    pub cards: Vec<Snapshot>,
}

/// Until when the probe reads as often as it can.
#[derive(Debug)]
struct Hurry {
    until: Mutex<Instant>,
    changed: Condvar,
}

impl Monitor {
    /// Starts sampling. The host's figures are there at once, the cards' as soon as the driver has answered.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(config: &config::Gpu, metrics: Db) -> io::Result<Self> {
        let (readings, cards) = watch::channel(Reading { at: Instant::now(), cards: Vec::new() });
        let probe = Probe::new(config);
        let hurry = Arc::new(Hurry { until: Mutex::new(Instant::now()), changed: Condvar::new() });
        let pace = hurry.clone();
        let (owners, names) = watch::channel(Arc::default());
        std::thread::Builder::new().name("probe".into()).spawn(move || read_cards(probe, &readings, &names, &pace))?;
        let mut host = host::Reader::default();
        let first = Sample { at: db::now(), host: host.read(), cards: Vec::new() };
        let (publish, samples) = watch::channel(Arc::new(first));
        let history = Arc::new(Mutex::new(History::default()));
        let joules = Joules::default();
        tokio::spawn(sample(host, cards.clone(), publish, history.clone(), joules.clone(), metrics));
        Ok(Self { samples, readings: cards, hurry, owners, history, joules })
    }

    /// What the probe reads, as it reads it.
    pub fn readings(&self) -> watch::Receiver<Reading> {
        self.readings.clone()
    }

    /// Reads as often as it can for `span`: somebody waits for memory to be free.
    pub fn hurry(&self, span: Duration) {
        *self.hurry.until.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now() + span;
        self.hurry.changed.notify_one();
    }

    /// Says what processes and containers are called, from the next reading on.
    pub fn know(&self, owners: Owners) {
        self.owners.send_replace(Arc::new(owners));
    }

    /// What was sampled last. A stale read may advise, never decide.
    pub fn latest(&self) -> Arc<Sample> {
        self.samples.borrow().clone()
    }

    /// Every sample as it comes.
    pub fn samples(&self) -> watch::Receiver<Arc<Sample>> {
        self.samples.clone()
    }

    /// Joules that each card drew since the start, by its UUID, as far as that is known.
    pub fn joules(&self) -> BTreeMap<String, f64> {
        self.joules.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks at the last hour. Sampling waits meanwhile, so be quick.
    pub fn history<T>(&self, look: impl FnOnce(&History) -> T) -> T {
        look(&self.history.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The probe's thread: reads until nobody listens. A call that hangs holds up nothing else.
fn read_cards(
    mut probe: Probe,
    readings: &watch::Sender<Reading>,
    owners: &watch::Receiver<Arc<Owners>>,
    hurry: &Hurry,
) {
    while !readings.is_closed() {
        let begun = Instant::now();
        let mut cards = probe.read();
        let names = owners.borrow().clone();
        names.name(&mut cards);
        readings.send_replace(Reading { at: begun, cards });
        hurry.pause(begun);
    }
}

impl Hurry {
    /// Waits until the reading after the one that began at `begun` is due.
    fn pause(&self, begun: Instant) {
        let mut until = self.until.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let period = if *until > Instant::now() { HURRIED } else { PERIOD };
            let left = period.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return;
            }
            until = self.changed.wait_timeout(until, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

async fn sample(
    mut host: host::Reader,
    cards: watch::Receiver<Reading>,
    publish: watch::Sender<Arc<Sample>>,
    history: Arc<Mutex<History>>,
    joules: Joules,
    metrics: Db,
) {
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first tick comes at once, and processors' use is a difference.
    ticks.tick().await;
    let mut minute = Minute::default();
    let mut meter = Meter::default();
    let mut silent = false;
    loop {
        tokio::select! {
            () = publish.closed() => return,
            _ = ticks.tick() => {}
        }
        let reading = cards.borrow().clone();
        let age = reading.at.elapsed();
        if silent != (age > STALE) {
            silent = age > STALE;
            if silent {
                tracing::warn!(
                    "the driver of the card does not answer any more; its figures are missing until it does"
                );
            } else {
                tracing::info!("the driver of the card answers again");
            }
        }
        let drawn = meter.add(reading.at, &reading.cards);
        for (uuid, drawn) in &drawn {
            *joules.lock().unwrap_or_else(PoisonError::into_inner).entry(uuid.clone()).or_default() += drawn.joules;
        }
        let sample = Sample { at: db::now(), host: host.read(), cards: fresh(reading.cards, age) };
        history.lock().unwrap_or_else(PoisonError::into_inner).push(&sample);
        if let Some(ended) = minute.add(&sample, &drawn)
            && let Err(error) = ended.write(&metrics).await
        {
            tracing::warn!(%error, "a minute of figures could not be written, and will be missing in charts");
        }
        publish.send_replace(Arc::new(sample));
    }
}

/// Cards as they may be shown: figures that are `age` old are not the present's.
fn fresh(cards: Vec<Snapshot>, age: Duration) -> Vec<Snapshot> {
    if age <= STALE {
        return cards;
    }
    let problem = format!("its driver has not answered for {} s", age.as_secs());
    cards.iter().map(|card| card.without_figures(problem.clone())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[tokio::test]
    async fn figures_arrive_and_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("card.json");
        fs::write(&file, r#"[{"name": "A", "uuid": "GPU-1", "utilisation": 42}]"#).unwrap();
        let metrics = Db::open_metrics(&dir.path().join("metrics.db")).await.unwrap();
        let config = config::Gpu { probe: config::ProbeKind::Fixed(file), ..config::Gpu::default() };
        let monitor = Monitor::start(&config, metrics).unwrap();
        assert!(monitor.latest().host.memory_total > 0);
        let mut samples = monitor.samples();
        let sample = samples.wait_for(|sample| !sample.cards.is_empty()).await.unwrap().clone();
        assert_eq!(sample.cards[0].utilisation, Some(42.0));
        assert!(sample.host.cpu_percent.is_some());
        let points: Vec<_> = monitor.history(|history| history.points(&["GPU-1"]).collect());
        assert_eq!(points.last().map(|point| point.cards[0].utilisation), Some(Some(42.0)));
    }

    #[tokio::test]
    async fn reads_faster_for_those_who_wait() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Db::open_metrics(&dir.path().join("metrics.db")).await.unwrap();
        let file = dir.path().join("card.json");
        let config = config::Gpu { probe: config::ProbeKind::Fixed(file), ..config::Gpu::default() };
        let monitor = Monitor::start(&config, metrics).unwrap();
        let mut readings = monitor.readings();
        readings.changed().await.unwrap();
        monitor.hurry(Duration::from_secs(60));
        let first = readings.borrow_and_update().at;
        for _ in 0..3 {
            readings.changed().await.unwrap();
        }
        // Four readings at the usual pace would take three seconds.
        assert!(readings.borrow().at - first < 3 * PERIOD);
    }

    #[test]
    fn a_driver_that_hangs_is_not_believed() {
        let card = Snapshot { name: "A".into(), uuid: "GPU-1".into(), celsius: Some(40.0), ..Snapshot::default() };
        assert_eq!(fresh(vec![card.clone()], STALE)[0].celsius, Some(40.0));
        let silent = fresh(vec![card], Duration::from_secs(12));
        assert_eq!(silent[0].celsius, None);
        assert_eq!(silent[0].problem.as_deref(), Some("its driver has not answered for 12 s"));
    }
}
