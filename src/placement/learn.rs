use crate::db::Db;
use crate::db::footprint::{self, Footprint};
use crate::runtime::{Tenant, Variant};
use std::collections::HashMap;
use std::time::Duration;
use tokio::sync::mpsc;

/// A footprint that grew by less is not news.
const NEWS: u64 = 1 << 20;

/// What tenants were seen to hold, and how long they took to start. A prediction that was too small is too small once.
#[derive(Debug, Default)]
pub struct Learned {
    known: HashMap<String, Footprint>,
    /// Where what is new goes; nowhere in tests.
    save: Option<mpsc::UnboundedSender<(String, Footprint)>>,
}

impl Learned {
    /// What is remembered in `db`, where what is learned from now on goes too.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn open(db: &Db) -> Result<Self, sqlx::Error> {
        let known = footprint::all(db).await?.into_iter().collect();
        let (save, mut inbox) = mpsc::unbounded_channel::<(String, Footprint)>();
        let db = db.clone();
        tokio::spawn(async move {
            while let Some((key, footprint)) = inbox.recv().await {
                if let Err(error) = footprint::save(&db, &key, footprint).await {
                    tracing::warn!(%error, "what a model was seen to hold could not be remembered");
                }
            }
        });
        Ok(Self { known, save: Some(save) })
    }

    /// The larger of what was predicted and what was seen, for each variant.
    pub(super) fn correct(&self, tenant: &Tenant, variants: &mut [Variant]) {
        for variant in variants {
            let Some(seen) = key(tenant, variant).and_then(|key| self.known.get(&key)) else { continue };
            // What was seen is the most of any one card.
            for predicted in variant.claim.vram.values_mut() {
                *predicted = (*predicted).max(seen.vram);
            }
        }
    }

    /// How long a start took the last time.
    pub(super) fn cost(&self, tenant: &Tenant, variant: &Variant) -> Option<Duration> {
        let seen = self.known.get(&key(tenant, variant)?)?;
        (seen.load_ms > 0).then(|| Duration::from_millis(seen.load_ms))
    }

    /// A tenant was seen to hold so much of its card.
    pub(super) fn holds(&mut self, tenant: &Tenant, variant: &Variant, bytes: u64) {
        self.update(tenant, variant, |seen| {
            let news = bytes > seen.vram + NEWS;
            seen.vram = seen.vram.max(bytes);
            news
        });
    }

    /// A start took so long.
    pub(super) fn loaded(&mut self, tenant: &Tenant, variant: &Variant, took: Duration) {
        self.update(tenant, variant, |seen| {
            seen.load_ms = took.as_millis().max(1) as u64;
            true
        });
    }

    fn update(&mut self, tenant: &Tenant, variant: &Variant, update: impl FnOnce(&mut Footprint) -> bool) {
        let Some(key) = key(tenant, variant) else { return };
        let seen = self.known.entry(key.clone()).or_default();
        if update(seen)
            && let Some(save) = &self.save
        {
            // Without its writer the daemon is ending.
            let _ = save.send((key, *seen));
        }
    }
}

/// What ran: another file, setting or version of ours may hold another amount. None where its owner says what it may take.
fn key(tenant: &Tenant, variant: &Variant) -> Option<String> {
    let setting = &variant.setting;
    let digest = tenant.digest()?;
    // One image can be several services, which do different things.
    if tenant.spec().is_none() {
        return Some(format!("{digest} {}", tenant.name()));
    }
    Some(format!(
        "{digest} {} {} x{} {} {}",
        tenant.runtime(setting),
        setting.context,
        variant.slots,
        setting.kv.as_deref().unwrap_or("-"),
        env!("CARGO_PKG_VERSION")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::ModelSpec;
    use crate::runtime::fake::{Fake, Script};
    use crate::runtime::{Claim, Runtime};
    use std::collections::BTreeMap;
    use std::sync::Arc;

    #[tokio::test]
    async fn what_was_seen_outlives_the_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let db = Db::open_main(&dir.path().join("sovereign.db")).await.unwrap();
        let fake = Fake::default();
        let on_card = |bytes| Claim { ram: 1, threads: 1, vram: BTreeMap::from([("GPU-1".to_string(), bytes)]) };
        fake.script("m", Script { claims: vec![on_card(5 << 30)], ..Script::default() });
        let tenant = Runtime::Fake(fake).tenant(Arc::new(ModelSpec::for_tests("m")));
        let mut variants = tenant.variants(&[]);

        let mut learned = Learned::open(&db).await.unwrap();
        learned.holds(&tenant, &variants[0], 6 << 30);
        learned.loaded(&tenant, &variants[0], Duration::from_millis(1_500));
        let written = async {
            loop {
                let again = Learned::open(&db).await.unwrap();
                if again.cost(&tenant, &variants[0]).is_some() {
                    return again;
                }
            }
        };
        let mut again = tokio::time::timeout(Duration::from_secs(10), written).await.unwrap();
        again.correct(&tenant, &mut variants);
        assert_eq!(variants[0].claim, on_card(6 << 30));
        assert_eq!(again.cost(&tenant, &variants[0]), Some(Duration::from_millis(1_500)));
        // Less than predicted is no reason to promise less.
        again.holds(&tenant, &variants[0], 1 << 30);
        again.correct(&tenant, &mut variants);
        assert_eq!(variants[0].claim, on_card(6 << 30));
    }
}
