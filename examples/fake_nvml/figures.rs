//! What a card says of itself.

use crate::script::{Card, Fault, Process};
use crate::session::{Code, Handle, give, give_text, on_card};
use std::ffi::{c_char, c_int, c_uint, c_ulonglong};

/// `nvmlMemory_v2_t`.
#[repr(C)]
struct Memory {
    version: c_uint,
    total: c_ulonglong,
    reserved: c_ulonglong,
    free: c_ulonglong,
    used: c_ulonglong,
}

/// `nvmlUtilization_t`.
#[repr(C)]
struct Utilisation {
    gpu: c_uint,
    memory: c_uint,
}

/// `nvmlProcessInfo_t`.
#[repr(C)]
struct ProcessInfo {
    pid: c_uint,
    bytes: c_ulonglong,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// What the second version of a structure calls itself: `NVML_STRUCT_VERSION(Memory, 2)`.
const MEMORY_VERSION: c_uint = size_of::<Memory>() as c_uint | 2 << 24;

/// Functions that answer with one value; none is what the card does not support.
macro_rules! figures {
    ($($function:ident($card:ident) -> $type:ty { $value:expr })*) => {$(
        /// # Safety
        /// As NVML asks: `value` is valid.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $function(device: Handle, value: *mut $type) -> Code {
            let figure = on_card(stringify!($function), device, |$card| $value.ok_or(Fault::NotSupported));
            // SAFETY: Our caller's promise is the callee's demand.
            unsafe { give(figure, value) }
        }
    )*};
}

figures! {
    nvmlDeviceGetUtilizationRates(card) -> Utilisation {
        card.utilisation.map(|(gpu, memory)| Utilisation { gpu, memory })
    }
    nvmlDeviceGetPowerUsage(card) -> c_uint { card.power }
    nvmlDeviceGetEnforcedPowerLimit(card) -> c_uint { card.power_limit }
    nvmlDeviceGetTotalEnergyConsumption(card) -> c_ulonglong { card.energy }
    nvmlDeviceGetNumFans(card) -> c_uint { card.fans.as_ref().map(|fans| fans.len() as c_uint) }
    nvmlDeviceGetCurrentClocksThrottleReasons(card) -> c_ulonglong { card.throttle }
    nvmlDeviceGetPerformanceState(card) -> c_uint { card.performance_state }
    nvmlDeviceGetCurrPcieLinkGeneration(card) -> c_uint { card.pcie.map(|pcie| pcie.generation.0) }
    nvmlDeviceGetMaxPcieLinkGeneration(card) -> c_uint { card.pcie.map(|pcie| pcie.generation.1) }
    nvmlDeviceGetCurrPcieLinkWidth(card) -> c_uint { card.pcie.map(|pcie| pcie.width.0) }
    nvmlDeviceGetMaxPcieLinkWidth(card) -> c_uint { card.pcie.map(|pcie| pcie.width.1) }
    nvmlDeviceGetPcieReplayCounter(card) -> c_uint { card.pcie.map(|pcie| pcie.replays) }
}

/// Functions that answer with the one of two values that the caller chooses by a number.
macro_rules! choices {
    ($($function:ident($card:ident, $first:literal or $second:literal) -> { $pair:expr })*) => {$(
        /// # Safety
        /// As NVML asks: `value` is valid.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $function(device: Handle, choice: c_uint, value: *mut c_uint) -> Code {
            let figure = on_card(stringify!($function), device, |$card| match (choice, $pair) {
                ($first, Some((value, _))) | ($second, Some((_, value))) => Ok(value),
                _ => Err(Fault::NotSupported),
            });
            // SAFETY: Our caller's promise is the callee's demand.
            unsafe { give(figure, value) }
        }
    )*};
}

choices! {
    // NVML_CLOCK_SM or NVML_CLOCK_MEM
    nvmlDeviceGetClockInfo(card, 1 or 2) -> { card.clocks }
    // NVML_PCIE_UTIL_TX_BYTES or NVML_PCIE_UTIL_RX_BYTES
    nvmlDeviceGetPcieThroughput(card, 0 or 1) -> { card.pcie.map(|pcie| pcie.throughput) }
}

/// Functions that answer with a share of time and over how many microseconds it was taken.
macro_rules! shares {
    ($($function:ident($card:ident) -> { $value:expr })*) => {$(
        /// # Safety
        /// As NVML asks: both values are valid.
        #[unsafe(no_mangle)]
        unsafe extern "C" fn $function(device: Handle, share: *mut c_uint, period: *mut c_uint) -> Code {
            let figure = on_card(stringify!($function), device, |$card| $value.ok_or(Fault::NotSupported));
            // SAFETY: Our caller's promise is the callee's demand.
            match unsafe { give(figure, share) } {
                // SAFETY: As above.
                0 => unsafe { give(Ok(167_000), period) },
                code => code,
            }
        }
    )*};
}

shares! {
    nvmlDeviceGetEncoderUtilization(card) -> { card.encoder }
    nvmlDeviceGetDecoderUtilization(card) -> { card.decoder }
}

