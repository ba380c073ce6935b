//! Batches through a model on a device.

use super::network::Network;
use super::{Entry, Hyper, Model, Workspace};
use crate::engine::Error;
use crate::engine::blocks::{Blocks, Chain};
use crate::engine::kernels::{Adapted, CacheShape, Kernels, Results, Step};
use crate::engine::kv_cache::{self, Capacity};

/// What is wanted of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Output {
    /// What follows. [vocabulary]
    Logits,
    /// What the last layer gives, normalised. [width]
    States,
}

/// A model on a device.
pub(super) struct On<K: Kernels> {
    pub kernels: K,
    pub network: Network<K::Matrix, K::Buffer>,
}

impl<K: Kernels> On<K> {
    pub(super) fn cache(&self, hyper: &Hyper, capacity: Capacity) -> Result<kv_cache::On<K>, Error> {
        let Hyper { layers, kv_heads: heads, head: size, .. } = *hyper;
        let memory =
            self.kernels.cache(CacheShape { layers, blocks: capacity.blocks(), heads, size, kind: capacity.kind })?;
        let workspace = Workspace::new(&self.kernels, hyper, capacity)?;
        Ok(kv_cache::On { memory, workspace, step: Step::default() })
    }

    /// Appends what is wanted of the entries that want something, a row each; tells whether all of it are numbers.
    pub(super) fn forward(
        &self,
        Model { hyper, roots, .. }: &Model,
        held: &mut kv_cache::On<K>,
        cache: u64,
        blocks: &mut Blocks,
        entries: &[Entry],
        output: Output,
        out: &mut Results,
    ) -> bool {
        let On { kernels: k, network } = self;
        let kv_cache::On { memory, workspace: w, step: spare } = held;
        blocks.take_copies().into_iter().for_each(|copy| k.copy_block(memory, copy));
        let at_once = match output {
            Output::Logits => w.logit_rows,
            Output::States => w.rows,
        };
        let compute = |step: &Step, rows: &[usize], w: &mut Workspace<K>| match output {
            Output::Logits => network.ends().logits(k, hyper, step, rows, w),
            Output::States => network.ends().states(k, hyper, rows, w),
        };
        let mut sound = true;
        let mut read = |rows: &[usize], w: &Workspace<K>, out: &mut Results| {
            sound &= match output {
                Output::Logits => k.land(&w.logits, rows.len() * hyper.vocabulary, out),
                Output::States => k.land(&w.h, rows.len() * hyper.width, out),
            }
        };
        for entries in entries.chunks(w.rows) {
            let step = step(std::mem::take(spare), entries, blocks, roots);
            let (first, others) = step.wanted.split_at(step.wanted.len().min(at_once));
            k.pass(&step, cache, || {
                network.forward(k, hyper, &step, memory, w);
                if !first.is_empty() {
                    compute(&step, first, w);
                }
            });
            if !first.is_empty() {
                read(first, w, out);
            }
            for rows in others.chunks(at_once) {
                compute(&step, rows, w);
                read(rows, w, out);
            }
            let Step { tokens, slots, positions, wanted, .. } = step;
            *spare = Step { tokens, slots, positions, wanted, ..Step::default() };
        }
        sound
    }
}

/// The step of these entries, in the memory of an earlier one.
fn step<'a>(spare: Step<'_>, entries: &[Entry], blocks: &'a Blocks, roots: &[Chain]) -> Step<'a> {
    let Step { mut tokens, mut slots, mut positions, mut wanted, .. } = spare;
    refill(&mut tokens, entries.iter().map(|entry| entry.token));
    refill(&mut slots, entries.iter().map(|entry| entry.slot));
    refill(&mut positions, entries.iter().map(|entry| entry.position));
    refill(&mut wanted, (0..entries.len()).filter(|&row| entries[row].wants_logits));
    let adapted = adapted(entries, blocks, roots);
    Step { tokens, slots, positions, wanted, adapted, tables: blocks.tables() }
}

fn refill<T>(list: &mut Vec<T>, with: impl Iterator<Item = T>) {
    list.clear();
    list.extend(with);
}

/// Which entries belong to conversations that begin with one of the adapters' roots. Adapters that are alike have one root,
/// and the first of them serves all.
fn adapted(entries: &[Entry], blocks: &Blocks, roots: &[Chain]) -> Vec<Adapted> {
    let of = |adapter: usize| {
        let is = |&row: &usize| blocks.root(entries[row].slot) == roots[adapter];
        Adapted { adapter, rows: (0..entries.len()).filter(is).collect() }
    };
    let first = |&adapter: &usize| !roots[..adapter].contains(&roots[adapter]);
    (0..roots.len()).filter(first).map(of).filter(|adapted| !adapted.rows.is_empty()).collect()
}
