//! The scheduler over a scripted forward pass: a model that says what comes after each token.

use super::*;
use crate::engine::blocks::{Chain, Copy};
use crate::engine::model::{Entry, Spare};
use crate::engine::sampler::Params;
use crate::engine::sequence::{Counts, Event, Finish, Job, Scored};
use proptest::prelude::*;
use std::cell::{Cell, RefCell};
use std::rc::Rc;

/// Letters are tokens; `.` ends an answer. The next token is the next letter, and after `z` comes the end.
const TOKENS: &[u8] = b"abcdefghijklmnopqrstuvwxyz.";
const END: u32 = 26;

struct Letters;

impl Vocabulary for Letters {
    fn piece(&self, token: u32) -> &[u8] {
        &TOKENS[token as usize..=token as usize]
    }

    fn name(&self, token: u32) -> &[u8] {
        self.piece(token)
    }

    fn is_end(&self, token: u32) -> bool {
        token == END
    }
}

/// Who waits for an answer.
#[derive(Debug, Clone, Default)]
struct Client {
    text: Rc<RefCell<String>>,
    scored: Rc<RefCell<Vec<Scored>>>,
    end: Rc<RefCell<Option<Event>>>,
    gone: Rc<Cell<bool>>,
}

impl Client {
    fn counts(&self) -> Counts {
        match *self.end.borrow() {
            Some(Event::Finished { counts, .. }) => counts,
            ref other => panic!("not finished: {other:?}"),
        }
    }

    fn finish(&self) -> Option<Finish> {
        match *self.end.borrow() {
            Some(Event::Finished { reason, .. }) => Some(reason),
            _ => None,
        }
    }
}

impl Sink for Client {
    fn send(&self, event: Event) {
        match event {
            Event::Text { text, tokens } => {
                self.text.borrow_mut().push_str(&text);
                self.scored.borrow_mut().extend(tokens);
            }
            end => {
                let before = self.end.replace(Some(end));
                assert_eq!(before, None, "two ends");
            }
        }
    }

    fn is_closed(&self) -> bool {
        self.gone.get()
    }
}

/// The scripted model: what lies in its memory, and what passed through it: slot and letter of each entry.
struct Script {
    blocks: Blocks,
    /// At each position of each block a token, with all that came before it.
    memory: Vec<Vec<Vec<u32>>>,
    passes: Vec<String>,
    broken: bool,
    /// Whether the next token is made of all before, rather than the next letter.
    sums: bool,
    /// Whether it is likely to be the one that came so long before.
    period: Option<u32>,
    /// Of each slot, tokens that come from elsewhere, and how often somebody has to ask for the next of them.
    elsewhere: Vec<Elsewhere>,
    /// Who leaves during the next pass.
    leaves: Option<Client>,
}

#[derive(Debug, Clone, Default)]
struct Elsewhere {
    tokens: usize,
    asks: usize,
    asked: usize,
}

impl Runner for Script {
    type Error = &'static str;

