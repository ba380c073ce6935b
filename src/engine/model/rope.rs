use super::hyper::Hyper;
use super::keys::Keys;
use super::source::{Source, missing};
use crate::engine::Error;
use std::f64::consts::TAU;

/// How positions turn queries and keys: the pairs of a head's dimensions, each by a frequency of its own.
#[derive(Debug, Clone, PartialEq)]
pub struct Rope {
    /// Of the frequencies, `base^(-2 i / size)`.
    base: f64,
    stretch: Stretch,
    /// What queries and keys are multiplied with besides.
    magnitude: f64,
}

/// How more positions than were trained at first are made to fit.
#[derive(Debug, Clone, PartialEq)]
enum Stretch {
    /// All frequencies are divided by this.
    Linear(f64),
    /// YaRN: those that turn often within what was trained stay, those that hardly turn are divided, others in between.
    Yarn {
        factor: f64,
        /// Positions that were trained at first.
        trained: f64,
        /// Turns within those from which a frequency stays.
        fast: f64,
        /// Turns up to which it is divided.
        slow: f64,
        /// How much of that staying there is: 1, or 0 to divide all.
        extrapolation: f64,
    },
    /// LongRoPE: each is divided by a factor of its own, of which there are two: for conversations that may have no more than
    /// these positions, which were trained at first, and for longer ones.
    Long(usize),
}

impl Rope {
    /// What the header says for all layers that have no other.
    ///
    /// # Errors
    /// When a figure is impossible, or asks for what isn't supported.
    pub(super) fn of(keys: &Keys, context: usize) -> Result<Rope, Error> {
        let base = keys.number("rope.freq_base", Some(10_000.0), 1.0..=1e12)?.into();
        let attention: f64 = keys.number("rope.scaling.attn_factor", Some(1.0), 1e-3..=1e3)?.into();
        let factor = match keys.find::<f32>("rope.scaling.factor")? {
            Some(_) => "rope.scaling.factor",
            None => "rope.scale_linear",
        };
        let factor = match keys.number(factor, Some(0.0), 0.0..=1e6)? {
            // Zero stands for none.
            0.0 => 1.0,
            factor => f64::from(factor),
        };
        if keys.number("rope.scaling.alpha", Some(0.0), 0.0..=1e6)? > 0.0 {
            let key = keys.key("rope.scaling.alpha");
            return Err(Error::Unsupported(format!("{key:?}, a base that grows with the context, is not supported")));
        }
        let kind: &str = keys.metadata.find(&keys.key("rope.scaling.type"))?.unwrap_or("linear");
        match kind {
            "none" => Ok(Rope { base, stretch: Stretch::Linear(1.0), magnitude: attention }),
            "linear" => Ok(Rope { base, stretch: Stretch::Linear(factor), magnitude: attention }),
            "yarn" => {
                let number = |key, default| Ok::<_, Error>(f64::from(keys.number(key, Some(default), 0.0..=1e6)?));
                let trained = keys.count("rope.scaling.original_context_length", Some(context), 1 << 28)?;
                let extrapolation = number("rope.scaling.yarn_ext_factor", 1.0)?;
                let stretch = Stretch::Yarn {
                    factor,
                    trained: trained as f64,
                    fast: number("rope.scaling.yarn_beta_fast", 32.0)?,
                    slow: number("rope.scaling.yarn_beta_slow", 1.0)?,
                    extrapolation,
                };
                let told = match number("rope.scaling.yarn_attn_factor", 0.0)? {
                    0.0 => None,
                    told => Some(told),
                };
                // Attention over more positions is flatter; YaRN sharpens it again.
                let sharper = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
                let magnitude = match extrapolation {
                    0.0 => 1.0,
                    _ => sharper(1.0) / sharper(number("rope.scaling.yarn_log_multiplier", 0.0)?),
                };
                Ok(Rope { base, stretch, magnitude: attention * told.unwrap_or(magnitude) })
            }
            "longrope" if factor == 1.0 => {
                let trained = keys.count("rope.scaling.original_context_length", Some(context), 1 << 28)?;
                Ok(Rope { base, stretch: Stretch::Long(trained), magnitude: attention })
            }
            "longrope" => {
                let key = keys.key("rope.scaling.factor");
                Err(Error::Unsupported(format!("{key:?} is {factor}, besides factors for each frequency (longrope)")))
            }
            _ => Err(Error::Unsupported(format!("rope scaling of the type {kind:?} is not supported"))),
        }
    }

