//! The bookkeeping against a memory that remembers what is written where.

use super::*;
use proptest::prelude::*;
use std::collections::HashSet;

/// What lies in blocks: at each position a token, with all that came before it.
type Written = Option<(Chain, Vec<u32>)>;

/// Blocks, the memory that they stand for, and what each slot's conversation is.
struct House {
    blocks: Blocks,
    memory: Vec<Vec<Written>>,
    conversations: Vec<(Chain, Vec<u32>)>,
}

impl House {
    fn new(slots: usize, context: usize, blocks: usize) -> House {
        let blocks = Blocks::new(slots, context, blocks);
        let memory = vec![vec![None; BLOCK]; blocks.count()];
        House { blocks, memory, conversations: vec![(Chain::root(&[]), Vec::new()); slots] }
    }

    fn begin(&mut self, slot: usize, kind: &[u8], tokens: &[u32]) -> Option<usize> {
        let root = Chain::root(kind);
        let reused =
            self.blocks.begin(slot, root, tokens).ok().map(|whole| whole + self.blocks.adopt_part(slot, tokens));
        self.conversations[slot] = (root, tokens[..reused.unwrap_or(0)].to_vec());
        self.check();
        reused
    }

    /// Computes these tokens, if there is room.
    fn write(&mut self, slot: usize, tokens: &[u32]) -> bool {
        let before = self.blocks.len(slot);
        if self.blocks.reserve(slot, before + tokens.len()).is_err() {
            self.check();
            return false;
        }
        self.copy();
        for &token in tokens {
            let (root, conversation) = &mut self.conversations[slot];
            let at = conversation.len();
            conversation.push(token);
            let block = self.blocks.tables()[slot][at / BLOCK];
            self.memory[block as usize][at % BLOCK] = Some((*root, conversation.clone()));
            self.blocks.push(slot, token);
        }
        self.check();
        true
    }

    fn truncate(&mut self, slot: usize, len: usize) {
        self.blocks.truncate(slot, len);
        self.conversations[slot].1.truncate(len);
        self.check();
    }

    fn release(&mut self, slot: usize) {
        self.blocks.release(slot);
        self.conversations[slot].1.clear();
        self.check();
    }

    /// Gives up all blocks but the first, if what goes on has room in those.
    fn shrink(&mut self, count: usize) -> bool {
        let (before, used) = (self.blocks.count(), self.blocks.used());
        let shrunk = self.blocks.shrink(count);
        let expected =
            if shrunk.is_ok() { count.max(self.blocks.context().div_ceil(BLOCK)).min(before) } else { before };
        assert_eq!((self.blocks.count(), self.blocks.used()), (expected, used));
        assert!(self.blocks.tables().iter().flatten().all(|&block| (block as usize) < expected));
        self.check();
        shrunk.is_ok()
    }

    fn copy(&mut self) {
        for Copy { from, to } in self.blocks.take_copies() {
            self.memory[to as usize] = self.memory[from as usize].clone();
        }
    }

    /// That every conversation lies where its table says, and that no block is lost or used twice.
    fn check(&mut self) {
        self.copy();
        for (slot, (root, conversation)) in self.conversations.iter().enumerate() {
            assert_eq!(self.blocks.len(slot), conversation.len());
            for at in 0..conversation.len() {
                let block = self.blocks.tables()[slot][at / BLOCK] as usize;
                let expected = Some((*root, conversation[..=at].to_vec()));
                assert_eq!(self.memory[block][at % BLOCK], expected, "slot {slot} at {at}");
            }
        }
        let used: Vec<u32> = self.blocks.tables().concat();
        let distinct: HashSet<u32> = used.iter().copied().collect();
        assert_eq!(distinct.len() + self.blocks.available(), self.blocks.count());
        for (at, block) in self.blocks.blocks.iter().enumerate() {
            assert_eq!(block.users, used.iter().filter(|&&other| other as usize == at).count(), "block {at}");
        }
        let idle: HashSet<u32> = self.blocks.idle.values().copied().collect();
        let free: HashSet<u32> = self.blocks.empty.iter().copied().chain(idle).collect();
        assert_eq!(free.len(), self.blocks.available());
        assert!(free.is_disjoint(&distinct));
        let siblings = |&first: &u32| {
            std::iter::successors(Some(first), |&block| self.blocks.blocks[block as usize].sibling).count()
        };
        let found: usize = self.blocks.after.values().map(siblings).sum();
        assert_eq!(found, self.blocks.blocks.iter().filter(|block| !block.tokens.is_empty()).count());
    }
}

