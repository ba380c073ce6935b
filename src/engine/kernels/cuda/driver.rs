//! The NVIDIA driver's own interface, loaded when it is first asked for: nothing else of CUDA is needed to run.

use libloading::Library;
use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::sync::OnceLock;

/// What a call returns; zero is success.
pub type Status = c_int;
/// An object of the driver.
pub type Handle = *mut c_void;
/// An address in the device's memory.
pub type Address = u64;

/// That there is not enough memory.
pub const OUT_OF_MEMORY: Status = 2;

/// Numbers of what is asked of devices and functions, from `cuda.h`.
pub mod attribute {
    use std::ffi::c_int;

    /// Multiprocessors of a device.
    pub const MULTIPROCESSORS: c_int = 16;
    /// Compute capability, before the point.
    pub const MAJOR: c_int = 75;
    /// Compute capability, after the point.
    pub const MINOR: c_int = 76;
    /// Bytes of shared memory that a block may ask for.
    pub const SHARED_MEMORY: c_int = 97;
    /// Whether addresses and the memory behind them can be had separately.
    pub const VIRTUAL_MEMORY: c_int = 102;
    /// Of a function: bytes of shared memory that it may be launched with.
    pub const DYNAMIC_SHARED_MEMORY: c_int = 8;
}

/// How a kernel is launched (`CUlaunchConfig`).
#[repr(C)]
pub struct LaunchConfig {
    /// Blocks.
    pub grid: [c_uint; 3],
    /// Threads of a block.
    pub block: [c_uint; 3],
    /// Bytes of shared memory that are set at the launch.
    pub shared: c_uint,
    /// Where.
    pub stream: Handle,
    /// What else.
    pub attributes: *mut LaunchAttribute,
    /// How many of those.
    pub count: c_uint,
}

/// An attribute of a launch (`CUlaunchAttribute`).
#[repr(C)]
pub struct LaunchAttribute {
    /// Which.
    pub id: c_uint,
    /// The value is aligned to eight bytes.
    pub padding: c_uint,
    /// The value, in as many bytes as the largest takes.
    pub value: [u64; 8],
}

/// The attribute that lets a kernel start before its predecessor has ended.
pub const OVERLAP: c_uint = 6;

/// Where memory is (`CUmemLocation`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Location {
    kind: c_int,
    id: c_int,
}

impl Location {
    /// On a device.
    pub fn on(device: c_int) -> Location {
        Location { kind: 1, id: device }
    }
}

/// What kind of memory is wanted (`CUmemAllocationProp`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Properties {
    kind: c_int,
    handles: c_int,
    location: Location,
    metadata: *mut c_void,
    flags: [u8; 8],
}

impl Properties {
    /// A device's own.
    pub fn on(device: c_int) -> Properties {
        let (metadata, flags) = (std::ptr::null_mut(), [0; 8]);
        Properties { kind: 1, handles: 0, location: Location::on(device), metadata, flags }
    }
}

/// Who may do what with memory (`CUmemAccessDesc`).
#[derive(Debug, Clone, Copy)]
#[repr(C)]
pub struct Access {
    /// Who.
    pub location: Location,
    /// What.
    pub flags: c_int,
}

impl Access {
    /// All of it.
    pub const READ_AND_WRITE: c_int = 3;
}

const _: () = assert!(size_of::<LaunchConfig>() == 56 && size_of::<LaunchAttribute>() == 72);
const _: () = assert!(size_of::<Properties>() == 32 && size_of::<Access>() == 12);

