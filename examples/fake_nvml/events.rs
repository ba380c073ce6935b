//! Errors of cards, told to those who wait for them.

use crate::script::Fault;
use crate::session::{Code, Handle, enter_open, give, on_card, session};
use std::ffi::{c_uint, c_ulonglong};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// `nvmlEventTypeXidCriticalError`, the one kind that there is.
const CRITICAL_XID: c_ulonglong = 8;
/// How often the script is looked at while somebody waits.
const LOOK: Duration = Duration::from_millis(2);

/// `nvmlEventData_t`.
#[repr(C)]
struct Event {
    device: Handle,
    kind: c_ulonglong,
    data: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// Those who wait together.
struct Set {
    state: Mutex<State>,
}

struct State {
    /// The cards that they wait for.
    cards: Vec<usize>,
    /// Errors that were told, or came before the library was opened.
    told: usize,
}

/// # Safety
/// As NVML asks: `set` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetCreate(set: *mut *mut Set) -> Code {
    let made = enter_open("nvmlEventSetCreate").map(|_| {
        let told = session(|session| session.xids);
        Box::into_raw(Box::new(Set { state: Mutex::new(State { cards: Vec::new(), told }) }))
    });
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(made, set) }
}

/// # Safety
/// As NVML asks: `set` was created here, and is used no more.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetFree(set: *mut Set) -> Code {
    if set.is_null() {
        return Fault::InvalidArgument as Code;
    }
    // SAFETY: It came from a box, and nobody uses it any more, as our caller has promised.
    drop(unsafe { Box::from_raw(set) });
    0
}

/// # Safety
/// As NVML asks: `kinds` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetSupportedEventTypes(device: Handle, kinds: *mut c_ulonglong) -> Code {
    let supported = on_card("nvmlDeviceGetSupportedEventTypes", device, |_| Ok(CRITICAL_XID));
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(supported, kinds) }
}

/// # Safety
/// As NVML asks: `set` was created here.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceRegisterEvents(device: Handle, kinds: c_ulonglong, set: *mut Set) -> Code {
    // SAFETY: It is valid where it is not null, as our caller has promised.
    let Some(set) = (unsafe { set.as_ref() }) else { return Fault::InvalidArgument as Code };
    let registered = on_card("nvmlDeviceRegisterEvents", device, |_| {
        if kinds & !CRITICAL_XID != 0 {
            return Err(Fault::NotSupported);
        }
        set.state.lock().unwrap_or_else(PoisonError::into_inner).cards.push(device.addr() - 1);
        Ok(())
    });
    registered.map_or_else(|fault| fault as Code, |()| 0)
}

/// # Safety
/// As NVML asks: `set` was created here, and `event` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlEventSetWait_v2(set: *mut Set, event: *mut Event, milliseconds: c_uint) -> Code {
    // SAFETY: It is valid where it is not null, as our caller has promised.
    let Some(set) = (unsafe { set.as_ref() }) else { return Fault::InvalidArgument as Code };
    let until = Instant::now() + Duration::from_millis(milliseconds.into());
    let next = loop {
        match next(set) {
            Ok(None) if Instant::now() < until => std::thread::sleep(LOOK),
            Ok(None) => break Err(Fault::Timeout),
            Ok(Some(event)) => break Ok(event),
            Err(fault) => break Err(fault),
        }
    };
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(next, event) }
}

/// The oldest error that was not told.
fn next(set: &Set) -> Result<Option<Event>, Fault> {
    let script = enter_open("nvmlEventSetWait_v2")?;
    let mut state = set.state.lock().unwrap_or_else(PoisonError::into_inner);
    while let Some(xid) = script.xids.get(state.told) {
        state.told += 1;
        let of = script.cards.iter().position(|card| card.uuid == xid.uuid);
        if let Some(at) = of.filter(|at| state.cards.contains(at)) {
            return Ok(Some(Event {
                device: std::ptr::without_provenance_mut(at + 1),
                kind: CRITICAL_XID,
                data: xid.code,
                gpu_instance: c_uint::MAX,
                compute_instance: c_uint::MAX,
            }));
        }
    }
    Ok(None)
}