fn count(from: u32, to: u32) -> Vec<u32> {
    (from..to).collect()
}

#[test]
fn a_beginning_is_shared_by_whole_blocks_and_copied_within_one() {
    let mut house = House::new(3, 256, 24);
    let prompt = count(0, 100);
    assert_eq!(house.begin(0, b"", &prompt), Some(0));
    house.write(0, &prompt);
    let free = house.blocks.available();
    // Three blocks are shared, of the fourth two tokens are copied; the last token of the prompt must run.
    let other = [count(0, 98), count(200, 230)].concat();
    assert_eq!(house.begin(1, b"", &other), Some(98));
    assert_eq!(house.blocks.tables()[0][..3], house.blocks.tables()[1][..3]);
    // 129 tokens need five blocks.
    assert_eq!(house.blocks.available(), free - 2);
    house.write(1, &other[98..]);
    assert_eq!(house.begin(2, b"", &prompt), Some(99));
    house.write(2, &[99, 1, 2, 3]);
    house.write(0, &[7]);
    // What depends on something else is something else.
    house.release(1);
    assert_eq!(house.begin(1, b"adapter", &prompt), Some(0));
}

#[test]
fn a_prompt_of_whole_blocks_runs_its_last_token_in_a_block_of_its_own() {
    let mut house = House::new(2, 256, 16);
    let prompt = count(0, 64);
    house.begin(0, b"", &prompt);
    house.write(0, &prompt);
    assert_eq!(house.begin(1, b"", &prompt), Some(63));
    house.write(1, &[63]);
    assert_ne!(house.blocks.tables()[0][1], house.blocks.tables()[1][1]);
}

#[test]
fn what_others_compute_meanwhile_is_taken_over() {
    let mut house = House::new(2, 256, 16);
    let prompt = count(0, 90);
    house.begin(0, b"", &prompt);
    house.begin(1, b"", &prompt);
    house.write(0, &prompt[..40]);
    assert_eq!(house.blocks.adopt(1, &prompt), 32);
    assert_eq!(house.blocks.adopt_part(1, &prompt), 8);
    house.conversations[1].1 = prompt[..40].to_vec();
    house.check();
    // Within a block there is nothing to take over.
    house.write(0, &prompt[40..]);
    assert_eq!(house.blocks.adopt(1, &prompt) + house.blocks.adopt_part(1, &prompt), 0);
    house.write(1, &prompt[40..64]);
    assert_eq!((house.blocks.adopt(1, &prompt), house.blocks.adopt_part(1, &prompt)), (0, 25));
    house.conversations[1].1 = prompt[..89].to_vec();
    house.check();
}

#[test]
fn ends_outlive_nothing_and_beginnings_are_given_up_last() {
    let mut house = House::new(1, 128, 4);
    house.begin(0, b"", &count(0, 120));
    house.write(0, &count(0, 120));
    house.release(0);
    assert_eq!(house.blocks.available(), 4);
    // Another conversation needs two blocks: the first one's last two go.
    assert_eq!(house.begin(0, b"", &count(500, 540)), Some(0));
    house.release(0);
    assert_eq!(house.begin(0, b"", &count(0, 120)), Some(64));
}

