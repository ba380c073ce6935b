use super::event::Want;
use super::learn::Learned;
use crate::config::{self, Priority};
use crate::runtime::Tenant;
use std::collections::BTreeMap;

/// What the owner wants of each model.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    models: BTreeMap<String, config::ModelPolicy>,
}

impl Policy {
    /// As `config` says.
    pub fn new(config: &config::Config) -> Self {
        Self { models: config.placement.models.clone() }
    }

    /// Models that are to be loaded at once, and the pinned ones.
    pub fn kept(&self) -> impl Iterator<Item = (&str, bool)> {
        let kept = self.models.iter().filter(|(_, policy)| policy.pinned || policy.preload);
        kept.map(|(name, policy)| (name.as_str(), policy.pinned))
    }

    /// What `tenant` is to the planner on a machine with `cards`, as far as is `learned`.
    pub(super) fn want(&self, tenant: &Tenant, cards: &[&str], learned: &Learned) -> Want {
        let spec = tenant.spec();
        let mut variants = tenant.variants(cards);
        learned.correct(tenant, &mut variants);
        let cost = variants.first().and_then(|variant| learned.cost(tenant, variant));
        let policy = self.models.get(&spec.name).cloned().unwrap_or_default();
        Want {
            model: spec.name.as_str().into(),
            version: spec.sha256.as_str().into(),
            variants,
            rungs: tenant.rungs(),
            weight: match policy.priority {
                Priority::Low => 1,
                Priority::Normal => 4,
                Priority::High => 16,
            },
            pinned: policy.pinned,
            keep_alive: policy.keep_alive.map(config::Seconds::duration),
            embeds: spec.embeds,
            cost: cost.unwrap_or_else(|| tenant.cost()),
        }
    }
}
