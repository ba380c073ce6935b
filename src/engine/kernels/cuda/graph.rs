//! Passes that are recorded once and repeated: a step of decoding is hundreds of short kernels, and queueing them one by
//! one takes longer than running them.

use super::attention::{self, Packing};
use super::driver::{Address, Handle};
use super::state::{list, tables};
use super::{Cuda, Matrix, Step};
use crate::engine::kernels::Weights;
use std::collections::{HashMap, HashSet};

/// Rows of a pass that is worth recording at most; longer ones keep the card busy for longer than queueing them takes.
pub(super) const ROWS: usize = 32;

/// Recorded passes at most: what the driver takes for each is planned.
const MOST: usize = 64;

/// Contexts of passes that are recorded are told apart by powers of two from here on.
const SHORTEST: usize = 256;

/// Memory that the driver takes is taken as it comes while work is recorded: what fails then is noticed at the end.
const RELAXED: i32 = 2;

/// What passes have in common that are the same work.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    owner: u64,
    rows: usize,
    wanted: usize,
    /// The power of two that no context goes beyond.
    longest: usize,
}

/// A recorded pass.
struct Graph {
    exec: Handle,
    embedded: Option<Embedded>,
    packing: Option<Packing>,
}

/// Where a pass finds its tokens' embeddings.
#[derive(Clone)]
struct Embedded {
    host: Weights,
    row_bytes: usize,
    to: Address,
}

/// The recorded passes.
#[derive(Default)]
pub(super) struct Graphs {
    graphs: HashMap<Key, Graph>,
    /// Passes that came once. What they need is in place.
    seen: HashSet<Key>,
    /// What the device had freed when they were recorded: later they may refer to what is gone.
    freed: u64,
    recording: Option<(Option<Embedded>, Option<Packing>)>,
}

// SAFETY: the driver's graphs may be launched from any thread that has the context.
unsafe impl Send for Graphs {}

impl Graphs {
    /// Whether work is recorded rather than done.
    pub fn recording(&self) -> bool {
        self.recording.is_some()
    }

    /// Notes where the embeddings of the pass's tokens are expected.
    pub fn embeds(&mut self, table: &Matrix, to: Address) {
        if let Some((embedded, _)) = &mut self.recording {
            let row_bytes = table.format.row_bytes(table.cols);
            *embedded = Some(Embedded { host: table.host.clone(), row_bytes, to });
        }
    }

    /// Notes how the pass's queries are packed.
    pub fn packs(&mut self, found: Packing) {
        if let Some((_, packing)) = &mut self.recording {
            *packing = Some(found);
        }
    }
}

/// The power of two that no context of a step goes beyond.
pub(super) fn longest(step: &Step) -> Option<usize> {
    Some((step.positions.iter().max()? + 1).next_power_of_two().max(SHORTEST))
}

/// Passes that are recorded at most, of so many conversations of so many tokens: one for each number of them, and each
/// power of two that they are not longer than.
pub(super) fn most(slots: usize, context: usize) -> usize {
    let lengths = context.next_power_of_two().max(SHORTEST).ilog2() - SHORTEST.ilog2() + 1;
    (slots.min(ROWS) * lengths as usize).min(MOST)
}

/// The pass's key, if it is worth recording: few tokens, each of another conversation.
fn key(step: &Step, owner: u64) -> Option<Key> {
    let rows = step.rows();
    let slots: HashSet<usize> = step.slots.iter().copied().collect();
    let longest = longest(step)?;
    let wanted = step.wanted.len();
    (rows <= ROWS && slots.len() == rows).then_some(Key { owner, rows, wanted, longest })
}

impl Cuda {
    /// Does a pass's operations, or repeats what was recorded of them.
    pub(super) fn recorded(&self, step: &Step, owner: u64, mut operations: impl FnMut()) {
        let Some(key) = key(step, owner) else { return operations() };
        {
            let mut state = self.state();
            if state.graphs.freed != self.device.freed()
                || state.graphs.graphs.len() >= MOST && !state.graphs.graphs.contains_key(&key)
            {
                self.forget(&mut state.graphs);
            }
            if state.graphs.graphs.contains_key(&key) {
                drop(state);
                return self.repeat(&key, step);
            }
            if state.graphs.seen.insert(key.clone()) {
                drop(state);
                operations();
                return;
            }
            state.graphs.recording = Some((None, None));
        }

        let driver = self.device.bind();
        let stream = self.device.stream();
        let (mut graph, mut exec) = (std::ptr::null_mut(), std::ptr::null_mut());
        // SAFETY: the stream is alive, and no one else uses it: whoever has a workspace of this device has it exclusively.
        self.device.must(unsafe { (driver.capture_begin)(stream, RELAXED) }, || "beginning to record".into());
        operations();
        // SAFETY: ends what was begun above; writes a handle, which is given back below.
        self.device.must(unsafe { (driver.capture_end)(stream, &mut graph) }, || "recording".into());
        // SAFETY: the graph is whole; writes a handle, which `forget` gives back. A graph is copied into its executable.
        unsafe {
            self.device.must((driver.graph_instantiate)(&mut exec, graph, 0), || "preparing what was recorded".into());
            (driver.graph_destroy)(graph);
        }
        let mut state = self.state();
        let (embedded, packing) = state.graphs.recording.take().unwrap_or_default();
        state.graphs.graphs.insert(key.clone(), Graph { exec, embedded, packing });
        if state.graphs.freed != self.device.freed() {
            // Something had to grow in the middle: what was recorded before may refer to what it was.
            self.forget(&mut state.graphs);
            drop(state);
            return operations();
        }
        drop(state);
        self.repeat(&key, step);
    }

    fn repeat(&self, key: &Key, step: &Step) {
        let mut state = self.state();
        let state = &mut *state;
        let Some(graph) = state.graphs.graphs.get(key) else { return };
        let (exec, embedded, packing) = (graph.exec, graph.embedded.clone(), graph.packing);
        let ring = &mut state.ring;
        state.positions.put(&self.device, Some(&mut *ring), &list(&step.positions));
        state.slots.put(&self.device, Some(&mut *ring), &list(&step.slots));
        state.wanted.put(&self.device, Some(&mut *ring), &list(&step.wanted));
        state.tables.put(&self.device, Some(&mut *ring), &tables(step).0);
        if let Some(packing) = packing {
            let [few, _] = attention::queries(step, packing);
            state.queries[0].put(&self.device, Some(&mut *ring), &attention::numbers(&few));
        }
        if let Some(Embedded { host, row_bytes, to }) = embedded {
            let bytes = (*host).as_ref();
            let rows = step.tokens.iter().flat_map(|&token| &bytes[token as usize * row_bytes..][..row_bytes]);
            ring.copy(&rows.copied().collect::<Vec<u8>>(), to);
        }
        let driver = self.device.bind();
        // SAFETY: nothing that it refers to was freed since it was recorded.
        self.device.must(unsafe { (driver.graph_launch)(exec, self.device.stream()) }, || "repeating a pass".into());
    }

    fn forget(&self, graphs: &mut Graphs) {
        self.device.wait();
        let driver = self.device.bind();
        for (_, graph) in graphs.graphs.drain() {
            // SAFETY: it was made once, is given back once, and has ended.
            unsafe { (driver.graph_exec_destroy)(graph.exec) };
        }
        graphs.seen.clear();
        graphs.freed = self.device.freed();
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        let mut state = self.state();
        self.forget(&mut state.graphs);
    }
}