    fn blocks(&mut self) -> &mut Blocks {
        &mut self.blocks
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, &'static str> {
        if self.broken {
            return Err("the card is gone");
        }
        if let Some(client) = self.leaves.take() {
            client.gone.set(true);
        }
        for Copy { from, to } in self.blocks.take_copies() {
            self.memory[to as usize] = self.memory[from as usize].clone();
        }
        let (mut logits, mut pass) = (Vec::new(), Vec::new());
        for &Entry { token, slot, position, wants_logits } in batch.entries() {
            assert_eq!(position, self.blocks.len(slot), "a gap in the cache");
            self.blocks.reserve(slot, position + 1).expect("the batcher reserved it");
            let place = |at: usize| (self.blocks.tables()[slot][at / BLOCK] as usize, at % BLOCK);
            let mut seen = match position.checked_sub(1).map(place) {
                Some((block, at)) => self.memory[block][at].clone(),
                None => Vec::new(),
            };
            seen.push(token);
            assert_eq!(seen.len(), position + 1, "another conversation's block");
            let (block, at) = place(position);
            self.memory[block][at] = seen.clone();
            self.blocks.push(slot, token);
            pass.push(format!("{slot}{}{}", TOKENS[token as usize] as char, if wants_logits { "!" } else { "" }));
            if wants_logits {
                // It depends on all that came before, so that a wrong cache gives a wrong answer.
                let sum: u32 = seen.iter().sum();
                let next = match self.period {
                    Some(period) => seen[seen.len().saturating_sub(period as usize)],
                    None if self.sums => sum % (END - 1),
                    None => (token + 1).min(END),
                };
                let mut row = vec![0.0; TOKENS.len()];
                row[next as usize] = if self.period.is_some() { 4.0 } else { 1.0 };
                logits.extend(row);
            }
        }
        self.passes.push(pass.join(" "));
        Ok(Logits::new(logits.into(), TOKENS.len(), Spare::default()))
    }

    fn seek(&mut self, slot: usize, tokens: &[u32]) -> bool {
        self.elsewhere
            .get(slot)
            .is_some_and(|elsewhere| elsewhere.tokens > self.blocks.len(slot) && tokens.len() > BLOCK)
    }

    fn restore(&mut self, slot: usize, tokens: &[u32], patience: bool) -> Restored {
        let Elsewhere { tokens: there, asks, asked } = &mut self.elsewhere[slot];
        *asked += 1;
        if !patience && *asked < *asks {
            return Restored { tokens: 0, more: true };
        }
        *asked = 0;
        let at = self.blocks.len(slot);
        let block = self.blocks.reserved(slot).expect("room was reserved") as usize;
        for (at, &token) in (at..at + BLOCK).zip(&tokens[at..]) {
            self.memory[block][at % BLOCK] = tokens[..=at].to_vec();
            self.blocks.push(slot, token);
        }
        Restored { tokens: BLOCK, more: at + BLOCK < *there }
    }
}

/// A batcher and its model.
struct House {
    batcher: Batcher<Client>,
    script: Script,
    context: usize,
    budget: usize,
    guess_cost: Option<f64>,
    preempted: usize,
    right: usize,
}

impl House {
    fn new(slots: usize) -> Self {
        Self::with_blocks(slots, 64, 2 * slots)
    }

    fn with_blocks(slots: usize, context: usize, blocks: usize) -> Self {
        let blocks = Blocks::new(slots, context, blocks);
        let memory = vec![vec![Vec::new(); BLOCK]; blocks.count()];
        let script = Script {
            blocks,
            memory,
            passes: Vec::new(),
            broken: false,
            sums: false,
            period: None,
            elsewhere: Vec::new(),
            leaves: None,
        };
        Self { batcher: Batcher::new(slots), script, context, budget: 8, guess_cost: None, preempted: 0, right: 0 }
    }

    fn ask(&mut self, prompt: &str, change: impl FnOnce(&mut Job)) -> Client {
        let client = Client::default();
        let prompt = prompt.bytes().map(|letter| u32::from(letter - b'a')).collect();
        let params = Params { temperature: 0.0, ..Params::default() };
        let mut job = Job { prompt, max_tokens: 3, params, ..Job::default() };
        change(&mut job);
        self.batcher.submit(Sequence::new(job, self.context, client.clone()).unwrap());
        client
    }

    fn step(&mut self) -> Step {
        let allowance = Allowance { tokens: self.budget, guess_cost: self.guess_cost };
        let step = self.batcher.step(|_| allowance, &Letters, &mut self.script);
        self.preempted += step.preempted;
        self.right += step.right;
        step
    }

    fn load(&self) -> Load {
        self.batcher.load(&self.script.blocks)
    }

