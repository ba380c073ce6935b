//! A card, opened: its context, its one stream of work, its kernels, its memory.

use super::arena::{Arena, Contents};
use super::driver::{
    Address, Driver, Error, Handle, LaunchAttribute, LaunchConfig, OUT_OF_MEMORY, OVERLAP, Which, attribute,
};
use super::images;
use super::need::Card;
use crate::engine::kernels::OutOfMemory;
use std::collections::HashMap;
use std::ffi::{CStr, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Whether a card failed that this process computes on.
static FAILED: AtomicBool = AtomicBool::new(false);

/// Whether a card failed that this process computed on: it fell off the bus, found its memory damaged, or a kernel went
/// astray. Nothing can be computed on it any more before the process has ended.
pub fn failed() -> bool {
    FAILED.load(Ordering::Relaxed)
}

/// What a card is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// Its name.
    pub name: String,
    /// Its compute capability.
    pub capability: (i32, i32),
    /// How many multiprocessors work is shared among: all that it has, unless told otherwise.
    pub multiprocessors: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// Bytes of shared memory that a block may have.
    pub shared: usize,
}

impl Info {
    /// As it is to kernels of this choice.
    pub(super) fn with(self, choice: images::Choice) -> Info {
        let capability = images::usable(self.capability, choice);
        let shared = Info { capability, ..self.clone() }.card().shared();
        let known = capability != self.capability;
        Info { capability, shared: if known { self.shared.min(shared) } else { self.shared }, ..self }
    }

    /// As far as it matters to how much memory a model takes.
    pub fn card(&self) -> Card {
        let Info { capability, memory, multiprocessors, .. } = *self;
        Card { capability, memory, multiprocessors: Some(multiprocessors) }
    }
}

/// An opened card.
pub struct Device {
    driver: &'static Driver,
    which: Which,
    number: c_int,
    context: Handle,
    stream: Handle,
    modules: Vec<Handle>,
    functions: Mutex<HashMap<&'static CStr, Handle>>,
    info: Info,
    arena: Mutex<Arena>,
    /// Counts what was given back: recorded work may not be repeated after that.
    freed: AtomicU64,
}

// SAFETY: the driver's objects may be used from any thread; `bind` makes the context current where it is used.
unsafe impl Send for Device {}
// SAFETY: as above; the driver locks what it shares.
unsafe impl Sync for Device {}

impl Device {
    /// Opens a card, to share work among so many of its multiprocessors, and to take no more of its memory than so many bytes
    /// besides its context. It is taken to have no more than `memory`.
    ///
    /// # Errors
    /// When there is no driver, card or kernel for it.
    pub fn open(
        which: Which,
        multiprocessors: Option<usize>,
        limit: Option<u64>,
        memory: Option<u64>,
        choice: images::Choice,
    ) -> Result<Arc<Device>, Error> {
        if !super::built() {
            return Err(Error::NoKernels);
        }
        let driver = Driver::get()?;
        let number = find(driver, which)?;
        let mut info = info(driver, number)?;
        let own = info.capability;
        info = info.with(choice);
        info.memory = memory.map_or(info.memory, |memory| info.memory.min(memory));
        info.multiprocessors =
            multiprocessors.map_or(info.multiprocessors, |most| info.multiprocessors.min(most.max(1)));
        let images = images::select(own, choice).ok_or_else(|| {
            let (major, minor) = own;
            Error::TooOld { name: info.name.clone(), major, minor }
        })?;
        if device_attribute(driver, number, attribute::VIRTUAL_MEMORY, "mapping of memory")? == 0 {
            return Err(Error::NoMapping(info.name));
        }
        let (mut context, mut stream) = (std::ptr::null_mut(), std::ptr::null_mut());
        let opening = || format!("opening {which}");
        // SAFETY: writes a handle, which `drop` gives back.
        driver.check(unsafe { (driver.context_retain)(&mut context, number) }, opening)?;
        // SAFETY: the context is alive.
        let current = unsafe { (driver.context_set)(context) };
        let arena = match current {
            0 => Arena::new(driver, number, info.memory, limit),
            status => Err(status),
        };
        let arena = match arena {
            Ok(arena) => Mutex::new(arena),
            Err(status) => {
                // SAFETY: retained above.
                unsafe { (driver.context_release)(number) };
                return driver.check(status, opening).and(Err(Error::NoMapping(info.name)));
            }
        };
        // From here on `drop` cleans up.
        let (modules, functions, freed) = (Vec::new(), Mutex::default(), AtomicU64::new(0));
        let mut device = Device { driver, which, number, context, stream, modules, functions, info, arena, freed };
        // SAFETY: writes a handle; the flag asks for a stream of its own.
        driver.check(unsafe { (driver.stream_create)(&mut stream, 1) }, opening)?;
        device.stream = stream;
        for image in images {
            device.load(image)?;
        }
        Ok(Arc::new(device))
    }

