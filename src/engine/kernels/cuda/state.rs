//! What the operations of a card share besides their buffers.

use super::arena::Contents;
use super::device::{Device, Memory};
use super::driver::Address;
use super::graph;
use super::need::Scratch;
use super::sleep::Saved;
use super::upload::{List, Pinned, Ring};
use crate::engine::blocks::BLOCK;
use crate::engine::kernels::{OutOfMemory, Step};
use std::sync::Arc;

/// Bytes that travel to the card at a time.
pub(super) const RING: usize = 32 << 20;

/// What operations share besides their buffers.
pub(super) struct State {
    pub ring: Ring,
    /// Where results land on their way.
    pub results: Pinned,
    /// Where the card says that a result is no number.
    pub flag: Pinned,
    pub positions: List,
    pub slots: List,
    pub tables: List,
    pub wanted: List,
    pub queries: [List; 2],
    /// Frequencies of rotations that were seen, on the card.
    pub frequencies: Vec<(Vec<f64>, Memory)>,
    /// Weights as halves, for products with many rows.
    pub expanded: Option<Memory>,
    /// What the parts of an attention found, and how many of them have arrived.
    pub partial: Option<Memory>,
    pub arrived: Option<Memory>,
    /// Rows of a table of embeddings.
    pub embedded: Option<Memory>,
    pub graphs: graph::Graphs,
    /// What the card held, while it sleeps.
    pub saved: Option<Saved>,
    /// Whether matrices are not filled, as an image of them comes.
    pub expects: bool,
}

impl State {
    /// Nothing put there yet.
    ///
    /// # Errors
    /// The host has no such memory.
    pub fn new(device: &Arc<Device>) -> Result<State, OutOfMemory> {
        Ok(State {
            ring: Ring::new(device, RING)?,
            results: Pinned::new(device, 1 << 20)?,
            flag: Pinned::new(device, 4)?,
            positions: List::default(),
            slots: List::default(),
            tables: List::default(),
            wanted: List::default(),
            queries: Default::default(),
            frequencies: Vec::new(),
            expanded: None,
            partial: None,
            arrived: None,
            embedded: None,
            graphs: graph::Graphs::default(),
            saved: None,
            expects: false,
        })
    }

    /// Takes the room that passes of a model need at most, so that none of them has to.
    ///
    /// # Errors
    /// There is none.
    pub fn reserve(&mut self, device: &Arc<Device>, scratch: &Scratch) -> Result<(), OutOfMemory> {
        let Scratch { rows, tables, expanded, partial, arrived, embedded } = *scratch;
        for (list, len) in
            [(&mut self.positions, rows), (&mut self.slots, rows), (&mut self.wanted, rows), (&mut self.tables, tables)]
        {
            list.reserve(device, len)?;
        }
        self.queries.iter_mut().try_for_each(|list| list.reserve(device, 4 * rows))?;
        let pieces = [(&mut self.expanded, expanded), (&mut self.partial, partial), (&mut self.embedded, embedded)];
        for (memory, bytes) in pieces.into_iter().filter(|(_, bytes)| *bytes > 0) {
            if memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
                *memory = None;
                *memory = Some(device.allocate(bytes, Contents::Scratch, "passes")?);
            }
        }
        if arrived > 0 {
            counters(&mut self.arrived, device, arrived);
        }
        Ok(())
    }

    pub fn put_positions(&mut self, device: &Arc<Device>, positions: &[usize]) -> Address {
        let ring = if self.graphs.recording() { None } else { Some(&mut self.ring) };
        self.positions.put(device, ring, &list(positions))
    }

    pub fn put_slots(&mut self, device: &Arc<Device>, step: &Step) -> Address {
        let ring = if self.graphs.recording() { None } else { Some(&mut self.ring) };
        self.slots.put(device, ring, &list(&step.slots))
    }

    /// The tables of all slots, and how many blocks there is room for in each.
    pub fn put_tables(&mut self, device: &Arc<Device>, step: &Step) -> (Address, usize) {
        let ring = if self.graphs.recording() { None } else { Some(&mut self.ring) };
        let (tables, width) = tables(step);
        (self.tables.put(device, ring, &tables), width)
    }

    pub fn put_frequencies(&mut self, device: &Arc<Device>, frequencies: &[f64]) -> Address {
        if let Some((_, memory)) = self.frequencies.iter().find(|(known, _)| known == frequencies) {
            return memory.address();
        }
        let bytes: Vec<u8> = frequencies.iter().flat_map(|frequency| frequency.to_ne_bytes()).collect();
        let memory = device.allocate(bytes.len(), Contents::Kept, "frequencies");
        let memory = memory.unwrap_or_else(|error| panic!("{error}"));
        self.ring.copy(&bytes, memory.address());
        let address = memory.address();
        self.frequencies.push((frequencies.to_vec(), memory));
        address
    }
}

/// At least as much memory as asked for, in place of what is there.
pub(super) fn grown(memory: &mut Option<Memory>, device: &Arc<Device>, bytes: usize, what: &'static str) -> Address {
    if memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
        *memory = None;
        let taken = device.allocate(bytes, Contents::Scratch, what);
        *memory = Some(taken.unwrap_or_else(|error| panic!("{error}")));
    }
    memory.as_ref().map_or(0, Memory::address)
}

/// So many zeros that kernels count in and leave as zeros.
pub(super) fn counters(memory: &mut Option<Memory>, device: &Arc<Device>, count: usize) -> Address {
    let fits = memory.as_ref().is_some_and(|memory| memory.bytes() >= count * 4);
    let address = grown(memory, device, count * 4, "counters");
    if let (false, Some(memory)) = (fits, memory) {
        memory.clear();
    }
    address
}

/// The tables of all slots, each as long as the longest that this step needs, rounded up as recorded passes are; and how
/// long that is.
pub(super) fn tables(step: &Step) -> (Vec<u32>, usize) {
    let width = graph::longest(step).unwrap_or(0).div_ceil(BLOCK);
    let mut tables = vec![0; step.tables.len() * width];
    for (to, table) in tables.chunks_mut(width.max(1)).zip(step.tables) {
        to.iter_mut().zip(table).for_each(|(to, block)| *to = *block);
    }
    (tables, width)
}

/// What is uploaded of numbers.
pub(super) fn list(values: &[usize]) -> Vec<u32> {
    values.iter().map(|&value| value as u32).collect()
}
