//! What cards drew, day by day: energy, what it cost, and what was answered with it.

use crate::config;
use crate::db::Db;
use jiff::civil::Date;
use jiff::{ToSpan, Zoned};
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use tokio::sync::Mutex;

/// Joules of a watt-hour.
const WATT_HOUR: f64 = 3600.0;

/// The handle on what was drawn.
#[derive(Debug, Clone)]
pub struct Energy(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    metrics: Db,
    main: Db,
    price: Option<config::Price>,
    currency: Option<String>,
    /// The last answer, and the minute that it is of: more is written each minute.
    last: Mutex<Option<(i64, Arc<Vec<Day>>)>>,
}

/// One day, from midnight to midnight here.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Day {
    /// The day.
    pub date: Date,
    /// What all cards drew.
    pub watt_hours: f64,
    /// Seconds of which it is known what they drew; those that are not are not guessed.
    pub measured_seconds: f64,
    /// What it cost, in millionths of the currency; none without a price.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_micros: Option<u64>,
    /// The currency, as configured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<String>,
    /// Tokens of prompts.
    pub prompt_tokens: u64,
    /// Tokens of answers.
    pub generated_tokens: u64,
    /// Tokens of answers for each joule; none while nothing was drawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_per_joule: Option<f64>,
}

impl Day {
    /// What it cost, for people; none without a price.
    pub fn cost(&self) -> Option<String> {
        let cost = format!("{:.2}", self.cost_micros? as f64 / 1e6);
        Some(match &self.currency {
            Some(currency) => format!("{cost} {currency}"),
            None => cost,
        })
    }

    /// What several days were together; none of none.
    pub fn sum(days: &[Self]) -> Option<Self> {
        let mut sum = days.first()?.clone();
        for day in &days[1..] {
            sum.watt_hours += day.watt_hours;
            sum.measured_seconds += day.measured_seconds;
            sum.cost_micros = sum.cost_micros.zip(day.cost_micros).map(|(a, b)| a + b);
            sum.prompt_tokens += day.prompt_tokens;
            sum.generated_tokens += day.generated_tokens;
        }
        sum.tokens_per_joule = tokens_per_joule(sum.generated_tokens, sum.watt_hours * WATT_HOUR);
        Some(sum)
    }
}

fn tokens_per_joule(tokens: u64, joules: f64) -> Option<f64> {
    (joules > 0.0).then(|| tokens as f64 / joules)
}

impl Energy {
    /// Days that are told of.
    pub const DAYS: usize = 30;

    /// What is in `metrics`, at the price of `config`, beside the tokens in `main`.
    pub fn new(config: &config::Gpu, metrics: Db, main: Db) -> Self {
        let (price, currency) = (config.price_per_kwh, config.currency.clone());
        Self(Arc::new(Inner { metrics, main, price, currency, last: Mutex::default() }))
    }

    /// The last days of which something is known, the newest first; the minute that runs is not in it yet.
    ///
    /// # Errors
    /// When a database cannot be read.
    pub async fn days(&self) -> Result<Arc<Vec<Day>>, sqlx::Error> {
        let now = Zoned::now();
        let minute = now.timestamp().as_second().div_euclid(60);
        let mut last = self.0.last.lock().await;
        if let Some((of, days)) = &*last
            && *of == minute
        {
            return Ok(days.clone());
        }
        let days = Arc::new(self.read(&now, Self::DAYS).await?);
        *last = Some((minute, days.clone()));
        Ok(days)
    }

    async fn read(&self, now: &Zoned, count: usize) -> Result<Vec<Day>, sqlx::Error> {
        let mut days = Vec::new();
        for back in 0..count {
            let Ok(date) = now.date().checked_sub((back as i64).days()) else { break };
            let midnight = |date: Date| date.to_zoned(now.time_zone().clone()).map(|at| at.timestamp().as_second());
            // A day of a summer time's change has 23 or 25 hours.
            let (Ok(from), Ok(to)) = (midnight(date), date.tomorrow().and_then(midnight)) else { break };
            days.extend(self.day(date, from, to).await?);
        }
        Ok(days)
    }