    fn load(&mut self, image: &images::Image) -> Result<(), Error> {
        let driver = self.driver;
        let mut module = std::ptr::null_mut();
        let what = || format!("loading the kernels {} for {}", image.name, image.target);
        // SAFETY: the image is an ELF, or text that ends with a zero; the driver copies it.
        driver.check(unsafe { (driver.module_load)(&mut module, image.bytes.as_ptr().cast()) }, what)?;
        self.modules.push(module);
        Ok(())
    }

    /// A kernel, with the most shared memory that it may ask for.
    fn function(&self, name: &'static CStr) -> Handle {
        let mut functions = self.functions.lock().unwrap_or_else(PoisonError::into_inner);
        *functions.entry(name).or_insert_with(|| {
            let mut function = std::ptr::null_mut();
            let find = |&module: &Handle| {
                // SAFETY: the module is loaded, the name ends with a zero; a handle is written.
                unsafe { (self.driver.module_function)(&mut function, module, name.as_ptr()) == 0 }
            };
            assert!(self.modules.iter().any(find), "there is no kernel {name:?}");
            // All but what a kernel may have of its own.
            let shared = self.info.shared as c_int - 1024;
            // SAFETY: the function is loaded.
            unsafe { (self.driver.function_set)(function, attribute::DYNAMIC_SHARED_MEMORY, shared) };
            function
        })
    }

    /// What it is.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Bytes that are free on it.
    ///
    /// # Errors
    /// When the card doesn't answer.
    pub fn free_memory(&self) -> Result<u64, Error> {
        self.bind();
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        let status = unsafe { (self.driver.memory_info)(&mut free, &mut total) };
        self.driver.check(status, || "asking for free memory".into())?;
        Ok(free as u64)
    }

