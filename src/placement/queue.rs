use super::event::{ModelName, RequestId, Want};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// Requests that wait, each model's in the order in which they came: whatever keeps the first of them waiting keeps the
/// others too, so that a look at a thousand of them is a look at a few models.
#[derive(Debug, Clone, Default)]
pub struct Queue {
    lines: BTreeMap<Key, VecDeque<Waiter>>,
    keys: BTreeMap<RequestId, Key>,
    /// The first of each line, by arrival.
    heads: BTreeMap<u64, Key>,
    arrivals: u64,
}

/// A model, and which file of it.
pub type Key = (ModelName, Arc<str>);

/// A request that waits.
#[derive(Debug, Clone)]
pub struct Waiter {
    /// Which one.
    pub id: RequestId,
    /// What it waits for.
    pub want: Arc<Want>,
    /// Since when.
    pub since: Duration,
    /// The how-manieth it is.
    pub arrival: u64,
}

impl Queue {
    /// How many wait.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Puts one at the end.
    pub fn push(&mut self, id: RequestId, want: Arc<Want>, since: Duration) {
        let key = (want.model.clone(), want.version.clone());
        let waiter = Waiter { id, want, since, arrival: self.arrivals };
        self.arrivals += 1;
        let line = self.lines.entry(key.clone()).or_default();
        if line.is_empty() {
            self.heads.insert(waiter.arrival, key.clone());
        }
        line.push_back(waiter);
        self.keys.insert(id, key);
    }

    /// Takes one out, wherever it stands.
    pub fn remove(&mut self, id: RequestId) -> Option<Waiter> {
        let key = self.keys.remove(&id)?;
        let line = self.lines.get_mut(&key)?;
        let waiter = line.remove(line.iter().position(|waiter| waiter.id == id)?)?;
        let next = line.front().map(|next| next.arrival);
        if next.is_none() {
            self.lines.remove(&key);
        }
        if self.heads.remove(&waiter.arrival).is_some()
            && let Some(next) = next
        {
            self.heads.insert(next, key);
        }
        Some(waiter)
    }

    /// The first of all that came at `arrival` or later and is the first of its line.
    pub fn head_from(&self, arrival: u64) -> Option<&Waiter> {
        let (_, key) = self.heads.range(arrival..).next()?;
        self.lines.get(key)?.front()
    }

    /// The one that has waited for the longest.
    pub fn oldest(&self) -> Option<&Waiter> {
        self.head_from(0)
    }

    /// Whether anybody waits for it.
    pub fn is_wanted(&self, want: &Want) -> bool {
        self.lines.contains_key(&(want.model.clone(), want.version.clone()))
    }

    /// Whether anybody waits for the model, whichever file of it.
    pub fn is_asked_for(&self, model: &ModelName) -> bool {
        self.lines.range((model.clone(), "".into())..).next().is_some_and(|((name, _), _)| name == model)
    }

    /// All of one model, whichever file of it.
    pub fn of(&self, model: &ModelName) -> Vec<RequestId> {
        self.lines.iter().filter(|((name, _), _)| name == model).flat_map(|(_, line)| line).map(|one| one.id).collect()
    }

    /// All, model by model.
    pub fn iter(&self) -> impl Iterator<Item = &Waiter> {
        self.lines.values().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn want(model: &str) -> Arc<Want> {
        Arc::new(Want {
            model: model.into(),
            version: "1".into(),
            variants: Vec::new(),
            rungs: &[],
            weight: 1,
            pinned: false,
            keep_alive: None,
            elastic: false,
            embeds: false,
            hold: Default::default(),
            cost: Duration::ZERO,
        })
    }

    #[test]
    fn the_first_of_each_line_in_the_order_of_arrival() {
        let mut queue = Queue::default();
        for (id, model) in [(10, "a"), (11, "b"), (12, "a"), (13, "c")] {
            queue.push(id, want(model), Duration::from_secs(id));
        }
        let heads = |queue: &Queue| {
            let mut heads = Vec::new();
            let mut from = 0;
            while let Some(waiter) = queue.head_from(from) {
                heads.push(waiter.id);
                from = waiter.arrival + 1;
            }
            heads
        };
        assert_eq!((heads(&queue), queue.len()), (vec![10, 11, 13], 4));
        assert_eq!(queue.remove(10).map(|waiter| waiter.id), Some(10));
        assert_eq!(heads(&queue), [11, 12, 13]);
        assert!(queue.remove(10).is_none());
        // Not the first of its line any more.
        queue.push(14, want("c"), Duration::ZERO);
        queue.remove(14);
        assert_eq!(heads(&queue), [11, 12, 13]);
        queue.remove(12);
        assert!(!queue.is_wanted(&want("a")) && queue.is_wanted(&want("b")));
        assert_eq!(queue.of(&"c".into()), [13]);
        assert_eq!(queue.oldest().map(|waiter| waiter.id), Some(11));
    }
}
