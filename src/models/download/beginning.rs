use super::partial::Partial;
use crate::models::{Error, header};

/// The first look; each further one comes when twice as much has. Headers with a large vocabulary have 20 MB.
const FIRST: u64 = 1 << 20;

/// Judges a model by its first bytes, so that nobody waits for gigabytes that can then not be served.
#[derive(Debug)]
pub(super) struct Beginning<'a> {
    from: &'a str,
    total: Option<u64>,
    /// When so many bytes are there, the next look is worth it; nothing once the verdict is given.
    next: Option<u64>,
}

impl<'a> Beginning<'a> {
    pub(super) fn new(is_model: bool, from: &'a str, total: Option<u64>) -> Self {
        Self { from, total, next: is_model.then_some(FIRST) }
    }

    /// Looks, if it is time.
    ///
    /// # Errors
    /// When the model cannot be served.
    pub(super) async fn check(&mut self, partial: &mut Partial) -> Result<(), Error> {
        let (Some(next), Some(total)) = (self.next, self.total) else { return Ok(()) };
        let there = partial.done();
        if there < next || there >= total {
            return Ok(());
        }
        partial.flush().await?;
        self.next = match header::check_beginning(partial.path(), there, total, self.from).await? {
            true => None,
            false => Some(there * 2),
        };
        Ok(())
    }
}