    /// One that isn't stretched, with the base in `key`.
    ///
    /// # Errors
    /// When that is impossible.
    pub(super) fn plain(keys: &Keys, key: &str) -> Result<Rope, Error> {
        let base = keys.number(key, Some(10_000.0), 1.0..=1e12)?.into();
        Ok(Rope { base, stretch: Stretch::Linear(1.0), magnitude: 1.0 })
    }

    /// What attention's scores, products of a query with a key, are multiplied with.
    pub fn gain(&self) -> f32 {
        (self.magnitude * self.magnitude) as f32
    }

    /// Whether conversations that may have so many tokens are rotated by other frequencies than short ones.
    pub fn is_far(&self, context: usize) -> bool {
        matches!(self.stretch, Stretch::Long(trained) if context > trained)
    }

    /// By how much a position turns the pairs of a head of `size` dimensions: [size / 2]. Llama 3.1 divides each
    /// frequency by a factor of its own.
    pub fn frequencies(&self, size: usize, factors: Option<&[f32]>) -> Vec<f64> {
        (0..size / 2)
            .map(|i| {
                let factor = factors.map_or(1.0, |factors| f64::from(factors[i]));
                self.stretched(self.base.powf(-2.0 * i as f64 / size as f64) / factor, i, size)
            })
            .collect()
    }

    fn stretched(&self, frequency: f64, i: usize, size: usize) -> f64 {
        match self.stretch {
            Stretch::Linear(factor) => frequency / factor,
            Stretch::Long(_) => frequency,
            Stretch::Yarn { factor, trained, fast, slow, extrapolation } => {
                // The pair that turns so often within what was trained.
                let pair = |turns: f64| size as f64 * (trained / (turns * TAU)).ln() / (2.0 * self.base.ln());
                let first = pair(fast).floor().max(0.0);
                let last = pair(slow).ceil().min(size as f64 - 1.0);
                let ramp = (i as f64 - first) / (last - first).max(1e-3);
                let stays = (1.0 - ramp.clamp(0.0, 1.0)) * extrapolation;
                frequency / factor * (1.0 - stays) + frequency * stays
            }
        }
    }
}

/// The frequencies of a decoder's rotations.
pub struct Frequencies {
    /// [head / 2]
    near: Vec<f64>,
    /// Those of conversations that reach far, where they have others. [head / 2]
    far: Option<Vec<f64>>,
}

impl Frequencies {
    /// Those of layers that see all. Llama 3.1 has a tensor by which they are divided, LongRoPE two.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub fn load<S: Source>(source: &mut S, hyper: &Hyper) -> Result<Frequencies, Error> {
        let half = hyper.head / 2;
        let mut divided = |name: &str| {
            let Some(factors) = source.numbers(name, half)? else { return Ok(None) };
            if let Some(factor) = factors.iter().find(|factor| !factor.is_finite() || **factor <= 0.0) {
                return Err(Error::Inconsistent(format!("the tensor {name} has the factor {factor}")));
            }
            Ok(Some(hyper.rope.frequencies(hyper.head, Some(&factors))))
        };
        let Stretch::Long(_) = hyper.rope.stretch else {
            let near = divided("rope_freqs.weight")?.unwrap_or_else(|| hyper.rope.frequencies(hyper.head, None));
            return Ok(Frequencies { near, far: None });
        };
        let mut needed = |name| divided(name)?.ok_or_else(|| missing(name, &[half]));
        let near = needed("rope_factors_short.weight")?;
        Ok(Frequencies { near, far: Some(needed("rope_factors_long.weight")?) })
    }

    /// Those of conversations that may have so many tokens. Keys that are kept were rotated by them, so that they cannot
    /// change while one grows.
    pub fn of(&self, rope: &Rope, context: usize) -> &[f64] {
        match &self.far {
            Some(far) if rope.is_far(context) => far,
            _ => &self.near,
        }
    }
}
