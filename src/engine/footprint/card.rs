//! What a model will hold of a card, and how much of what is wanted fits.

use crate::engine::blocks::BLOCK;
use crate::engine::kernels::cuda::GRANULE;
use crate::engine::kernels::cuda::need::{Card, Needs, rows_at_once};
use crate::engine::kernels::{CacheShape, KvKind};
use crate::engine::kv_cache::Capacity;
use crate::engine::model::Lengths;
use serde::Serialize;
use std::fmt;

/// Contexts that are offered instead of one that does not fit are multiples of this.
const STEP: usize = 256;

/// Whether a card can serve a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnCard {
    /// It can, if it has this.
    Yes(Needs),
    /// None can, for this reason; the processor may.
    No(String),
}

impl Default for OnCard {
    fn default() -> Self {
        Self::No("it is no model".into())
    }
}

/// What models that run in one process will hold of a card: bytes, by part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// Of matrices and vectors.
    pub weights: u64,
    /// Of keys and values.
    pub kv: u64,
    /// Of activations and logits.
    pub activations: u64,
    /// Of what kernels need besides, and of what is on its way to the card.
    pub scratch: u64,
    /// Of passes that are recorded: what the driver takes for them.
    pub graphs: u64,
    /// Of the driver's own for the process, and of the kernels: measured.
    pub context: u64,
}

impl Plan {
    /// Of one model with a cache of this size, without what the driver takes.
    pub fn of(needs: &Needs, card: &Card, capacity: Capacity) -> Plan {
        let Capacity { slots, context, kind, .. } = capacity;
        let Lengths { rows, logit_rows } = Lengths::new(rows_at_once(card.memory), capacity);
        let Needs { layers, kv_heads: heads, head: size, .. } = *needs;
        let kv = needs.cache(CacheShape { layers, blocks: capacity.blocks(), heads, size, kind });
        let activations = needs.activations(rows, logit_rows);
        let scratch = needs.scratch(card, [rows, logit_rows], slots, context).bytes(size);
        let taken = [needs.weights, kv, activations, scratch].into_iter().fold(0_u64, u64::saturating_add);
        // Memory comes in granules.
        let scratch = scratch + (taken.checked_next_multiple_of(GRANULE as u64).unwrap_or(taken) - taken);
        Plan { weights: needs.weights, kv, activations, scratch, graphs: 0, context: 0 }
    }

    /// Of models with caches of this size, one after the other in one process.
    pub fn of_all(models: &[Needs], card: &Card, capacity: Capacity) -> Plan {
        let mut sum = Plan { context: card.context_bytes(), ..Plan::default() };
        for needs in models {
            let Plan { weights, kv, activations, scratch, .. } = Plan::of(needs, card, capacity);
            sum.weights = sum.weights.saturating_add(weights);
            sum.kv = sum.kv.saturating_add(kv);
            sum.activations += activations;
            sum.scratch += scratch;
            sum.graphs += needs.graphs(capacity.slots, capacity.context);
        }
        sum
    }

    /// What is taken of the card besides what the driver takes.
    pub fn taken(&self) -> u64 {
        [self.weights, self.kv, self.activations, self.scratch].into_iter().fold(0, u64::saturating_add)
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.taken().saturating_add(self.graphs).saturating_add(self.context)
    }
}

impl fmt::Display for Plan {
    /// `5.31 GiB: weights 4.33, keys and values 0.25, activations 0.11, ...`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { weights, kv, activations, scratch, graphs, context } = *self;
        write!(
            f,
            "{:.2} GiB: weights {:.2}, keys and values {:.2}, activations {:.2}, kernels' scratch {:.2}, recorded passes {:.2}, \
             the driver {:.2}",
            gib(self.total()),
            gib(weights),
            gib(kv),
            gib(activations),
            gib(scratch),
            gib(graphs),
            gib(context)
        )
    }
}

fn gib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 30)
}

/// Models do not fit into what they may have.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TooLarge {
    /// What they take with room for one whole conversation.
    pub least: Plan,
    /// What they may take.
    pub limit: u64,
    /// The tokens of a conversation.
    pub context: usize,
    /// What would fit, and what that takes: with the fewest changes to what was wanted.
    pub nearest: Option<(Capacity, u64)>,
}

