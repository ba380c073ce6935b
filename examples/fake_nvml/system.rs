//! Opening, closing, and what is not of one card.

use crate::script::{Fault, Presence, Script};
use crate::session::{Code, Handle, enter, enter_open, give, give_text, session};
use std::ffi::{c_char, c_int, c_uint};

fn open(function: &str) -> Code {
    match enter(function) {
        Ok(script) => {
            session(|session| {
                // As with the real one, what was opened twice still sees what was there at first.
                if session.users == 0 {
                    (session.reloads, session.xids) = (script.reloads, script.xids.len());
                }
                session.users += 1;
            });
            0
        }
        Err(fault) => fault as Code,
    }
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInit_v2() -> Code {
    open("nvmlInit_v2")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlInitWithFlags(_flags: c_uint) -> Code {
    open("nvmlInitWithFlags")
}

#[unsafe(no_mangle)]
extern "C" fn nvmlShutdown() -> Code {
    session(|session| match session.users.checked_sub(1) {
        Some(users) => {
            session.users = users;
            0
        }
        None => Fault::Uninitialised as Code,
    })
}

/// # Safety
/// As NVML asks: `version` has `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetDriverVersion(version: *mut c_char, length: c_uint) -> Code {
    let text = enter_open("nvmlSystemGetDriverVersion").map(|script| script.version.clone());
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give_text(text, version, length) }
}

/// # Safety
/// As NVML asks: `version` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlSystemGetCudaDriverVersion_v2(version: *mut c_int) -> Code {
    let known = enter_open("nvmlSystemGetCudaDriverVersion_v2").map(|_| 13_000);
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(known, version) }
}

/// The positions of the cards that are counted.
fn counted(script: &Script) -> impl Iterator<Item = usize> + '_ {
    script.cards.iter().enumerate().filter(|(_, card)| card.presence != Presence::Gone).map(|(at, _)| at)
}

/// # Safety
/// As NVML asks: `count` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCount_v2(count: *mut c_uint) -> Code {
    let cards = enter_open("nvmlDeviceGetCount_v2").map(|script| counted(&script).count() as c_uint);
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(cards, count) }
}

/// # Safety
/// As NVML asks: `device` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Handle) -> Code {
    const NAME: &str = "nvmlDeviceGetHandleByIndex_v2";
    let handle = enter_open(NAME).and_then(|script| {
        let at = counted(&script).nth(index as usize).ok_or(Fault::InvalidArgument)?;
        match script.cards[at].faults.get(NAME) {
            Some(fault) => Err(*fault),
            None => Ok(std::ptr::without_provenance_mut(at + 1)),
        }
    });
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(handle, device) }
}
