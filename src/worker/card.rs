//! What a worker takes of a card: planned before anything is taken.

use super::{Device, Options};
use crate::engine::Error;
use crate::engine::footprint::{Footprint, OnCard, Plan, fit};
use crate::engine::kernels::KvKind;
use crate::engine::kernels::cuda::{self, Image};
use crate::engine::kv_cache::Capacity;
use crate::engine::prefix_cache::Identity;

/// What a worker takes of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// What it is called.
    pub name: String,
    /// Bytes that may be taken.
    pub limit: u64,
    /// What will be.
    pub plan: Plan,
    /// How large the cache is: as was wanted, or with as many tokens as there is room for.
    pub capacity: Capacity,
    /// Bytes of each model, besides what the driver takes.
    pub(super) taken: Vec<u64>,
}

impl Card {
    /// What the models of these headers will take, if they are to run on a card.
    ///
    /// # Errors
    /// There is no such card, it cannot serve them, or they do not fit into what they may take.
    pub(super) fn plan<'a>(
        options: &Options,
        models: impl Iterator<Item = &'a Footprint>,
    ) -> Result<Option<Card>, Error> {
        let Device::Cuda(which) = options.device else { return Ok(None) };
        if !cuda::built() {
            return Err(cuda::Error::NoKernels.into());
        }
        let needs = |footprint: &Footprint| match &footprint.on_card {
            OnCard::Yes(needs) => Ok(*needs),
            OnCard::No(reason) => Err(Error::Unsupported(format!("{reason}; the processor can (--device cpu)"))),
        };
        let models: Vec<&Footprint> = models.collect();
        let kinds = KvKind::ALL.into_iter().filter(|kind| models.iter().all(|model| model.kinds.contains(kind)));
        let kinds: Vec<KvKind> = kinds.collect();
        let models = models.into_iter().map(needs).collect::<Result<Vec<_>, Error>>()?;
        let info = cuda::served(which)?;
        let card = info.card();
        let limit = options.vram_limit.unwrap_or(card.memory).min(card.memory);
        let (plan, capacity) = fit(&models, &card, options.capacity(), limit, &kinds)
            .map_err(|error| Error::Request(error.to_string()))?;
        let taken = models.iter().map(|needs| Plan::of(needs, &card, capacity).taken()).collect();
        Ok(Some(Card { name: info.name, limit, plan, capacity, taken }))
    }

    /// Where the weights of this model are to be kept, or are already, as they lie on such a card.
    pub(super) fn image(&self, options: &Options, model: Identity) -> Option<Image> {
        // What cannot be had twice is not kept.
        let file = options.weights.as_ref()?.try_clone().ok()?;
        Some(Image::new(file, model.and(&self.name).digest()))
    }
}