    /// What is known of the span from `from` to before `to`, in unix seconds; none when nothing is.
    async fn day(&self, date: Date, from: i64, to: i64) -> Result<Option<Day>, sqlx::Error> {
        let (joules, measured_seconds): (Option<f64>, Option<f64>) = sqlx::query_as(
            "SELECT sum(joules), sum(measured_seconds) FROM gpu_minute WHERE minute >= ? AND minute < ?",
        )
        .bind(from.div_euclid(60))
        .bind(to.div_euclid(60))
        .fetch_one(self.0.metrics.reader())
        .await?;
        let (Some(joules), Some(measured_seconds)) = (joules, measured_seconds) else { return Ok(None) };
        let (prompt, generated): (Option<i64>, Option<i64>) =
            sqlx::query_as("SELECT sum(prompt_tokens), sum(completion_tokens) FROM usage WHERE at >= ? AND at < ?")
                .bind(from)
                .bind(to)
                .fetch_one(self.0.main.reader())
                .await?;
        let tokens = |sum: Option<i64>| sum.and_then(|sum| u64::try_from(sum).ok()).unwrap_or_default();
        let generated_tokens = tokens(generated);
        Ok(Some(Day {
            date,
            watt_hours: joules / WATT_HOUR,
            measured_seconds,
            cost_micros: self.0.price.map(|price| price.cost_micros(joules)),
            currency: self.0.currency.clone(),
            prompt_tokens: tokens(prompt),
            generated_tokens,
            tokens_per_joule: tokens_per_joule(generated_tokens, joules),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::usage::{Row, Usage};
    use jiff::tz::TimeZone;

    async fn minute(db: &Db, minute: i64, uuid: &str, joules: f64) {
        sqlx::query("INSERT INTO gpu_minute (minute, uuid, joules, measured_seconds) VALUES (?, ?, ?, 60)")
            .bind(minute)
            .bind(uuid)
            .bind(joules)
            .execute(db.writer())
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn days_are_the_owners_own() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Db::open_metrics(&dir.path().join("metrics.db")).await.unwrap();
        let main = Db::open_main(&dir.path().join("sovereign.db")).await.unwrap();
        // The clocks go back on 25 October: the day has 25 hours.
        let zone = TimeZone::get("Europe/Berlin").unwrap();
        let midnight =
            |day: i8| jiff::civil::date(2026, 10, day).to_zoned(zone.clone()).unwrap().timestamp().as_second();
        let (sunday, monday) = (midnight(25), midnight(26));
        assert_eq!(monday - sunday, 25 * 3600);
        minute(&metrics, sunday / 60 - 1, "GPU-1", 1.0e6).await;
        minute(&metrics, sunday / 60, "GPU-1", 3.6e5).await;
        minute(&metrics, sunday / 60, "GPU-2", 3.6e5).await;
        minute(&metrics, monday / 60 - 1, "GPU-1", 3.6e6).await;
        let usage = Usage::start(main.clone());
        for (at, prompt_tokens, completion_tokens) in [(sunday, 100, 2_000), (monday - 1, 10, 160), (monday, 1, 1)] {
            usage.record(Row {
                at,
                api_key_id: None,
                model: "gemma".into(),
                runtime: "native",
                prompt_tokens,
                completion_tokens,
                first_token_ms: None,
                total_ms: 1,
                status: 200,
            });
        }
        usage.flush().await;
        let config = config::Gpu {
            price_per_kwh: Some("0.30".parse().unwrap()),
            currency: Some("EUR".into()),
            ..config::Gpu::default()
        };
        let energy = Energy::new(&config, metrics, main);
        let now = jiff::Timestamp::from_second(monday + 60).unwrap().to_zoned(zone);
        let days = energy.read(&now, 7).await.unwrap();
        // Nothing is known of Monday yet, and nothing was known before Saturday.
        let dates: Vec<String> = days.iter().map(|day| day.date.to_string()).collect();
        assert_eq!(dates, ["2026-10-25", "2026-10-24"]);
        let sunday = &days[0];
        assert_eq!((sunday.watt_hours, sunday.measured_seconds), (1_200.0, 180.0));
        assert_eq!((sunday.cost_micros, sunday.currency.as_deref()), (Some(360_000), Some("EUR")));
        assert_eq!((sunday.prompt_tokens, sunday.generated_tokens), (110, 2_160));
        assert_eq!(sunday.tokens_per_joule, Some(0.0005));
        assert_eq!(sunday.cost().as_deref(), Some("0.36 EUR"));
        let both = Day::sum(&days).unwrap();
        assert!((both.watt_hours - 1_200.0 - 1.0e6 / 3600.0).abs() < 1e-6, "{both:?}");
        assert_eq!((both.cost_micros, both.generated_tokens, both.date), (Some(443_333), 2_160, sunday.date));
        assert_eq!(Day::sum(&[]), None);
    }

    #[tokio::test]
    async fn nothing_known_is_no_day() {
        let dir = tempfile::tempdir().unwrap();
        let metrics = Db::open_metrics(&dir.path().join("metrics.db")).await.unwrap();
        let main = Db::open_main(&dir.path().join("sovereign.db")).await.unwrap();
        let energy = Energy::new(&config::Gpu::default(), metrics, main);
        assert!(energy.days().await.unwrap().is_empty());
    }
}
