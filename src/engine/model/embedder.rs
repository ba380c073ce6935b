use super::encoder::{Encoder, Room};
use super::hyper::Hyper;
use super::{Batch, Loaded, Model, Output};
use crate::engine::Error;
use crate::engine::kernels::cpu::Cpu;
use crate::engine::kernels::{Kernels, Results, Step};
use crate::engine::kv_cache::KvCache;

/// A model that turns texts into vectors, with what it needs for that.
pub struct Embedder {
    model: Model,
    context: usize,
    memory: Memory,
}

/// What a pass needs besides weights.
enum Memory {
    /// An encoder's buffers.
    Encoder(Box<Room<Cpu>>),
    /// A decoder's keys and values: a slot for each of the texts that go through together.
    Decoder(Box<KvCache>),
}

/// An encoder on a processor, which alone has its operations.
pub(super) struct OnCpu {
    pub(super) kernels: Cpu,
    pub(super) encoder: Encoder<<Cpu as Kernels>::Matrix, <Cpu as Kernels>::Buffer>,
}

impl Embedder {
    /// Of this model, for texts of up to `context` tokens, of which a decoder takes `slots` at a time.
    ///
    /// # Errors
    /// When the model is not there for that, or the memory is not to be had.
    pub fn new(model: Model, context: usize, slots: usize) -> Result<Embedder, Error> {
        let hyper = &model.hyper;
        if hyper.pooling.is_none() {
            return Err(Error::Request("the model answers; its file does not say how it would embed".into()));
        }
        if context == 0 || context > hyper.context {
            let problem = format!("texts of {context} tokens, of a model for 1 to {} of them", hyper.context);
            return Err(Error::Request(problem));
        }
        let memory = match &model.loaded {
            Loaded::Encoder(on) => Memory::Encoder(Box::new(Room::new(&on.kernels, hyper, context)?)),
            _ => Memory::Decoder(Box::new(model.cache(slots, context)?)),
        };
        Ok(Embedder { model, context, memory })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Tokens that a text may have.
    pub fn context(&self) -> usize {
        self.context
    }

    /// How many of these texts, from the first on, go through the model together. Their lengths are what they come with.
    pub fn together(&self, lengths: impl Iterator<Item = usize>) -> usize {
        match &self.memory {
            Memory::Encoder(room) => {
                let sums = lengths.scan(0_usize, |sum, len| {
                    *sum = sum.saturating_add(len);
                    Some(*sum)
                });
                sums.take_while(|&sum| sum <= room.rows).count().max(1)
            }
            Memory::Decoder(cache) => lengths.take(cache.slots()).count().max(1),
        }
    }

    /// The vector of each text, as the model's pooling has it; where that keeps the tokens' own, one after the other.
    ///
    /// # Errors
    /// When a text is empty or too long, a token is none of the model's, or the results are no numbers.
    pub fn embed(&mut self, texts: &[&[u32]]) -> Result<Vec<Vec<f32>>, Error> {
        let Hyper { vocabulary, width, .. } = *self.model.hyper();
        for (index, text) in texts.iter().enumerate() {
            if text.is_empty() || text.len() > self.context {
                let problem = format!("text {index} has {} tokens, not 1 to {}", text.len(), self.context);
                return Err(Error::Request(problem));
            }
            if let Some(token) = text.iter().find(|&&token| token as usize >= vocabulary) {
                return Err(Error::Request(format!(
                    "there is no token {token}; the vocabulary has {vocabulary} of them"
                )));
            }
        }
        let mut found = Vec::with_capacity(texts.len());
        let mut rest = texts;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(self.together(rest.iter().map(|text| text.len())).min(rest.len()));
            let vectors = self.pass(now)?;
            if let Some(&value) = vectors.iter().find(|value| !value.is_finite()) {
                return Err(Error::NotFinite(value));
            }
            let pooling = self.pooling();
            let mut at = 0;
            for text in now {
                let wanted = (0..text.len()).filter(|&position| pooling.wants(position, text.len())).count();
                found.push(pooling.pool(&vectors[at..at + wanted * width], width));
                at += wanted * width;
            }
            rest = later;
        }
        Ok(found)
    }

    fn pooling(&self) -> super::Pooling {
        self.model.hyper.pooling.unwrap_or(super::Pooling::Mean)
    }

    /// The vectors of all tokens of some texts that are wanted, one after the other.
    fn pass(&mut self, texts: &[&[u32]]) -> Result<Vec<f32>, Error> {
        let pooling = self.pooling();
        let rows = texts.iter().enumerate().flat_map(|(slot, text)| {
            let each = text.iter().enumerate();
            each.map(move |(position, &token)| (token, slot, position, pooling.wants(position, text.len())))
        });
        match (&mut self.memory, &self.model.loaded) {
            (Memory::Encoder(room), Loaded::Encoder(on)) => {
                let mut step = Step::default();
                for (row, (token, slot, position, wanted)) in rows.enumerate() {
                    step.tokens.push(token);
                    step.slots.push(slot);
                    step.positions.push(position);
                    step.wanted.extend(wanted.then_some(row));
                }
                on.kernels.pass(&step, 0, || on.encoder.forward(&on.kernels, &self.model.hyper, &step, room));
                Ok(on.kernels.download(&room.y, step.wanted.len() * self.model.hyper.width))
            }
            (Memory::Decoder(cache), _) => {
                let mut batch = Batch::new();
                rows.for_each(|(token, slot, position, wanted)| batch.push(token, slot, position, wanted));
                let mut states = Results::default();
                let done = self.model.run(cache, &batch, Output::States, &mut states);
                (0..texts.len()).for_each(|slot| cache.truncate(slot, 0));
                done.map(|()| std::mem::take(states.here()))
            }
            (Memory::Encoder(_), _) => Err(Error::Request("the memory belongs to another model".into())),
        }
    }
}
