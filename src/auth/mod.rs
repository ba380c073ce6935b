//! What proves who somebody is. Who may do what with that is for those to say who ask.

mod keys;
mod session;
mod throttle;

pub use keys::{KEY_PREFIX, Key, KeyError, Keys};
pub use session::{CSRF_HEADER, Opened, PASSWORD_MIN, Session, SessionError, Sessions};