    /// The driver, with this card's context current in this thread.
    pub(super) fn bind(&self) -> &'static Driver {
        // SAFETY: the context lives as long as `self`.
        self.must(unsafe { (self.driver.context_set)(self.context) }, || "choosing the device".into());
        self.driver
    }

    /// Its stream.
    pub(super) fn stream(&self) -> Handle {
        self.stream
    }

    /// How often memory was given back.
    pub(super) fn freed(&self) -> u64 {
        self.freed.load(Ordering::Relaxed)
    }

    /// A card that fails has lost its context and all memory: nothing can go on. What is noticed of it while all is given
    /// up already has nobody to tell.
    ///
    /// # Panics
    /// When the status isn't success.
    #[track_caller]
    pub(super) fn must(&self, status: c_int, what: impl FnOnce() -> String) {
        if let Err(error) = self.driver.check(status, what)
            && !std::thread::panicking()
        {
            FAILED.store(true, Ordering::Relaxed);
            panic!("{} ({}): {error}", self.which, self.info.name);
        }
    }

    /// Waits until all work is done.
    pub fn wait(&self) {
        let driver = self.bind();
        // SAFETY: the stream lives as long as `self`.
        self.must(unsafe { (driver.stream_wait)(self.stream) }, || "computing".into());
    }

    /// Queues a kernel. `arguments` are addresses of values of the types that the kernel takes, in its order.
    ///
    /// # Safety
    /// The arguments are what the kernel of this name takes, and what they point to on the device is as large as the kernel
    /// expects.
    pub(super) unsafe fn launch(
        &self,
        name: &'static CStr,
        grid: [usize; 3],
        threads: usize,
        shared: usize,
        arguments: &[*const c_void],
    ) {
        if grid.contains(&0) {
            return;
        }
        let driver = self.bind();
        let function = self.function(name);
        // Kernels that overlap wait themselves for what they need; before Hopper there is no such thing.
        let mut overlap = LaunchAttribute { id: OVERLAP, padding: 0, value: [1, 0, 0, 0, 0, 0, 0, 0] };
        let config = LaunchConfig {
            grid: grid.map(|n| n as u32),
            block: [threads as u32, 1, 1],
            shared: shared as u32,
            stream: self.stream,
            attributes: &mut overlap,
            count: u32::from(self.info.capability >= (9, 0)),
        };
        let arguments = arguments.as_ptr().cast_mut().cast();
        // SAFETY: the caller vouches for the arguments; the driver copies them and the configuration.
        let status = unsafe { (driver.launch)(&config, function, arguments, std::ptr::null_mut()) };
        self.must(status, || format!("launching {name:?}"));
    }

    /// Memory that isn't set to anything.
    ///
    /// # Errors
    /// The card has no room, or all that may be taken is.
    pub(super) fn allocate(
        self: &Arc<Device>,
        bytes: usize,
        contents: Contents,
        what: &'static str,
    ) -> Result<Memory, OutOfMemory> {
        self.bind();
        match self.arena().take(bytes, contents) {
            Ok(address) => Ok(Memory { device: self.clone(), address, bytes }),
            Err(OUT_OF_MEMORY) => Err(OutOfMemory { what, bytes: bytes as u64 }),
            Err(status) => {
                self.must(status, || format!("taking {bytes} bytes for {what}"));
                Err(OutOfMemory { what, bytes: bytes as u64 })
            }
        }
    }

    /// Bytes of it that are taken, besides what the driver takes.
    pub fn taken(&self) -> u64 {
        self.arena().bytes() as u64
    }

    /// Its memory.
    pub(super) fn arena(&self) -> MutexGuard<'_, Arena> {
        self.arena.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        // SAFETY: the handles were made in `open` and are given back once. What fails has nobody to tell.
        unsafe {
            (self.driver.context_set)(self.context);
            if !self.stream.is_null() {
                (self.driver.stream_wait)(self.stream);
            }
            self.arena.get_mut().unwrap_or_else(PoisonError::into_inner).end();
            for &module in &self.modules {
                (self.driver.module_unload)(module);
            }
            if !self.stream.is_null() {
                (self.driver.stream_destroy)(self.stream);
            }
            (self.driver.context_release)(self.number);
        }
    }
}

/// The driver's number of a card.
fn find(driver: &Driver, which: Which) -> Result<c_int, Error> {
    let mut count = 0;
    // SAFETY: writes one number.
    driver.check(unsafe { (driver.device_count)(&mut count) }, || "counting devices".into())?;
    for at in 0..count {
        let (mut number, mut uuid) = (0, [0; 16]);
        let finding = || format!("finding cuda:{at}");
        // SAFETY: writes one number; there are so many devices.
        driver.check(unsafe { (driver.device_get)(&mut number, at) }, finding)?;
        // SAFETY: writes 16 bytes.
        driver.check(unsafe { (driver.device_uuid)(&mut uuid, number) }, finding)?;
        if which == Which::Uuid(uuid) || usize::try_from(at).is_ok_and(|at| which == Which::Number(at)) {
            return Ok(number);
        }
    }
    Err(Error::NoDevice { asked: which, count: count as usize })
}

fn device_attribute(driver: &Driver, device: c_int, attribute: c_int, what: &str) -> Result<c_int, Error> {
    let mut value = 0;
    // SAFETY: writes one number.
    let status = unsafe { (driver.device_attribute)(&mut value, attribute, device) };
    driver.check(status, || format!("asking for the {what}"))?;
    Ok(value)
}

