//! What comes back from a device.

use super::cuda::Landed;

/// Floats that came back from a device, in memory that is used again: where the device puts them without a copy, if it
/// has such memory.
#[derive(Debug)]
pub struct Results(Place);

#[derive(Debug)]
enum Place {
    Here(Vec<f32>),
    Pinned(Landed),
}

impl Default for Results {
    fn default() -> Results {
        Results(Place::Here(Vec::new()))
    }
}

impl From<Vec<f32>> for Results {
    fn from(values: Vec<f32>) -> Results {
        Results(Place::Here(values))
    }
}

impl Results {
    /// All of them.
    pub fn values(&self) -> &[f32] {
        match &self.0 {
            Place::Here(values) => values,
            Place::Pinned(landed) => landed.values(),
        }
    }

    /// The same, for those who change them in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        match &mut self.0 {
            Place::Here(values) => values,
            Place::Pinned(landed) => landed.values_mut(),
        }
    }

    /// Forgets them, but not the room.
    pub fn clear(&mut self) {
        match &mut self.0 {
            Place::Here(values) => values.clear(),
            Place::Pinned(landed) => landed.clear(),
        }
    }

    /// Where they are added to, by a device that puts them anywhere.
    pub fn here(&mut self) -> &mut Vec<f32> {
        if let Place::Pinned(landed) = &self.0 {
            self.0 = Place::Here(landed.values().to_vec());
        }
        match &mut self.0 {
            Place::Here(values) => values,
            Place::Pinned(_) => unreachable!("they are here since just now"),
        }
    }

    /// The pinned memory that they are in; `move_to` moves them there before.
    pub(super) fn pinned(&mut self, move_to: impl FnOnce(&[f32]) -> Landed) -> &mut Landed {
        if let Place::Here(values) = &self.0 {
            self.0 = Place::Pinned(move_to(values));
        }
        match &mut self.0 {
            Place::Pinned(landed) => landed,
            Place::Here(_) => unreachable!("they were moved just now"),
        }
    }
}
