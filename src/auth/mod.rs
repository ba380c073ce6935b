//! What proves who somebody is. Who may do what with that is for those to say who ask.

mod keys;

pub use keys::{KEY_PREFIX, Key, KeyError, Keys};