impl std::error::Error for TooLarge {}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooLarge { least, limit, context, nearest } = self;
        write!(
            f,
            "with room for one conversation of {context} tokens it takes {least} of the card's memory, and may take {:.2} GiB",
            gib(*limit)
        )?;
        match nearest {
            Some((Capacity { slots, context, kind, .. }, bytes)) => {
                write!(f, "; --ctx {context} --slots {slots} --kv {} fits, with {:.2} GiB", kind.name(), gib(*bytes))
            }
            None => write!(f, "; no setting fits"),
        }
    }
}

/// How large a cache can be of what is `wanted`, so that all is within `limit`: whole, or with as many tokens as remain, as
/// long as one conversation has all of its own. Keys and values may be of those `kinds`.
///
/// # Errors
/// Not even that fits; with what would.
pub fn fit(
    models: &[Needs],
    card: &Card,
    wanted: Capacity,
    limit: u64,
    kinds: &[KvKind],
) -> Result<(Plan, Capacity), TooLarge> {
    let plan = |capacity| Plan::of_all(models, card, capacity);
    let fits = |capacity: &Capacity| plan(*capacity).total() <= limit;
    if fits(&wanted) {
        return Ok((plan(wanted), wanted));
    }
    let with_blocks = |blocks: usize| Capacity { tokens: Some(blocks * BLOCK), ..wanted };
    let one = Capacity { tokens: Some(wanted.context), ..wanted };
    let (mut least, mut most) = (one.blocks(), wanted.blocks());
    if fits(&one) {
        // The most blocks that fit: all up to `least` do, `most` do not.
        while least + 1 < most {
            let middle = least + (most - least) / 2;
            if fits(&with_blocks(middle)) { least = middle } else { most = middle }
        }
        let capacity = with_blocks(least);
        return Ok((plan(capacity), capacity));
    }
    let mut alternatives = Vec::new();
    for slots in (1..wanted.slots).rev() {
        alternatives.push(Capacity { slots, tokens: None, ..one });
    }
    for &kind in kinds.iter().filter(|kind| kind.row_bytes(32) < one.kind.row_bytes(32)) {
        alternatives.push(Capacity { kind, ..one });
        alternatives.push(Capacity { kind, slots: 1, tokens: None, ..one });
    }
    // Longer contexts take more, whatever else.
    let shorter = |context: usize| Capacity { slots: 1, context, tokens: None, kind: one.kind };
    let (mut fitting, mut failing) = (0, wanted.context.div_ceil(STEP));
    while fitting + 1 < failing {
        let middle = fitting + (failing - fitting) / 2;
        if fits(&shorter(middle * STEP)) { fitting = middle } else { failing = middle }
    }
    if fitting > 0 {
        alternatives.push(shorter(fitting * STEP));
    }
    let nearest = alternatives.into_iter().find(fits).map(|capacity| (capacity, plan(capacity).total()));
    Err(TooLarge { least: plan(one), limit, context: wanted.context, nearest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::quant::Format;
    use proptest::prelude::*;

    const RTX_5060: Card = Card { capability: (12, 0), memory: 8_188 << 20, multiprocessors: Some(30) };
    const H100: Card = Card { capability: (9, 0), memory: 81_559 << 20, multiprocessors: Some(132) };

    /// Llama 3.1 8B in Q4_K_M: half of the values and of the ways down in 6 bits, as is the head.
    fn llama() -> Needs {
        let mut needs = Needs {
            width: 4096,
            queries: 4096,
            keys: 1024,
            hidden: 14336,
            head: 128,
            kv_heads: 8,
            layers: 32,
            vocabulary: 128_256,
            ..Needs::default()
        };
        needs.add_table(Format::Q4K, 4096);
        needs.add_matrix(Format::Q6K, 128_256, 4096);
        for layer in 0..32 {
            let more = if layer % 2 == 0 { Format::Q6K } else { Format::Q4K };
            needs.add_matrix(Format::Q4K, 4096, 4096);
            needs.add_matrix(Format::Q4K, 1024, 4096);
            needs.add_matrix(more, 1024, 4096);
            needs.add_matrix(Format::Q4K, 4096, 4096);
            needs.add_matrix(Format::Q4K, 14336, 4096);
            needs.add_matrix(Format::Q4K, 14336, 4096);
            needs.add_matrix(more, 4096, 14336);
            (0..2).for_each(|_| needs.add_vector(4096));
        }
        needs.add_vector(4096);
        needs
    }

    #[test]
    fn eight_billion_weights() {
        // 4.625 bits a weight of Q4_K with its scales as the kernels read them, 6.5625 of Q6_K; keys and values 128 KiB a token.
        let plan = Plan::of(&llama(), &RTX_5060, Capacity::whole(1, 8192));
        assert_eq!(plan.kv, 1 << 30);
        assert!((4.2..4.4).contains(&gib(plan.weights)), "{plan}");
        assert!(gib(plan.activations + plan.scratch) < 0.25, "{plan}");
        // What is not known of a card costs little.
        let unknown = Card { multiprocessors: None, ..RTX_5060 };
        let more = Plan::of(&llama(), &unknown, Capacity::whole(1, 8192)).taken() - plan.taken();
        assert!(more < 4 << 20, "{more}");
    }

    #[test]
    fn what_does_not_fit_is_told_with_what_would() {
        let check = |slots, context, kinds: &[KvKind], gigabytes: f64, expected: &str| {
            let limit = (gigabytes * f64::from(1 << 30)) as u64;
            let refused = fit(&[llama()], &RTX_5060, Capacity::whole(slots, context), limit, kinds).unwrap_err();
            let text = refused.to_string();
            assert!(text.contains("may take") && text.contains(expected), "{text}");
            if let Some((capacity, bytes)) = refused.nearest {
                assert!(bytes <= limit && fit(&[llama()], &RTX_5060, capacity, limit, kinds).is_ok(), "{text}");
            }
        };
        check(1, 32_768, &[KvKind::F16], 6.5, "--slots 1 --kv f16 fits");
        check(1, 16_384, &[KvKind::F16, KvKind::Fp8], 6.5, "--ctx 16384 --slots 1 --kv fp8 fits");
        check(1, 8_192, &KvKind::ALL, 4.0, "no setting fits");
    }

    #[test]
    fn keys_and_values_get_what_remains() {
        let limit = 8 << 30;
        let (plan, capacity) = fit(&[llama()], &RTX_5060, Capacity::whole(4, 8192), limit, &[KvKind::F16]).unwrap();
        assert!((8192..4 * 8192).contains(&capacity.tokens()), "{capacity:?}");
        assert!(plan.total() <= limit && limit - plan.total() < (8 << 20), "{plan}");
    }

    proptest! {
        #[test]
        fn as_much_as_fits(
            small in any::<bool>(),
            slots in 1_usize..40,
            context in 1_usize..40_000,
            kind in 0_usize..3,
            limit in (4_u64 << 30)..(40_u64 << 30),
        ) {
            let (card, models) = (if small { RTX_5060 } else { H100 }, [llama()]);
            let wanted = Capacity { kind: KvKind::ALL[kind], ..Capacity::whole(slots, context) };
            match fit(&models, &card, wanted, limit, &KvKind::ALL) {
                Ok((plan, capacity)) => {
                    prop_assert!(plan.total() <= limit && capacity.tokens() >= context);
                    prop_assert_eq!(plan, Plan::of_all(&models, &card, capacity));
                    let more = Capacity { tokens: Some(capacity.tokens() + BLOCK), ..wanted };
                    let whole = capacity.blocks() == wanted.blocks();
                    prop_assert!(whole || Plan::of_all(&models, &card, more).total() > limit);
                }
                Err(TooLarge { least, nearest, .. }) => {
                    prop_assert!(least.total() > limit);
                    if let Some((capacity, bytes)) = nearest {
                        prop_assert_eq!(Plan::of_all(&models, &card, capacity).total(), bytes);
                        prop_assert!(bytes <= limit);
                    }
                }
            }
        }
    }
}