/// # Safety
/// As NVML asks: `name` has `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetName(device: Handle, name: *mut c_char, length: c_uint) -> Code {
    let text = on_card("nvmlDeviceGetName", device, |card| Ok(card.name.clone()));
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give_text(text, name, length) }
}

/// # Safety
/// As NVML asks: `uuid` has `length` bytes.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetUUID(device: Handle, uuid: *mut c_char, length: c_uint) -> Code {
    let text = on_card("nvmlDeviceGetUUID", device, |card| Ok(card.uuid.clone()));
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give_text(text, uuid, length) }
}

/// # Safety
/// As NVML asks: `memory` is valid, and says which version it is.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Handle, memory: *mut Memory) -> Code {
    // SAFETY: It is valid where it is not null, as our caller has promised.
    let version = unsafe { memory.as_ref() }.map(|memory| memory.version);
    if version != Some(MEMORY_VERSION) {
        return 25; // NVML_ERROR_ARGUMENT_VERSION_MISMATCH
    }
    let known = on_card("nvmlDeviceGetMemoryInfo_v2", device, |card| {
        let memory = card.memory.ok_or(Fault::NotSupported)?;
        let usable = memory.total.saturating_sub(memory.reserved);
        let used = card.used().min(usable);
        Ok(Memory {
            version: MEMORY_VERSION,
            total: memory.total,
            reserved: memory.reserved,
            free: usable - used,
            used,
        })
    });
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(known, memory) }
}

/// # Safety
/// As NVML asks: `celsius` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetTemperature(device: Handle, sensor: c_uint, celsius: *mut c_uint) -> Code {
    let known = on_card("nvmlDeviceGetTemperature", device, |card| match sensor {
        0 => card.celsius.ok_or(Fault::NotSupported), // NVML_TEMPERATURE_GPU, the only one
        _ => Err(Fault::InvalidArgument),
    });
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(known, celsius) }
}

/// # Safety
/// As NVML asks: `speed` is valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetFanSpeed_v2(device: Handle, fan: c_uint, speed: *mut c_uint) -> Code {
    let known = on_card("nvmlDeviceGetFanSpeed_v2", device, |card| {
        let fans = card.fans.as_ref().ok_or(Fault::NotSupported)?;
        fans.get(fan as usize).copied().ok_or(Fault::InvalidArgument)
    });
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give(known, speed) }
}

/// # Safety
/// As NVML asks: both values are valid.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetCudaComputeCapability(device: Handle, major: *mut c_int, minor: *mut c_int) -> Code {
    let known =
        on_card("nvmlDeviceGetCudaComputeCapability", device, |card| card.capability.ok_or(Fault::NotSupported));
    // SAFETY: Our caller's promise is the callee's demand.
    match unsafe { give(known.map(|(major, _)| major), major) } {
        // SAFETY: As above.
        0 => unsafe { give(known.map(|(_, minor)| minor), minor) },
        code => code,
    }
}

/// # Safety
/// As NVML asks: `processes` has room for `count`.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetComputeRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    processes: *mut ProcessInfo,
) -> Code {
    let list =
        on_card("nvmlDeviceGetComputeRunningProcesses_v3", device, |card| list(card, |process| process.computes));
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give_list(list, count, processes) }
}

/// # Safety
/// As NVML asks: `processes` has room for `count`.
#[unsafe(no_mangle)]
unsafe extern "C" fn nvmlDeviceGetGraphicsRunningProcesses_v3(
    device: Handle,
    count: *mut c_uint,
    processes: *mut ProcessInfo,
) -> Code {
    let list = on_card("nvmlDeviceGetGraphicsRunningProcesses_v3", device, |card| list(card, |process| process.draws));
    // SAFETY: Our caller's promise is the callee's demand.
    unsafe { give_list(list, count, processes) }
}

fn list(card: &Card, which: impl Fn(&Process) -> bool) -> Result<Vec<ProcessInfo>, Fault> {
    let processes = card.processes.as_ref().ok_or(Fault::NotSupported)?;
    let info = |process: &Process| ProcessInfo {
        pid: process.pid,
        // NVML_VALUE_NOT_AVAILABLE
        bytes: process.bytes.unwrap_or(c_ulonglong::MAX),
        gpu_instance: c_uint::MAX,
        compute_instance: c_uint::MAX,
    };
    Ok(processes.iter().filter(|process| which(process)).map(info).collect())
}

/// # Safety
/// `count` must be valid, and `out` have room for as many, or be null.
unsafe fn give_list(list: Result<Vec<ProcessInfo>, Fault>, count: *mut c_uint, out: *mut ProcessInfo) -> Code {
    let list = match list {
        Ok(list) => list,
        Err(fault) => return fault as Code,
    };
    // SAFETY: It is valid where it is not null, as our caller has promised.
    let Some(count) = (unsafe { count.as_mut() }) else { return Fault::InvalidArgument as Code };
    let room = std::mem::replace(count, list.len() as c_uint) as usize;
    if list.is_empty() {
        return 0;
    }
    if out.is_null() || room < list.len() {
        return Fault::InsufficientSize as Code;
    }
    for (at, process) in list.into_iter().enumerate() {
        // SAFETY: There is room for as many as the list has, which was just compared.
        unsafe { out.add(at).write(process) };
    }
    0
}
