//! What can be served: the catalogue, the files that were pulled, and the pulls.

mod catalogue;
mod error;
mod name;
mod progress;
mod source;
mod spec;

pub use catalogue::{CatalogueEntry, HubFile, Mirror, Wheels};
pub use error::{Error, NotFound};
pub use progress::{Phase, Progress};
pub use spec::ModelSpec;

/// Bytes as lower-case hex digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