#[test]
fn a_conversation_that_does_not_fit_now_is_refused_and_changes_nothing() {
    let mut house = House::new(2, 96, 4);
    assert_eq!(house.begin(0, b"", &count(0, 70)), Some(0));
    house.write(0, &count(0, 70));
    let needed = house.blocks.begin(1, Chain::root(&[]), &count(100, 164)).unwrap_err();
    assert_eq!(needed, Full { needed: 3, available: 1 });
    house.check();
    assert_eq!(house.begin(1, b"", &count(100, 120)), Some(0));
    house.write(1, &count(100, 132));
    assert!(!house.write(1, &[132]));
    // One that shares its beginning needs less.
    house.release(1);
    assert_eq!(house.begin(1, b"", &count(0, 80)), Some(69 + 1));
}

#[test]
fn conversations_go_on_in_fewer_blocks() {
    let mut house = House::new(2, 96, 12);
    let prompt = count(0, 80);
    house.begin(0, b"", &prompt);
    house.write(0, &prompt);
    house.begin(1, b"", &prompt);
    house.write(1, &[1000]);
    // Blocks 0 to 2 are one's, the other shares two of them and has one of its own; who was first goes.
    house.release(0);
    assert!(house.shrink(3) && house.blocks.available() == 0);
    assert!(house.write(1, &[1001]) && !house.write(1, &count(0, 96 - 80)));
    house.release(1);
    // What is over can still be found, but for the block that the new end takes.
    assert_eq!(house.begin(0, b"", &count(0, 70)), Some(64));
}

#[derive(Debug, Clone)]
enum Deed {
    Begin(usize, bool, usize, u32),
    Write(usize, usize, u32),
    Truncate(usize, usize),
    Release(usize),
    Shrink(usize),
}

fn deed() -> impl Strategy<Value = Deed> {
    let slot = 0_usize..4;
    prop_oneof![
        (slot.clone(), any::<bool>(), 1_usize..150, 0_u32..3).prop_map(|(s, k, n, t)| Deed::Begin(s, k, n, t)),
        (slot.clone(), 1_usize..40, 0_u32..3).prop_map(|(slot, count, token)| Deed::Write(slot, count, token)),
        (slot.clone(), 0_usize..150).prop_map(|(slot, len)| Deed::Truncate(slot, len)),
        slot.prop_map(Deed::Release),
        (0_usize..20).prop_map(Deed::Shrink),
    ]
}

proptest! {
    /// Whatever comes, every conversation finds in its blocks what was computed for it.
    #[test]
    fn nothing_is_mistaken_or_lost(deeds in prop::collection::vec(deed(), 1..60), blocks in 5_usize..20) {
        let mut house = House::new(4, 160, blocks);
        for deed in deeds {
            match deed {
                // Conversations begin alike and go on as one of three.
                Deed::Begin(slot, kind, len, turn) => {
                    let tokens: Vec<u32> = (0..len as u32).map(|at| if at < 40 { at } else { turn }).collect();
                    let available = house.blocks.available() + house.blocks.tables()[slot].len();
                    match house.begin(slot, if kind { b"a" } else { b"b" }, &tokens) {
                        Some(reused) => prop_assert!(reused < len),
                        None => prop_assert!((len + 1).min(160).div_ceil(BLOCK) > available.saturating_sub(20)),
                    }
                }
                Deed::Write(slot, count, token) => {
                    let count = count.min(160 - house.blocks.len(slot));
                    let available = house.blocks.available();
                    let wrote = house.write(slot, &vec![token; count]);
                    prop_assert!(wrote || available < count.div_ceil(BLOCK) + 1);
                }
                Deed::Truncate(slot, len) => house.truncate(slot, len),
                Deed::Release(slot) => house.release(slot),
                Deed::Shrink(count) => {
                    let used = house.blocks.used();
                    prop_assert_eq!(house.shrink(count), used <= count.max(5));
                }
            }
        }
        (0..4).for_each(|slot| house.release(slot));
        prop_assert_eq!(house.blocks.available(), house.blocks.count());
    }
}
