use crate::engine::Error;
use crate::engine::gguf::{FromValue, Metadata};

/// The keys of an architecture.
pub(super) struct Keys<'a> {
    pub(super) metadata: &'a Metadata,
    pub(super) architecture: &'static str,
}

impl Keys<'_> {
    /// The name of a key in the file.
    pub(super) fn key(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// The value of a key, if there is one.
    pub(super) fn find<T: for<'a> FromValue<'a>>(&self, key: &str) -> Result<Option<T>, Error> {
        Ok(self.metadata.find(&self.key(key))?)
    }

    /// A count from 1 to `most`.
    pub(super) fn count(&self, key: &str, default: Option<usize>, most: u64) -> Result<usize, Error> {
        let count = match (self.find::<u64>(key)?, default) {
            (Some(count), _) => count,
            (None, Some(default)) => default as u64,
            (None, None) => self.metadata.get::<u64>(&self.key(key))?,
        };
        if !(1..=most).contains(&count) {
            return Err(Error::Inconsistent(format!("{:?} is {count}, not within 1..={most}", self.key(key))));
        }
        Ok(count as usize)
    }

    /// A number within a range.
    pub(super) fn number(
        &self,
        key: &str,
        default: Option<f32>,
        within: std::ops::RangeInclusive<f32>,
    ) -> Result<f32, Error> {
        let number = match (self.find::<f32>(key)?, default) {
            (Some(number), _) => number,
            (None, Some(default)) => default,
            (None, None) => self.metadata.get::<f32>(&self.key(key))?,
        };
        if !within.contains(&number) {
            return Err(Error::Inconsistent(format!("{:?} is {number}, not within {within:?}", self.key(key))));
        }
        Ok(number)
    }

    /// What is squashed to within this.
    pub(super) fn softcap(&self, key: &str) -> Result<Option<f32>, Error> {
        // Zero stands for none.
        let cap = self.number(key, Some(0.0), 0.0..=1e6)?;
        Ok((cap > 0.0).then_some(cap))
    }
}