/// What a card is, which opens nothing there.
///
/// # Errors
/// When there is no driver or no such card.
pub fn look(which: Which) -> Result<Info, Error> {
    let driver = Driver::get()?;
    info(driver, find(driver, which)?)
}

fn info(driver: &Driver, device: c_int) -> Result<Info, Error> {
    let attribute = |attribute, what: &str| device_attribute(driver, device, attribute, what);
    let mut name = [0_u8; 128];
    // SAFETY: writes at most as many bytes as it is told, with a zero at the end.
    let status = unsafe { (driver.device_name)(name.as_mut_ptr().cast(), name.len() as c_int, device) };
    driver.check(status, || "asking for the name".into())?;
    let mut memory = 0;
    // SAFETY: writes one number.
    driver.check(unsafe { (driver.device_memory)(&mut memory, device) }, || "asking for the memory".into())?;
    Ok(Info {
        name: String::from_utf8_lossy(name.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned(),
        capability: (
            attribute(attribute::MAJOR, "compute capability")?,
            attribute(attribute::MINOR, "compute capability")?,
        ),
        multiprocessors: attribute(attribute::MULTIPROCESSORS, "multiprocessors")? as usize,
        memory: memory as u64,
        shared: attribute(attribute::SHARED_MEMORY, "shared memory")? as usize,
    })
}

/// A stream of work beside the device's own.
pub(super) struct Stream<'a> {
    device: &'a Device,
    stream: Handle,
}

impl<'a> Stream<'a> {
    pub fn new(device: &'a Device) -> Stream<'a> {
        let (driver, mut stream) = (device.bind(), std::ptr::null_mut());
        // SAFETY: writes a handle, which `drop` gives back; the flag asks for a stream that waits for no other.
        device.must(unsafe { (driver.stream_create)(&mut stream, 1) }, || "opening a stream".into());
        Stream { device, stream }
    }

    /// Waits until all of its work is done.
    pub fn wait(&self) {
        // SAFETY: the stream lives as long as `self`, and its context as long as the device.
        let status = unsafe { (self.device.driver.stream_wait)(self.stream) };
        self.device.must(status, || "copying".into());
    }

    /// Queues a copy. Of memory that is not pinned it may be done at once.
    ///
    /// # Safety
    /// There are as many bytes at both, and those of the host stay what they are until the stream was waited for.
    pub unsafe fn copy_to_card(&self, to: Address, from: *const c_void, bytes: usize) {
        // SAFETY: as the caller vouches.
        let status = unsafe { (self.device.driver.copy_to_device)(to, from, bytes, self.stream) };
        self.device.must(status, || format!("copying {bytes} bytes to the device"));
    }

    /// Queues a copy.
    ///
    /// # Safety
    /// There are as many bytes at both, and nobody looks at those of the host until the stream was waited for.
    pub unsafe fn copy_to_host(&self, to: *mut c_void, from: Address, bytes: usize) {
        // SAFETY: as the caller vouches.
        let status = unsafe { (self.device.driver.copy_to_host)(to, from, bytes, self.stream) };
        self.device.must(status, || format!("copying {bytes} bytes from the device"));
    }
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // SAFETY: it was made once and is given back once; what it still does is done before it goes.
        unsafe { (self.device.driver.stream_destroy)(self.stream) };
    }
}

/// Memory of a card.
pub struct Memory {
    device: Arc<Device>,
    address: Address,
    bytes: usize,
}

impl Memory {
    /// Where it is.
    pub(super) fn address(&self) -> Address {
        self.address
    }

    /// How large it is.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Sets all of it to zero.
    pub(super) fn clear(&self) {
        let driver = self.device.bind();
        // SAFETY: the memory is as large as that.
        let status = unsafe { (driver.fill)(self.address, 0, self.bytes, self.device.stream) };
        self.device.must(status, || "clearing memory".into());
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.device.freed.fetch_add(1, Ordering::Relaxed);
        // Work that uses it may still be queued: whoever gets it next queues behind that.
        self.device.arena().give_back(self.address);
    }
}
