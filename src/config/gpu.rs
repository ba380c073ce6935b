use super::{Bytes, Price};
use serde::Deserialize;
use std::path::PathBuf;

/// The probe of the card.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Gpu {
    /// Where figures come from.
    pub probe: ProbeKind,
    /// The NVML library, where it is not on the loader's path.
    pub nvml_library: Option<PathBuf>,
    /// Memory of each card that is never planned with.
    pub reserve: Bytes,
    /// What a kilowatt-hour costs here; without it, energy has no cost.
    pub price_per_kwh: Option<Price>,
    /// The currency of the price, as it is shown.
    pub currency: Option<String>,
}

/// Where GPU figures come from.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProbeKind {
    /// The NVIDIA driver; no driver means no cards.
    Nvml,
    /// A snapshot in a JSON file, read at every sample: for trying the dashboard on a machine without a card.
    Fixed(PathBuf),
}

impl Default for Gpu {
    fn default() -> Self {
        Self {
            probe: ProbeKind::Nvml,
            nvml_library: None,
            reserve: Bytes(512 << 20),
            price_per_kwh: None,
            currency: None,
        }
    }
}