    /// Steps until nothing is left to do.
    fn run(&mut self) {
        for _ in 0..1000 {
            if self.batcher.is_idle() {
                return;
            }
            self.step();
        }
        panic!("it never ends: {:?}", self.script.passes);
    }
}

#[test]
fn answers_until_the_model_ends_or_the_limit_is_reached() {
    let check = |prompt: &str, max_tokens, text: &str, finish, completion| {
        let mut house = House::new(1);
        let client = house.ask(prompt, |job| job.max_tokens = max_tokens);
        house.run();
        let counts = Counts { prompt: prompt.len(), cached: 0, completion };
        assert_eq!(
            (&**client.text.borrow(), client.finish(), client.counts()),
            (text, Some(finish), counts),
            "{prompt}"
        );
    };
    check("a", 3, "bcd", Finish::Length, 3);
    check("abw", 10, "xyz", Finish::Stop, 3);
    check("z", 10, "", Finish::Stop, 0);
    check("a", 0, "", Finish::Length, 0);
    // The context is what prompt and answer share.
    check(&"a".repeat(62), 10, "bc", Finish::Length, 2);
    check(&"a".repeat(64), 10, "", Finish::Length, 0);
}

#[test]
fn stops_at_a_stop_string() {
    let mut house = House::new(1);
    let client = house.ask("a", |job| {
        job.stop = vec!["de".into(), "zzz".into()];
        job.max_tokens = 10;
    });
    house.run();
    assert_eq!((&**client.text.borrow(), client.finish()), ("bc", Some(Finish::Stop)));
}

#[test]
fn what_depends_on_an_adapter_is_not_shared() {
    let mut house = House::new(3);
    house.budget = 200;
    let prompt = "abcdefgh".repeat(5);
    let other = Chain::root(b"adapter");
    // At the same time: who has another adapter does not wait for the others' blocks either.
    let first = [Chain::default(), other, Chain::default()].map(|root| house.ask(&prompt, |job| job.root = root));
    house.run();
    assert_eq!(first.each_ref().map(|client| client.counts().cached), [0, 0, 39]);
    assert!(house.script.passes[0].contains("1a 1b"), "{:?}", house.script.passes);
    // And afterwards.
    let later = [other, Chain::root(b"a third")].map(|root| house.ask(&prompt, |job| job.root = root));
    house.run();
    assert_eq!(later.each_ref().map(|client| client.counts().cached), [32, 0]);
}

#[test]
fn all_that_run_share_a_pass() {
    let mut house = House::new(2);
    house.ask("a", |_| {});
    house.ask("x", |_| {});
    let waiting = house.ask("m", |job| job.max_tokens = 1);
    assert_eq!(house.load(), Load { waiting: 3, running: 0, cached: 0 });
    assert_eq!(house.step(), Step { computed: 2, prompt: 2, generated: 2, ..Step::default() });
    assert_eq!(house.load(), Load { waiting: 1, running: 2, cached: 2 });
    assert_eq!(house.step(), Step { computed: 2, answers: 2, generated: 2, ..Step::default() });
    house.run();
    assert_eq!(house.script.passes, ["0a! 1x!", "0b! 1y!", "0c! 1z!", "0m!"]);
    assert_eq!(*waiting.text.borrow(), "n");
    assert_eq!(house.load(), Load::default());
}

#[test]
fn a_long_prompt_stops_nobody() {
    let mut house = House::new(2);
    house.budget = 4;
    let quick = house.ask("a", |job| job.max_tokens = 4);
    house.step();
    let slow = house.ask("ghijklmn", |job| job.max_tokens = 1);
    house.run();
    assert_eq!(house.script.passes, ["0a!", "0b! 1g 1h 1i", "0c! 1j 1k 1l", "0d! 1m 1n!"]);
    assert_eq!((&**quick.text.borrow(), &**slow.text.borrow()), ("bcde", "o"));
}

