//! Which block of a cache holds what. A conversation's keys and values lie in blocks of [`BLOCK`] positions, wherever there
//! was room; its table names them in order. Conversations that begin alike share the blocks of their beginning.
//!
//! A block is known by what it and all before it hold, so that what was computed once is found again by anybody's prompt,
//! also after its conversation has ended, for as long as nobody needs the room. This is bookkeeping alone: no device is
//! known here, and blocks that must be copied there are noted for whoever runs the next pass.

use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;

/// Positions of a block.
pub const BLOCK: usize = 32;

/// What stands for all tokens up to the end of a block, and for whatever else their keys and values depend on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Chain([u8; 32]);

impl Default for Chain {
    /// The beginning of conversations whose keys and values depend on nothing but their tokens.
    fn default() -> Chain {
        Chain::root(&[])
    }
}

impl Chain {
    /// The beginning of conversations whose keys and values depend on `kind` too, such as the name of an adapter. Those of
    /// another kind share nothing with them.
    pub fn root(kind: &[u8]) -> Chain {
        Chain(Sha256::digest(kind).into())
    }

    /// The same with these tokens after it.
    pub fn then(&self, tokens: &[u32]) -> Chain {
        let mut digest = Sha256::new_with_prefix(self.0);
        tokens.iter().for_each(|token| digest.update(token.to_le_bytes()));
        Chain(digest.finalize().into())
    }

    /// Its bytes.
    pub fn digest(&self) -> &[u8; 32] {
        &self.0
    }
}

/// There are not so many blocks free.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cache is full: {needed} blocks of {BLOCK} tokens are needed, {available} are free")]
pub struct Full {
    /// Blocks that were asked for.
    pub needed: usize,
    /// Blocks that nobody uses.
    pub available: usize,
}

/// A block whose beginning becomes another one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copy {
    /// Which is copied.
    pub from: u32,
    /// Where to.
    pub to: u32,
}

/// The blocks of a cache, and the conversations that use them.
#[derive(Debug)]
pub struct Blocks {
    context: usize,
    /// Of each slot, the blocks of its conversation.
    tables: Vec<Vec<u32>>,
    /// Of each slot, the tokens that it holds.
    lengths: Vec<usize>,
    /// Of each slot, where its conversation begins.
    roots: Vec<Chain>,
    blocks: Vec<Block>,
    /// Blocks that hold nothing and that nobody uses.
    empty: Vec<u32>,
    /// Blocks that hold something and that nobody uses, by when they were let go.
    idle: BTreeMap<u64, u32>,
    clock: u64,
    /// Of the blocks that hold something after the same, the first; [`Block::sibling`] leads to the others.
    after: HashMap<Chain, u32>,
    copies: Vec<Copy>,
}

#[derive(Debug, Clone)]
struct Block {
    /// Tables that it is in.
    users: usize,
    /// What it holds, from its first position on. All the room that it needs is there.
    tokens: Vec<u32>,
    /// What comes before.
    parent: Chain,
    /// What stands for all up to its end, once it is full.
    chain: Option<Chain>,
    /// When it was let go.
    idle_since: u64,
    /// Another one that holds something after the same.
    sibling: Option<u32>,
}

impl Blocks {
    /// Nothing held yet: for `slots` conversations of up to `context` tokens each, in so many blocks; at least those of one
    /// whole conversation.
    pub fn new(slots: usize, context: usize, blocks: usize) -> Blocks {
        let blocks = blocks.max(context.div_ceil(BLOCK)).min(u32::MAX as usize);
        let root = Chain::default();
        let block = |_| {
            let tokens = Vec::with_capacity(BLOCK);
            Block { users: 0, tokens, parent: root, chain: None, idle_since: 0, sibling: None }
        };
        Blocks {
            context,
            tables: (0..slots).map(|_| Vec::with_capacity(context.div_ceil(BLOCK))).collect(),
            lengths: vec![0; slots],
            roots: vec![root; slots],
            // The first are taken first: memory that was never touched takes no room.
            empty: (0..blocks as u32).rev().collect(),
            blocks: (0..blocks).map(block).collect(),
            idle: BTreeMap::new(),
            clock: 0,
            // With twice the room it tidies itself up in place.
            after: HashMap::with_capacity(2 * blocks),
            copies: Vec::new(),
        }
    }

    /// Conversations at once.
    pub fn slots(&self) -> usize {
        self.tables.len()
    }

    /// Tokens that a conversation may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many blocks there are.
    pub fn count(&self) -> usize {
        self.blocks.len()
    }

    /// Blocks that nobody uses; what they still hold is given up when they are needed.
    pub fn available(&self) -> usize {
        self.empty.len() + self.idle.len()
    }

