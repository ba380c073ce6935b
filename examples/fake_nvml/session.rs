//! Between a call and the script: reading it, faults, and what opening the library remembers.

use crate::script::{Card, EVERY, Fault, Presence, Script};
use std::ffi::{CStr, OsStr, c_char, c_uint, c_void};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

/// What every function returns: 0 for success, or a [`Fault`]'s number.
pub type Code = c_uint;
/// A card: its position in the script, from 1.
pub type Handle = *mut c_void;

/// What opening the library remembers.
#[derive(Debug, Clone, Copy, Default)]
pub struct Session {
    /// Who has opened it and not closed it.
    pub users: u32,
    /// The script's `reloads` when it was opened.
    pub reloads: u64,
    /// Errors of cards before it was opened.
    pub xids: usize,
}

static SESSION: Mutex<Session> = Mutex::new(Session { users: 0, reloads: 0, xids: 0 });

/// What is remembered, to look at or change.
pub fn session<T>(look: impl FnOnce(&mut Session) -> T) -> T {
    look(&mut SESSION.lock().unwrap_or_else(PoisonError::into_inner))
}

/// The script as it is now, when `function` is called: written down, after its time, and unless it fails.
pub fn enter(function: &str) -> Result<Arc<Script>, Fault> {
    let script = read()?;
    if script.log_calls {
        log(function);
    }
    let named = |name: &str| script.slow.get(name).or(script.slow.get(EVERY)).copied();
    if let Some(milliseconds) = named(function) {
        std::thread::sleep(Duration::from_millis(milliseconds));
    }
    match script.faults.get(function).or(script.faults.get(EVERY)) {
        Some(fault) => Err(*fault),
        None => Ok(script),
    }
}

/// Like [`enter`], for what may be called only between opening and closing.
pub fn enter_open(function: &str) -> Result<Arc<Script>, Fault> {
    let script = enter(function)?;
    if session(|session| session.users) == 0 { Err(Fault::Uninitialised) } else { Ok(script) }
}

/// What `look` sees of a card, when `function` is called on it. Its identity is known even while it is lost.
pub fn on_card<T>(function: &str, device: Handle, look: impl FnOnce(&Card) -> Result<T, Fault>) -> Result<T, Fault> {
    let script = enter_open(function)?;
    let card = device.addr().checked_sub(1).and_then(|at| script.cards.get(at)).ok_or(Fault::InvalidArgument)?;
    if let Some(fault) = card.faults.get(function).or(card.faults.get(EVERY)) {
        return Err(*fault);
    }
    let is_identity = ["nvmlDeviceGetName", "nvmlDeviceGetUUID"].contains(&function);
    let reloaded = session(|session| session.reloads) != script.reloads;
    if (card.presence != Presence::Present || reloaded) && !is_identity {
        return Err(Fault::GpuLost);
    }
    look(card)
}

/// Gives `value` to the caller.
///
/// # Safety
/// `out` must be null, or valid for writes, as NVML's functions ask of their callers.
pub unsafe fn give<T>(value: Result<T, Fault>, out: *mut T) -> Code {
    match value {
        Ok(_) if out.is_null() => Fault::InvalidArgument as Code,
        Ok(value) => {
            // SAFETY: It is not null, and so valid, as our caller has promised.
            unsafe { out.write(value) };
            0
        }
        Err(fault) => fault as Code,
    }
}

/// Gives a text to the caller, as C has them.
///
/// # Safety
/// `out` must be valid for writes of `length` bytes.
pub unsafe fn give_text(text: Result<String, Fault>, out: *mut c_char, length: c_uint) -> Code {
    let text = match text {
        Ok(text) if text.len() < length as usize && !out.is_null() => text,
        Ok(_) => return Fault::InsufficientSize as Code,
        Err(fault) => return fault as Code,
    };
    // SAFETY: The text and its end fit into what our caller has promised.
    unsafe {
        out.cast::<u8>().copy_from_nonoverlapping(text.as_ptr(), text.len());
        out.add(text.len()).write(0);
    }
    0
}

/// Where this copy of the library was loaded from.
fn own_path() -> Option<&'static Path> {
    static PATH: OnceLock<Option<PathBuf>> = OnceLock::new();
    let find = || {
        let mut found = libc::Dl_info {
            dli_fname: std::ptr::null(),
            dli_fbase: std::ptr::null_mut(),
            dli_sname: std::ptr::null(),
            dli_saddr: std::ptr::null_mut(),
        };
        let within = own_path as fn() -> Option<&'static Path> as *const c_void;
        // SAFETY: The address is one of this library's own functions, and `found` is ours.
        let known = unsafe { libc::dladdr(within, &mut found) };
        if known == 0 || found.dli_fname.is_null() {
            return None;
        }
        // SAFETY: The loader's names end with a zero, and last as long as what they name is loaded, which we are.
        let path = unsafe { CStr::from_ptr(found.dli_fname) };
        Some(PathBuf::from(OsStr::from_bytes(path.to_bytes())))
    };
    PATH.get_or_init(find).as_deref()
}

fn beside(ending: &str) -> Option<PathBuf> {
    let mut path = own_path()?.as_os_str().to_owned();
    path.push(ending);
    Some(path.into())
}

/// The script; parsed only when its bytes have changed.
fn read() -> Result<Arc<Script>, Fault> {
    static LAST: Mutex<Option<(Vec<u8>, Arc<Script>)>> = Mutex::new(None);
    let file = beside(".json").ok_or(Fault::Unknown)?;
    let complain = |error: String| {
        eprintln!("the script {} cannot be used: {error}", file.display());
        Fault::Unknown
    };
    let bytes = std::fs::read(&file).map_err(|error| complain(error.to_string()))?;
    let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((known, script)) if *known == bytes => Ok(script.clone()),
        _ => {
            let script = serde_json::from_slice(&bytes).map_err(|error| complain(error.to_string()))?;
            let script = Arc::new(script);
            *last = Some((bytes, Arc::clone(&script)));
            Ok(script)
        }
    }
}

fn log(function: &str) {
    let append = |path| std::fs::OpenOptions::new().create(true).append(true).open(path).ok();
    if let Some(mut file) = beside(".calls").and_then(append) {
        // A line that is missing is for the test to notice.
        let _ = file.write_all(format!("{function}\n").as_bytes());
    }
}