#[test]
fn whoever_leaves_is_let_go_before_the_next_pass() {
    let mut house = House::new(1);
    let leaves = house.ask("a", |job| job.max_tokens = 50);
    let waits = house.ask("m", |job| job.max_tokens = 50);
    let next = house.ask("x", |job| job.max_tokens = 1);
    house.step();
    leaves.gone.set(true);
    waits.gone.set(true);
    let step = house.step();
    assert_eq!((step.abandoned, step.unheard), (2, 0));
    assert_eq!(house.script.passes, ["0a!", "0x!"]);
    assert_eq!(*next.text.borrow(), "y");
    assert!(house.batcher.is_idle());
}

#[test]
fn what_is_computed_for_who_left_meanwhile_is_counted() {
    let mut house = House::new(2);
    let (leaves, stays) = (house.ask("abc", |_| {}), house.ask("uv", |job| job.max_tokens = 2));
    house.script.leaves = Some(leaves);
    let steps = [house.step(), house.step()];
    assert_eq!(steps.map(|step| (step.computed, step.unheard, step.abandoned)), [(5, 3, 0), (1, 0, 1)]);
    assert_eq!(house.script.passes, ["0a 0b 0c! 1u 1v!", "1w!"]);
    assert_eq!(stays.counts().completion, 2);
}

#[test]
fn what_the_cache_has_is_not_computed_again() {
    let mut house = House::new(2);
    house.ask("abc", |_| {});
    house.run();
    assert_eq!(house.script.passes.split_off(0), ["0a 0b 0c!", "0d!", "0e!"]);
    // The conversation goes on: the answer's last token was never computed.
    let goes_on = house.ask("abcdefg", |job| job.max_tokens = 1);
    house.run();
    assert_eq!(house.script.passes.split_off(0), ["0f 0g!"]);
    assert_eq!(goes_on.counts(), Counts { prompt: 7, cached: 5, completion: 1 });
    // The same again: its last token must run, as its logits are needed.
    house.ask("abcdefg", |job| job.max_tokens = 1);
    house.run();
    assert_eq!(house.script.passes.split_off(0), ["0g!"]);
    // Others that begin alike need not wait for a slot of their own.
    house.ask("abxy", |job| job.max_tokens = 1);
    house.ask("abcx", |job| job.max_tokens = 1);
    house.run();
    assert_eq!(house.script.passes, ["0x 0y! 1x!"]);
}

#[test]
fn who_asks_the_same_at_the_same_time_waits_for_its_blocks() {
    let mut house = House::with_blocks(3, 128, 12);
    house.budget = 40;
    let system = "abcdefghijklmnopqrstuvwxabcdefghijklmnopqrstuvwxabcdefghijklmnopqrst".to_string();
    let clients = ["uvw", "vwx", "uvw"].map(|user| house.ask(&(system.clone() + user), |job| job.max_tokens = 1));
    house.run();
    let computed: Vec<usize> = house.script.passes.iter().map(|pass| pass.split(' ').count()).collect();
    // 64 of 71 tokens are computed once; what follows is each one's own, but for what one finds of another's.
    assert_eq!(computed[0], 40);
    assert!(computed.iter().sum::<usize>() <= 64 + 3 * 7, "{computed:?}");
    assert_eq!(clients.map(|client| client.text.borrow().clone()), ["x", "y", "x"]);
}

#[test]
fn what_repeats_comes_several_at_once() {
    let mut house = House { guess_cost: Some(0.1), ..House::new(1) };
    house.script.period = Some(4);
    let client = house.ask("abcdabcda", |job| job.max_tokens = 20);
    house.run();
    assert_eq!(&**client.text.borrow(), "bcdabcdabcdabcdabcda");
    assert!(house.right >= 14 && house.script.passes.len() <= 8, "{} in {:?}", house.right, house.script.passes);
}

