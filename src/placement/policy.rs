use super::event::{Hold, Want};
use super::learn::Learned;
use crate::config::{self, Priority};
use crate::runtime::{Card, Reserved, Room, Tenant};
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
    pub(super) fn want(&self, tenant: &Tenant, cards: &[Card], learned: &Learned) -> Want {
        let mut variants = tenant.variants(cards);
        learned.correct(tenant, &mut variants);
        let cost = variants.first().and_then(|variant| learned.cost(tenant, variant));
        let policy = self.models.get(tenant.name()).cloned().unwrap_or_default();
        let hold = match tenant {
            Tenant::Reserved(reserved) if reserved.running.is_some() => Hold::Held,
            Tenant::Reserved(_) => Hold::Reserved,
            _ => Hold::Leased,
        };
        Want {
            model: tenant.name().into(),
            version: tenant.version().into(),
            variants,
            rungs: tenant.rungs(),
            weight: match policy.priority {
                Priority::Low => 1,
                Priority::Normal => 4,
                Priority::High => 16,
            },
            // Whoever reserves says when it ends, or is made to end; it is not for others to send him away.
            pinned: policy.pinned || hold != Hold::Leased,
            hold,
            keep_alive: policy.keep_alive.map(config::Seconds::duration),
            elastic: matches!(tenant, Tenant::Reserved(Reserved { room: Room::Unsaid { .. }, .. })),
            embeds: tenant.spec().is_some_and(|spec| spec.embeds),
            cost: cost.unwrap_or_else(|| tenant.cost()),
        }
    }
}
