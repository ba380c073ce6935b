use super::keys::Keys;
use crate::engine::Error;

/// How the vectors of a text's tokens become its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pooling {
    /// They do not: each token keeps its own.
    Tokens,
    /// Their mean.
    Mean,
    /// That of the first token, which stands for the text.
    First,
    /// That of the last token, which has seen all others.
    Last,
}

impl Pooling {
    /// What the header says; nothing where it says nothing.
    ///
    /// # Errors
    /// When it is unknown.
    pub(super) fn of(keys: &Keys) -> Result<Option<Pooling>, Error> {
        const KEY: &str = "pooling_type";
        Ok(Some(match keys.find::<u32>(KEY)? {
            None => return Ok(None),
            Some(0) => Pooling::Tokens,
            Some(1) => Pooling::Mean,
            Some(2) => Pooling::First,
            Some(3) => Pooling::Last,
            Some(other) => {
                let kind = if other == 4 { ": rerankers".to_string() } else { format!(" {other}") };
                return Err(Error::Unsupported(format!("{:?}{kind} are not supported", keys.key(KEY))));
            }
        }))
    }

    /// Whether the vector of the token at this position, of `len`, is needed.
    pub(super) fn wants(self, position: usize, len: usize) -> bool {
        match self {
            Pooling::Tokens | Pooling::Mean => true,
            Pooling::First => position == 0,
            Pooling::Last => position + 1 == len,
        }
    }

    /// The text's vector of those needed, `width` long each.
    pub(super) fn pool(self, vectors: &[f32], width: usize) -> Vec<f32> {
        if self != Pooling::Mean {
            return vectors.to_vec();
        }
        let count = (vectors.len() / width) as f64;
        let sum = |i| vectors[i..].iter().step_by(width).map(|&x| f64::from(x)).sum::<f64>();
        (0..width).map(|i| (sum(i) / count) as f32).collect()
    }
}