#[test]
fn who_came_last_makes_room_and_goes_on_later() {
    // Room for one whole conversation and a block: both start, and grow.
    let mut house = House::with_blocks(2, 96, 4);
    house.script.sums = true;
    let long = |job: &mut Job| job.max_tokens = 60;
    let first = house.ask("abcdefghijklmnopqrstuvwxyabcde", long);
    let second = house.ask("bcdefghijklmnopqrstuvwxyabcdef", long);
    house.run();
    assert!(house.preempted > 0);
    assert_eq!((first.counts().completion, second.counts().completion), (60, 60));
    // What it finds of itself later is not told as found.
    assert_eq!(second.counts().cached, 0);
    let mut alone = House::with_blocks(1, 96, 3);
    alone.script.sums = true;
    let expected = alone.ask("bcdefghijklmnopqrstuvwxyabcdef", long);
    alone.run();
    assert_eq!(second.text, expected.text);
}

#[test]
fn what_comes_from_elsewhere_stops_nobody() {
    let prompt = "abcdefghijklmnopqrstuvwxyabcdefghijklmnopqrstuvwxyabcdefghijklmnopqrstuvwxy";
    let mut alone = House::with_blocks(1, 128, 8);
    alone.script.sums = true;
    let expected = alone.ask(prompt, |_| {});
    alone.run();

    let mut house = House::with_blocks(3, 128, 16);
    house.script.sums = true;
    house.script.elsewhere = vec![Elsewhere::default(), Elsewhere { tokens: 64, asks: 4, asked: 0 }];
    let chats = house.ask("abc", |job| job.max_tokens = 10);
    house.step();
    let (comes, shares) = (house.ask(prompt, |_| {}), house.ask(prompt, |_| {}));
    for _ in 0..6 {
        assert_eq!(house.step().computed, 1, "{:?}", house.script.passes);
    }
    house.run();
    assert_eq!(chats.counts().completion, 10);
    assert_eq!((comes.counts().cached, shares.counts().cached >= 64), (64, true));
    for client in [comes, shares] {
        assert_eq!(client.text, expected.text);
    }
    // Where nothing else is to be done it is waited for.
    let mut idle = House::with_blocks(1, 128, 8);
    idle.script.sums = true;
    idle.script.elsewhere = vec![Elsewhere { tokens: 64, asks: 1000, asked: 0 }];
    let client = idle.ask(prompt, |_| {});
    idle.run();
    assert_eq!((client.counts().cached, &client.text), (64, &expected.text));
}

#[test]
fn a_pass_that_fails_ends_those_that_run() {
    let mut house = House::new(1);
    let runs = house.ask("ab", |_| {});
    let waits = house.ask("ab", |_| {});
    house.script.broken = true;
    house.step();
    assert_eq!(*runs.end.borrow(), Some(Event::Failed("the card is gone".into())));
    house.script.broken = false;
    house.run();
    // Nothing of the failed pass is taken to be in the cache.
    assert_eq!(waits.counts(), Counts { prompt: 2, cached: 0, completion: 3 });
    assert_eq!(*waits.text.borrow(), "cde");
}

#[test]
fn log_probabilities_come_with_the_text() {
    let mut house = House::new(1);
    let client = house.ask("a", |job| {
        job.params.top_logprobs = Some(2);
        job.stop = vec!["cx".into(), "f".into()];
        job.max_tokens = 10;
    });
    house.run();
    let scored = client.scored.borrow();
    let top = |scored: &Scored| scored.top.iter().map(|top| top.bytes.clone()).collect::<Vec<_>>();
    let chosen: Vec<&[u8]> = scored.iter().map(|scored| &*scored.chosen.bytes).collect();
    // `c` was held back for a while; `f` is not shown.
    assert_eq!((&**client.text.borrow(), chosen), ("bcde", vec![&b"b"[..], b"c", b"d", b"e"]));
    assert_eq!(top(&scored[0]), [b"b", b"a"]);
    assert_eq!(scored[0].top[0].logprob, scored[0].chosen.logprob);
    // The row says 1 for the next letter, and 0 for 26 others.
    let expected = 1.0 - (1f32.exp() + 26.0).ln();
    assert!((scored[0].chosen.logprob - expected).abs() < 1e-4, "{:?}", scored[0]);
}

