//! A year of minutes: the tables `gpu_minute` and `host_minute` of `metrics.db`.

use super::Sample;
use super::meter::Drawn;
use crate::db::Db;
use std::collections::BTreeMap;

/// Minutes that are kept.
const KEPT: i64 = 366 * 24 * 60;
/// How often, in minutes, older ones are removed.
const PRUNE_EVERY: i64 = 24 * 60;

/// What one minute has brought so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Minute {
    /// Unix seconds / 60.
    minute: i64,
    cards: BTreeMap<String, Card>,
    memory: Peak,
    cpu: Mean,
}

#[derive(Debug, Clone, Default, PartialEq)]
struct Card {
    memory: Peak,
    utilisation: Mean,
    power: Mean,
    celsius: Mean,
    drawn: Option<Drawn>,
}

/// The largest; peaks decide what fits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Peak(Option<u64>);

impl Peak {
    fn add(&mut self, value: Option<u64>) {
        self.0 = self.0.max(value);
    }

    /// As SQLite has numbers.
    fn get(self) -> Option<i64> {
        self.0.map(|bytes| i64::try_from(bytes).unwrap_or(i64::MAX))
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: Option<f32>) {
        if let Some(value) = value {
            self.sum += f64::from(value);
            self.count += 1;
        }
    }

    fn get(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

impl Minute {
    /// Adds a second, and what cards drew in it. When it begins another minute, the one that ended is returned.
    pub(super) fn add(&mut self, sample: &Sample, drawn: &BTreeMap<String, Drawn>) -> Option<Minute> {
        let minute = sample.at.div_euclid(60);
        let ended = (minute != self.minute).then(|| std::mem::take(self));
        self.minute = minute;
        self.memory.add(Some(sample.host.memory_used));
        self.cpu.add(sample.host.cpu_percent);
        for card in &sample.cards {
            let sums = self.cards.entry(card.uuid.clone()).or_default();
            sums.memory.add(card.memory.map(|memory| memory.used));
            sums.utilisation.add(card.utilisation);
            sums.power.add(card.power_watts);
            sums.celsius.add(card.celsius);
            if let Some(drawn) = drawn.get(&card.uuid) {
                sums.drawn.get_or_insert_default().add(*drawn);
            }
        }
        // What it was before the first second is no minute.
        ended.filter(|ended| ended.cpu.count > 0)
    }

    /// Writes it, and once a day removes what is too old.
    pub(super) async fn write(&self, db: &Db) -> Result<(), sqlx::Error> {
        let (Some(used), Some(cpu)) = (self.memory.get(), self.cpu.get()) else { return Ok(()) };
        let mut transaction = db.writer().begin().await?;
        sqlx::query("INSERT OR REPLACE INTO host_minute (minute, used_bytes, cpu_percent) VALUES (?, ?, ?)")
            .bind(self.minute)
            .bind(used)
            .bind(cpu)
            .execute(&mut *transaction)
            .await?;
        for (uuid, card) in &self.cards {
            sqlx::query(
                "INSERT OR REPLACE INTO gpu_minute (minute, uuid, used_bytes, utilisation, power_watts, celsius, joules,
                                                    measured_seconds) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(self.minute)
            .bind(uuid)
            .bind(card.memory.get())
            .bind(card.utilisation.get())
            .bind(card.power.get())
            .bind(card.celsius.get())
            .bind(card.drawn.map(|drawn| drawn.joules))
            .bind(card.drawn.map(|drawn| drawn.seconds))
            .execute(&mut *transaction)
            .await?;
        }
        if self.minute % PRUNE_EVERY == 0 {
            for prune in ["DELETE FROM host_minute WHERE minute < ?", "DELETE FROM gpu_minute WHERE minute < ?"] {
                sqlx::query(prune).bind(self.minute - KEPT).execute(&mut *transaction).await?;
            }
        }
        transaction.commit().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Host, Memory, Snapshot};

    fn sample(at: i64, used: u64, utilisation: Option<f32>) -> Sample {
        let memory = Some(Memory { total: 8, used, free: 8 - used });
        let card = Snapshot { uuid: "GPU-1".into(), memory, utilisation, ..Snapshot::default() };
        let host = Host { memory_total: 100, memory_used: used * 10, cpu_percent: Some(used as f32), cpus: 2 };
        Sample { at, host, cards: vec![card] }
    }

    async fn rows(db: &Db) -> Vec<(i64, String, Option<i64>, Option<f64>, Option<f64>)> {
        sqlx::query_as("SELECT minute, uuid, used_bytes, utilisation, celsius FROM gpu_minute ORDER BY minute")
            .fetch_all(db.reader())
            .await
            .unwrap()
    }

    #[tokio::test]
    async fn seconds_become_minutes_of_a_year() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_metrics(&dir.path().join("metrics.db")).await.unwrap();
        let midnight = 20_000 * 24 * 60;
        let start = (midnight - 1) * 60;
        let drawn = |joules| BTreeMap::from([("GPU-1".to_owned(), Drawn { joules, seconds: 1.0 })]);
        let none = BTreeMap::new();
        let mut minute = Minute::default();
        assert_eq!(minute.add(&sample(start + 1, 2, Some(10.0)), &drawn(5.0)), None);
        assert_eq!(minute.add(&sample(start + 2, 5, None), &drawn(7.0)), None);
        assert_eq!(minute.add(&sample(start + 3, 3, Some(20.0)), &none), None);
        let ended = minute.add(&sample(start + 60, 1, Some(50.0)), &none).expect("a minute");
        ended.write(&db).await.unwrap();
        assert_eq!(rows(&db).await, [(midnight - 1, "GPU-1".into(), Some(5), Some(15.0), None)]);
        let energy: (f64, f64) =
            sqlx::query_as("SELECT joules, measured_seconds FROM gpu_minute").fetch_one(db.reader()).await.unwrap();
        assert_eq!(energy, (12.0, 2.0));
        let host: (i64, i64, f64) = sqlx::query_as("SELECT * FROM host_minute").fetch_one(db.reader()).await.unwrap();
        assert_eq!(host, (midnight - 1, 50, 10.0 / 3.0));

        // A year later, at midnight.
        let later = midnight + KEPT + 24 * 60;
        minute.add(&sample(later * 60, 1, None), &none).expect("a minute").write(&db).await.unwrap();
        assert_eq!(rows(&db).await.len(), 2);
        minute.add(&sample((later + 1) * 60, 1, None), &none).expect("a minute").write(&db).await.unwrap();
        assert_eq!(rows(&db).await, [(later, "GPU-1".into(), Some(1), None, None)]);
    }
}