    /// Tokens that a slot holds. An unknown slot holds none.
    pub fn len(&self, slot: usize) -> usize {
        self.lengths.get(slot).copied().unwrap_or(0)
    }

    /// Where a slot's conversation begins.
    pub fn root(&self, slot: usize) -> Chain {
        self.roots[slot]
    }

    /// Whether no slot holds a token.
    pub fn is_empty(&self) -> bool {
        self.lengths.iter().all(|&len| len == 0)
    }

    /// Of each slot, the blocks of its conversation in order.
    pub fn tables(&self) -> &[Vec<u32>] {
        &self.tables
    }

    /// Which blocks hold something, of conversations that are over too: as few and long ranges as there are.
    pub fn held(&self) -> Vec<Range<u32>> {
        let mut held: Vec<Range<u32>> = Vec::new();
        for (at, _) in (0..).zip(&self.blocks).filter(|(_, block)| !block.tokens.is_empty()) {
            match held.last_mut() {
                Some(last) if last.end == at => last.end += 1,
                _ => held.push(at..at + 1),
            }
        }
        held
    }

    /// Copies that are to be made, in this order, before anything else is written. They are told once.
    pub fn take_copies(&mut self) -> Vec<Copy> {
        std::mem::take(&mut self.copies)
    }

    /// Begins a conversation of `tokens` in a slot, if there is room for all of them and one more: with the whole blocks at
    /// its beginning that the cache holds already. How many tokens these are; the last one is never among them, as it must
    /// run for its logits.
    ///
    /// # Errors
    /// There is no room now.
    pub fn begin(&mut self, slot: usize, root: Chain, tokens: &[u32]) -> Result<usize, Full> {
        self.release(slot);
        self.roots[slot] = root;
        // Blocks that are found need no others, but they are available no more.
        let found = self.find(root, tokens);
        let idle = found.iter().filter(|&&block| self.blocks[block as usize].users == 0).count();
        let needed = (tokens.len() + 1).min(self.context).div_ceil(BLOCK) - found.len();
        if needed + idle > self.available() {
            return Err(Full { needed: needed + idle, available: self.available() });
        }
        found.into_iter().for_each(|block| self.take_found(slot, block));
        self.reserve(slot, (tokens.len() + 1).min(self.context))?;
        Ok(self.len(slot))
    }

    /// Goes on with the whole blocks that others have computed meanwhile of the same `tokens`. How many tokens these are;
    /// none where the slot's conversation stands within a block.
    pub fn adopt(&mut self, slot: usize, tokens: &[u32]) -> usize {
        let before = self.len(slot);
        while let Some((block, BLOCK)) = self.next(slot, tokens) {
            self.take_found(slot, block);
        }
        self.len(slot) - before
    }

    /// The same for the beginning of a block, which is copied: with it this conversation goes its own way.
    pub fn adopt_part(&mut self, slot: usize, tokens: &[u32]) -> usize {
        let (Some((from, common)), at) = (self.next(slot, tokens), self.len(slot)) else { return 0 };
        let Some(&to) = self.tables[slot].get(at / BLOCK) else { return 0 };
        self.copies.push(Copy { from, to });
        self.lengths[slot] += common;
        self.hold(slot, at / BLOCK, &tokens[at..at + common]);
        common
    }

    /// The block that has most of what comes next in a conversation that stands between two.
    fn next(&self, slot: usize, tokens: &[u32]) -> Option<(u32, usize)> {
        let (at, usable) = (self.len(slot), tokens.len().saturating_sub(1));
        let between = at.is_multiple_of(BLOCK) && at < usable;
        between.then(|| self.longest(self.chain(slot), &tokens[at..usable.min(at + BLOCK)])).flatten()
    }

    /// Makes room for the conversation of a slot to grow to `len` tokens, by blocks of its own.
    ///
    /// # Errors
    /// There is no room; then nothing has changed.
    pub fn reserve(&mut self, slot: usize, len: usize) -> Result<(), Full> {
        let (at, held) = (self.len(slot), self.tables[slot].len());
        if len <= at {
            return Ok(());
        }
        let more = len.div_ceil(BLOCK).saturating_sub(held);
        // What is written into must not be what others see.
        let shared = self.tables[slot].get(at / BLOCK).copied();
        let shared = shared.filter(|&block| self.blocks[block as usize].users > 1);
        let needed = more + usize::from(shared.is_some());
        if needed > self.available() {
            return Err(Full { needed, available: self.available() });
        }
        if let Some(from) = shared {
            // It cannot be taken while it is copied: it has other users.
            let to = self.take();
            let tokens = self.blocks[from as usize].tokens[..at % BLOCK].to_vec();
            self.copies.push(Copy { from, to });
            self.tables[slot][at / BLOCK] = to;
            self.blocks[from as usize].users -= 1;
            self.hold(slot, at / BLOCK, &tokens);
        } else if let Some(&block) = self.tables[slot].get(at / BLOCK) {
            self.cut(block, at % BLOCK);
        }
        for _ in 0..more {
            let block = self.take();
            self.tables[slot].push(block);
        }
        Ok(())
    }