proptest! {
    /// Nobody gets more than he has, and nothing is left over that somebody could use.
    #[test]
    fn shares_are_fair(pending in prop::collection::vec(0usize..300, 0..9), budget in 0usize..400) {
        let mut parts: Vec<Part> = pending.iter().map(|&pending| Part { pending, ..Part::default() }).collect();
        plan::share(&mut parts, budget);
        let shares: Vec<usize> = parts.iter().map(|part| part.share).collect();
        prop_assert!(shares.iter().zip(&pending).all(|(share, pending)| share <= pending));
        prop_assert_eq!(shares.iter().sum::<usize>(), pending.iter().sum::<usize>().min(budget));
        // Whoever got less than he has got as much as anybody, but for what does not divide.
        let most = shares.iter().copied().max().unwrap_or(0);
        prop_assert!(shares.iter().zip(&pending).all(|(share, pending)| share == pending || share + 1 >= most));
    }

    /// Guesses change when tokens come, and nothing else: with the same seed the same are drawn.
    #[test]
    fn guesses_change_no_answer(
        asks in prop::collection::vec(("[abc]{3,30}", 1usize..30, any::<u64>(), prop_oneof![Just(0.0f32), Just(1.0)]), 1..5),
        cost in 0.0f64..0.6, slots in 1usize..4, blocks in 2usize..9, period in 1u32..4,
    ) {
        let answers = |guess_cost| {
            let mut house = House { guess_cost, budget: 40, ..House::with_blocks(slots, 64, blocks) };
            house.script.period = Some(period);
            let ask = |(prompt, max_tokens, seed, temperature): &(String, usize, u64, f32)| house.ask(prompt, |job| {
                job.max_tokens = *max_tokens;
                job.params.seed = Some(*seed);
                job.params.temperature = *temperature;
            });
            let clients: Vec<Client> = asks.iter().map(ask).collect();
            house.run();
            let said: Vec<_> = clients.iter().map(|client| (client.text.borrow().clone(), client.finish())).collect();
            let counts: Vec<_> = clients.iter().map(|client| client.counts().completion).collect();
            (said, counts)
        };
        prop_assert_eq!(answers(Some(cost)), answers(None));
    }

    /// Whatever comes and goes, everybody who stays gets the answer that he would get alone.
    #[test]
    fn company_changes_no_answer(
        asks in prop::collection::vec(("[ab]{0,3}[a-y]{1,20}|abcdefghijklmnopqrstuvwxyabcdefgh[a-c]{2,5}", 1usize..20, 0usize..6, any::<bool>()), 1..8),
        slots in 1usize..4,
        budget in 1usize..12,
        blocks in 2usize..9,
    ) {
        let mut house = House { budget, ..House::with_blocks(slots, 64, blocks) };
        house.script.sums = true;
        let mut clients = Vec::new();
        for (prompt, max_tokens, steps, leaves) in &asks {
            clients.push(house.ask(prompt, |job| job.max_tokens = *max_tokens));
            for _ in 0..*steps {
                house.step();
            }
            if *leaves {
                clients[clients.len() / 2].gone.set(true);
            }
        }
        house.run();
        for ((prompt, max_tokens, ..), client) in asks.iter().zip(&clients) {
            if client.gone.get() { continue }
            let mut alone = House::new(1);
            alone.script.sums = true;
            let expected = alone.ask(prompt, |job| job.max_tokens = *max_tokens);
            alone.run();
            prop_assert_eq!(&*client.text.borrow(), &*expected.text.borrow());
            prop_assert_eq!(client.finish(), expected.finish());
        }
    }
}