macro_rules! driver {
    ($($(#[$doc:meta])* $name:ident = $symbol:literal ($($argument:ty),*);)*) => {
        /// The driver's functions.
        #[allow(missing_docs, reason = "the names are the driver's")]
        pub struct Driver {
            $($(#[$doc])* pub $name: unsafe extern "C" fn($($argument),*) -> Status,)*
            _library: Library,
        }

        impl Driver {
            fn load(library: Library) -> Result<Driver, libloading::Error> {
                Ok(Driver {
                    $(
                        // SAFETY: the symbol is a function of this signature, which the driver keeps for good.
                        $name: unsafe { *library.get($symbol)? },
                    )*
                    _library: library,
                })
            }
        }
    };
}

driver! {
    init = b"cuInit\0" (c_uint);
    driver_version = b"cuDriverGetVersion\0" (*mut c_int);
    error_name = b"cuGetErrorName\0" (Status, *mut *const c_char);
    error_text = b"cuGetErrorString\0" (Status, *mut *const c_char);
    device_count = b"cuDeviceGetCount\0" (*mut c_int);
    device_get = b"cuDeviceGet\0" (*mut c_int, c_int);
    device_name = b"cuDeviceGetName\0" (*mut c_char, c_int, c_int);
    device_attribute = b"cuDeviceGetAttribute\0" (*mut c_int, c_int, c_int);
    device_memory = b"cuDeviceTotalMem_v2\0" (*mut usize, c_int);
    device_uuid = b"cuDeviceGetUuid_v2\0" (*mut [u8; 16], c_int);
    context_retain = b"cuDevicePrimaryCtxRetain\0" (*mut Handle, c_int);
    context_release = b"cuDevicePrimaryCtxRelease_v2\0" (c_int);
    context_set = b"cuCtxSetCurrent\0" (Handle);
    module_load = b"cuModuleLoadData\0" (*mut Handle, *const c_void);
    module_unload = b"cuModuleUnload\0" (Handle);
    module_function = b"cuModuleGetFunction\0" (*mut Handle, Handle, *const c_char);
    function_set = b"cuFuncSetAttribute\0" (Handle, c_int, c_int);
    memory_info = b"cuMemGetInfo_v2\0" (*mut usize, *mut usize);
    address_reserve = b"cuMemAddressReserve\0" (*mut Address, usize, usize, Address, u64);
    address_free = b"cuMemAddressFree\0" (Address, usize);
    create = b"cuMemCreate\0" (*mut u64, usize, *const Properties, u64);
    map = b"cuMemMap\0" (Address, usize, usize, u64, u64);
    set_access = b"cuMemSetAccess\0" (Address, usize, *const Access, usize);
    unmap = b"cuMemUnmap\0" (Address, usize);
    release = b"cuMemRelease\0" (u64);
    allocate_host = b"cuMemAllocHost_v2\0" (*mut *mut c_void, usize);
    free_host = b"cuMemFreeHost\0" (*mut c_void);
    register_host = b"cuMemHostRegister_v2\0" (*mut c_void, usize, c_uint);
    unregister_host = b"cuMemHostUnregister\0" (*mut c_void);
    copy_to_device = b"cuMemcpyHtoDAsync_v2\0" (Address, *const c_void, usize, Handle);
    copy_to_host = b"cuMemcpyDtoHAsync_v2\0" (*mut c_void, Address, usize, Handle);
    copy_within = b"cuMemcpyDtoDAsync_v2\0" (Address, Address, usize, Handle);
    fill = b"cuMemsetD8Async\0" (Address, u8, usize, Handle);
    stream_create = b"cuStreamCreate\0" (*mut Handle, c_uint);
    stream_destroy = b"cuStreamDestroy_v2\0" (Handle);
    stream_wait = b"cuStreamSynchronize\0" (Handle);
    launch = b"cuLaunchKernelEx\0" (*const LaunchConfig, Handle, *mut *mut c_void, *mut *mut c_void);
    capture_begin = b"cuStreamBeginCapture_v2\0" (Handle, c_int);
    capture_end = b"cuStreamEndCapture\0" (Handle, *mut Handle);
    graph_instantiate = b"cuGraphInstantiateWithFlags\0" (*mut Handle, Handle, u64);
    graph_launch = b"cuGraphLaunch\0" (Handle, Handle);
    graph_destroy = b"cuGraphDestroy\0" (Handle);
    graph_exec_destroy = b"cuGraphExecDestroy\0" (Handle);
}

/// Which of a machine's cards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// By its number, as the driver counts.
    Number(usize),
    /// By what it is known by across reboots and slots.
    Uuid([u8; 16]),
}

impl Which {
    /// The card that `0` or `GPU-01234567-89ab-cdef-0123-456789abcdef` stands for.
    pub fn parse(text: &str) -> Option<Which> {
        let Some(uuid) = text.strip_prefix("GPU-") else { return text.parse().ok().map(Which::Number) };
        let groups: Vec<&str> = uuid.split('-').collect();
        if !groups.iter().map(|group| group.len()).eq([8, 4, 4, 4, 12]) {
            return None;
        }
        let number = u128::from_str_radix(&groups.concat(), 16).ok()?;
        Some(Which::Uuid(number.to_be_bytes()))
    }
}

impl fmt::Display for Which {
    /// `cuda:0`, `cuda:GPU-01234567-89ab-cdef-0123-456789abcdef`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Which::Number(number) => write!(f, "cuda:{number}"),
            Which::Uuid(uuid) => {
                let hex = format!("{:032x}", u128::from_be_bytes(*uuid));
                write!(f, "cuda:GPU-{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
        }
    }
}

/// Why there is no computing on an NVIDIA card.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// No driver.
    #[error("there is no NVIDIA driver here ({0}); install NVIDIA's driver, or use the device cpu")]
    NoDriver(String),
    /// No such device.
    #[error("there is no device {asked}; the driver knows {count} of them")]
    NoDevice {
        /// The one asked for.
        asked: Which,
        /// How many there are.
        count: usize,
    },
    /// One that keeps addresses and memory together, as some that are shared between virtual machines do.
    #[error("{0} does not let memory be mapped, which the kernels' memory needs; use the device cpu")]
    NoMapping(String),
    /// Built without kernels.
    #[error("this build has no CUDA kernels; run `make kernels` and build again")]
    NoKernels,
    /// None for this device.
    #[error("{name} (compute capability {major}.{minor}) is older than what the kernels need (8.0)")]
    TooOld {
        /// The device's name.
        name: String,
        /// Its compute capability.
        major: i32,
        /// After the point.
        minor: i32,
    },
    /// They compute something else there than they should.
    #[error("the kernels are wrong on {card} ({what}); use the device cpu, and please tell us")]
    Wrong {
        /// The device's name.
        card: String,
        /// Which operation, and how wrong it is.
        what: String,
    },
    /// The driver refused something.
    #[error("{what} failed: {text} ({name})")]
    Call {
        /// What was tried.
        what: String,
        /// The driver's name of the error.
        name: String,
        /// Its explanation.
        text: String,
        /// Its number.
        status: Status,
    },
}

impl Driver {
    /// The driver of this machine, loaded once.
    ///
    /// # Errors
    /// When there is none, or it is too old.
    pub fn get() -> Result<&'static Driver, Error> {
        static DRIVER: OnceLock<Result<Driver, Error>> = OnceLock::new();
        DRIVER.get_or_init(Driver::open).as_ref().map_err(Clone::clone)
    }

    fn open() -> Result<Driver, Error> {
        let none = |error: libloading::Error| Error::NoDriver(error.to_string());
        // SAFETY: the driver's library has initialisers that may run at any time.
        let library = unsafe { Library::new("libcuda.so.1") }.map_err(none)?;
        let driver = Driver::load(library).map_err(none)?;
        // SAFETY: no device is in use yet; there are no flags.
        driver.check(unsafe { (driver.init)(0) }, || "starting the NVIDIA driver".into())?;
        Ok(driver)
    }

    /// The driver's version, as it counts.
    ///
    /// # Errors
    /// It does not say.
    pub fn version(&self) -> Result<c_int, Error> {
        let mut version = 0;
        // SAFETY: writes one number.
        self.check(unsafe { (self.driver_version)(&mut version) }, || "asking for the driver's version".into())?;
        Ok(version)
    }

    /// The error that a status stands for.
    ///
    /// # Errors
    /// When it isn't success.
    pub fn check(&self, status: Status, what: impl FnOnce() -> String) -> Result<(), Error> {
        if status == 0 {
            return Ok(());
        }
        let text = |get: unsafe extern "C" fn(Status, *mut *const c_char) -> Status| {
            let mut text = std::ptr::null();
            // SAFETY: the driver writes a pointer to a static string, or null.
            if unsafe { get(status, &mut text) } != 0 || text.is_null() {
                return format!("error {status}");
            }
            // SAFETY: not null, so a static string that ends with a zero.
            unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
        };
        Err(Error::Call { what: what(), name: text(self.error_name), text: text(self.error_text), status })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cards_by_number_and_by_identifier() {
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(Which::parse(text).map(|which| which.to_string()).as_deref(), expected, "{text}");
        };
        check("0", Some("cuda:0"));
        check("GPU-0a1b2c3d-0e4f-5061-7283-94a5b6c7d8e9", Some("cuda:GPU-0a1b2c3d-0e4f-5061-7283-94a5b6c7d8e9"));
        for text in [
            "",
            "-1",
            "x",
            "GPU-",
            "GPU-0a1b2c3d",
            "GPU-0a1b2c3d0e4f5061728394a5b6c7d8e9",
            "GPU-0a1b2c3g-0e4f-5061-7283-94a5b6c7d8e9",
        ] {
            check(text, None);
        }
    }
}