    /// Notes that a slot holds this token after the others; room for it was reserved.
    pub fn push(&mut self, slot: usize, token: u32) {
        let at = self.lengths[slot] / BLOCK;
        self.lengths[slot] += 1;
        self.hold(slot, at, &[token]);
    }

    /// Forgets what a slot holds beyond its first `len` tokens. A slot that holds no more stays as it is.
    pub fn truncate(&mut self, slot: usize, len: usize) {
        if len >= self.len(slot) {
            return;
        }
        // What nobody else has seen is of no use to anybody.
        for at in len.div_ceil(BLOCK)..self.tables[slot].len() {
            let block = self.tables[slot][at];
            if self.blocks[block as usize].users == 1 {
                self.cut(block, 0);
            }
        }
        self.lengths[slot] = len;
        self.drop_beyond(slot, len.div_ceil(BLOCK));
    }

    /// Ends the conversation of a slot. What its blocks hold is kept for as long as nobody needs the room.
    pub fn release(&mut self, slot: usize) {
        self.lengths[slot] = 0;
        self.drop_beyond(slot, 0);
    }

    /// Gives up all but the first `count` blocks for good. What the others hold of conversations that go on is copied to those
    /// that stay; there is always room for one whole conversation.
    ///
    /// # Errors
    /// They have no room for what goes on; then nothing has changed.
    pub fn shrink(&mut self, count: usize) -> Result<(), Full> {
        let count = count.max(self.context.div_ceil(BLOCK)).min(self.blocks.len());
        let stays = |block: &u32| (*block as usize) < count;
        let used = |block: &Block| block.users > 0;
        let needed = self.blocks[count..].iter().filter(|block| used(block)).count();
        let available = self.blocks[..count].iter().filter(|block| !used(block)).count();
        if needed > available {
            return Err(Full { needed, available });
        }
        self.empty.retain(stays);
        let idle: Vec<(u64, u32)> = self.idle.iter().map(|(&since, &block)| (since, block)).collect();
        for (since, block) in idle.into_iter().filter(|(_, block)| !stays(block)) {
            self.idle.remove(&since);
            self.cut(block, 0);
        }
        for from in (count as u32..).take(self.blocks.len() - count) {
            if used(&self.blocks[from as usize]) {
                let to = self.take();
                self.copies.push(Copy { from, to });
                self.replace(from, to);
            }
        }
        self.blocks.truncate(count);
        Ok(())
    }

    /// Blocks that conversations use now.
    pub fn used(&self) -> usize {
        self.blocks.iter().filter(|block| block.users > 0).count()
    }

    /// Puts a block that was just taken in the place of another one.
    fn replace(&mut self, from: u32, to: u32) {
        let old = &mut self.blocks[from as usize];
        let (users, parent, chain) = (std::mem::take(&mut old.users), old.parent, old.chain.take());
        let tokens = std::mem::take(&mut old.tokens);
        if !tokens.is_empty() {
            self.forget(from);
            self.blocks[to as usize].sibling = self.after.insert(parent, to);
        }
        let new = &mut self.blocks[to as usize];
        (new.users, new.parent, new.chain) = (users, parent, chain);
        new.tokens.extend_from_slice(&tokens);
        self.tables.iter_mut().flatten().filter(|block| **block == from).for_each(|block| *block = to);
    }

    /// What stands for the whole blocks that a slot holds.
    pub fn chain(&self, slot: usize) -> Chain {
        let last = (self.len(slot) / BLOCK).checked_sub(1).map(|last| self.tables[slot][last]);
        last.and_then(|last| self.blocks[last as usize].chain).unwrap_or(self.roots[slot])
    }

    /// The block in which a slot's conversation goes on, where that stands between two and room was reserved.
    pub fn reserved(&self, slot: usize) -> Option<u32> {
        let at = self.len(slot);
        let block = self.tables[slot].get(at / BLOCK).copied().filter(|_| at.is_multiple_of(BLOCK))?;
        let Block { users, tokens, .. } = &self.blocks[block as usize];
        (*users == 1 && tokens.is_empty()).then_some(block)
    }

    /// Full blocks that nobody has used since some time after `clock`, the earliest first: when that was, which, and what
    /// stands for all up to their ends. They lie in the device's memory once all copies were made.
    pub fn idle_after(&self, clock: u64) -> impl Iterator<Item = (u64, u32, Chain)> {
        let idle = self.idle.range(clock.saturating_add(1)..);
        idle.filter_map(|(&since, &block)| Some((since, block, self.blocks[block as usize].chain?)))
    }

    /// The whole blocks with the longest beginning of `tokens`, but for the last token.
    fn find(&self, root: Chain, tokens: &[u32]) -> Vec<u32> {
        let (mut found, mut chain) = (Vec::new(), root);
        let (whole, _) = tokens[..tokens.len().saturating_sub(1)].as_chunks::<BLOCK>();
        for wanted in whole {
            let Some((block, BLOCK)) = self.longest(chain, wanted) else { break };
            let Some(next) = self.blocks[block as usize].chain else { break };
            found.push(block);
            chain = next;
        }
        found
    }

    /// The block after `chain` that has most of `wanted` at its beginning, with how much that is; none that has nothing.
    fn longest(&self, chain: Chain, wanted: &[u32]) -> Option<(u32, usize)> {
        let common = |block: u32| {
            self.blocks[block as usize].tokens.iter().zip(wanted).take_while(|(one, other)| one == other).count()
        };
        let first = self.after.get(&chain).copied();
        let after = std::iter::successors(first, |&block| self.blocks[block as usize].sibling);
        after.map(|block| (block, common(block))).max_by_key(|(_, common)| *common).filter(|(_, common)| *common > 0)
    }

    /// Puts a full block at the end of what a slot holds, in place of an empty one that was reserved there.
    fn take_found(&mut self, slot: usize, block: u32) {
        let found = &mut self.blocks[block as usize];
        if found.users == 0 {
            self.idle.remove(&found.idle_since);
        }
        found.users += 1;
        let at = self.lengths[slot] / BLOCK;
        match self.tables[slot].get_mut(at) {
            Some(reserved) => {
                let reserved = std::mem::replace(reserved, block);
                self.let_go(reserved);
            }
            None => self.tables[slot].push(block),
        }
        self.lengths[slot] += BLOCK;
    }

    /// A block that nobody uses, for one user. There must be one.
    fn take(&mut self) -> u32 {
        let block = match self.empty.pop() {
            Some(block) => block,
            None => {
                let (_, block) = self.idle.pop_first().unwrap_or_else(|| unreachable!("availability was asked before"));
                self.cut(block, 0);
                block
            }
        };
        self.blocks[block as usize].users = 1;
        block
    }

    /// Notes that the block at `at` in a slot's table holds these tokens after its others.
    fn hold(&mut self, slot: usize, at: usize, tokens: &[u32]) {
        let block = self.tables[slot][at];
        let before = at.checked_sub(1).and_then(|before| self.blocks[self.tables[slot][before] as usize].chain);
        let parent = before.unwrap_or(self.roots[slot]);
        let held = &mut self.blocks[block as usize];
        if held.tokens.is_empty() && !tokens.is_empty() {
            held.parent = parent;
            held.sibling = self.after.insert(parent, block);
        }
        held.tokens.extend_from_slice(tokens);
        if held.tokens.len() == BLOCK {
            held.chain = Some(held.parent.then(&held.tokens));
        }
    }

    /// Forgets what a block holds from a position on.
    fn cut(&mut self, block: u32, from: usize) {
        let held = &mut self.blocks[block as usize];
        if held.tokens.len() <= from {
            return;
        }
        held.tokens.truncate(from);
        held.chain = None;
        if from == 0 {
            self.forget(block);
        }
    }

    /// Takes a block from among those that hold something after the same.
    fn forget(&mut self, block: u32) {
        let Block { parent, sibling, .. } = &mut self.blocks[block as usize];
        let (parent, next) = (*parent, sibling.take());
        let first = self.after.get(&parent).copied();
        let mut others = std::iter::successors(first, |&other| self.blocks[other as usize].sibling);
        if let Some(before) = others.find(|&other| other != block && self.blocks[other as usize].sibling == Some(block))
        {
            self.blocks[before as usize].sibling = next;
        } else if let Some(next) = next {
            self.after.insert(parent, next);
        } else {
            self.after.remove(&parent);
        }
    }

    /// Takes all blocks but the first `count` from a slot, the last first: what comes later is given up earlier.
    fn drop_beyond(&mut self, slot: usize, count: usize) {
        while self.tables[slot].len() > count {
            if let Some(block) = self.tables[slot].pop() {
                self.let_go(block);
            }
        }
    }

    fn let_go(&mut self, block: u32) {
        let held = &mut self.blocks[block as usize];
        held.users -= 1;
        if held.users > 0 {
            return;
        }
        if held.tokens.is_empty() {
            self.empty.push(block);
        } else {
            self.clock += 1;
            held.idle_since = self.clock;
            self.idle.insert(self.clock, block);
        }
    }
}

#[cfg(test)]
mod tests;
