//! The way to the card: pinned memory that is written in turns, and small lists that change from step to step.

use super::arena::Contents;
use super::device::{Device, Memory};
use super::driver::Address;
use crate::engine::kernels::OutOfMemory;
use std::ffi::c_void;
use std::sync::Arc;

/// Host memory that the card reads without the host's help.
pub(super) struct Pinned {
    device: Arc<Device>,
    address: *mut c_void,
    bytes: usize,
}

// SAFETY: it is memory that only its owner refers to.
unsafe impl Send for Pinned {}
// SAFETY: as above; what is shared is only read.
unsafe impl Sync for Pinned {}

impl Pinned {
    /// Zeros.
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Pinned, OutOfMemory> {
        let driver = device.bind();
        let mut address = std::ptr::null_mut();
        // SAFETY: writes an address, which `drop` gives back.
        let status = unsafe { (driver.allocate_host)(&mut address, bytes.max(1)) };
        if status != 0 {
            return Err(OutOfMemory { what: "pinned memory", bytes: bytes as u64 });
        }
        // SAFETY: as large as that, and nobody else's. Memory is initialised before it is a slice.
        unsafe { std::ptr::write_bytes(address.cast::<u8>(), 0, bytes) };
        Ok(Pinned { device: device.clone(), address, bytes })
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn address(&self) -> *mut c_void {
        self.address
    }

    /// The first `len` floats; whoever calls has waited for what the card does with it.
    pub fn floats(&self, len: usize) -> &[f32] {
        assert!(len * 4 <= self.bytes);
        // SAFETY: initialised, as large as that, aligned to a page, borrowed with `self`; any bits are a float.
        unsafe { std::slice::from_raw_parts(self.address.cast::<f32>(), len) }
    }

    /// The same, to be written.
    pub fn floats_mut(&mut self, len: usize) -> &mut [f32] {
        assert!(len * 4 <= self.bytes);
        // SAFETY: as above, and borrowed with `self` alone.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast::<f32>(), len) }
    }

    /// Its bytes, to be written; whoever calls has waited for what the card does with them.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: initialised, as large as that, and borrowed with `self`.
        unsafe { std::slice::from_raw_parts_mut(self.address.cast(), self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let driver = self.device.bind();
        // SAFETY: it was allocated once and is given back once.
        unsafe { (driver.free_host)(self.address) };
    }
}

/// Results in pinned memory, where the card puts them itself.
pub struct Landed {
    device: Arc<Device>,
    memory: Option<Pinned>,
    len: usize,
}

impl std::fmt::Debug for Landed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Landed").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Landed {
    /// With these in it.
    pub(super) fn new(device: &Arc<Device>, values: &[f32]) -> Landed {
        let mut landed = Landed { device: device.clone(), memory: None, len: 0 };
        landed.reserve(values.len());
        landed.landed(values.len());
        landed.values_mut().copy_from_slice(values);
        landed
    }

    /// Where `len` more floats have room. Those that are there stay.
    pub(super) fn reserve(&mut self, len: usize) -> *mut c_void {
        let bytes = (self.len + len) * 4;
        if bytes > 0 && self.memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            let mut memory =
                Pinned::new(&self.device, bytes.next_power_of_two()).unwrap_or_else(|error| panic!("{error}"));
            memory.floats_mut(self.len).copy_from_slice(self.values());
            self.memory = Some(memory);
        }
        let start = self.memory.as_ref().map_or(std::ptr::null_mut(), Pinned::address);
        start.cast::<f32>().wrapping_add(self.len).cast()
    }

    /// That so many have come to where there was room for them.
    pub(super) fn landed(&mut self, len: usize) {
        self.len += len;
    }

    /// All of them.
    pub fn values(&self) -> &[f32] {
        self.memory.as_ref().map_or(&[], |memory| memory.floats(self.len))
    }

    /// The same, for those who change them in place.
    pub fn values_mut(&mut self) -> &mut [f32] {
        let len = self.len;
        self.memory.as_mut().map_or(&mut [], |memory| memory.floats_mut(len))
    }

    /// Forgets them, but not the room.
    pub fn clear(&mut self) {
        self.len = 0;
    }
}

/// Bytes from which on several threads copy: one copies more slowly than the card takes it.
const SEVERAL: usize = 1 << 20;
/// Threads that copy at most.
const THREADS: usize = 8;

/// Pinned memory and as much on the card, both used in turns.
pub(super) struct Ring {
    device: Arc<Device>,
    host: Pinned,
    memory: Memory,
    at: usize,
    threads: usize,
}

impl Ring {
    pub fn new(device: &Arc<Device>, bytes: usize) -> Result<Ring, OutOfMemory> {
        let (host, memory) = (Pinned::new(device, bytes)?, device.allocate(bytes, Contents::Scratch, "uploads")?);
        let threads = std::thread::available_parallelism().map_or(1, |all| usize::from(all).min(THREADS));
        Ok(Ring { device: device.clone(), host, memory, at: 0, threads })
    }

    /// The largest piece that it takes without having to wait for what came just before.
    pub fn largest(&self) -> usize {
        self.host.bytes() / 4
    }

    /// Its pinned memory, for as long as it sends nothing.
    pub fn pinned(&mut self) -> &mut [u8] {
        self.device.wait();
        self.host.as_mut_slice()
    }

    /// Copies bytes to the card, where they stay until as many others have come as the ring is large.
    pub fn stage(&mut self, bytes: &[u8]) -> Address {
        let at = self.put(bytes);
        let to = self.memory.address() + at as u64;
        self.send(at, bytes.len(), to);
        to
    }

    /// Copies bytes to where they are wanted on the card.
    pub fn copy(&mut self, bytes: &[u8], to: Address) {
        let at = self.put(bytes);
        self.send(at, bytes.len(), to);
    }

    /// Copies bytes to where nothing else is on its way.
    fn put(&mut self, bytes: &[u8]) -> usize {
        let at = self.reserve(bytes.len());
        let threads = self.threads;
        let place = &mut self.host.as_mut_slice()[at..at + bytes.len()];
        if bytes.len() < SEVERAL {
            place.copy_from_slice(bytes);
            return at;
        }
        let each = bytes.len().div_ceil(threads);
        let mut pieces = place.chunks_mut(each).zip(bytes.chunks(each));
        let own = pieces.next();
        std::thread::scope(|scope| {
            for (to, from) in pieces {
                scope.spawn(move || to.copy_from_slice(from));
            }
            if let Some((to, from)) = own {
                to.copy_from_slice(from);
            }
        });
        at
    }

    fn reserve(&mut self, bytes: usize) -> usize {
        assert!(bytes <= self.host.bytes(), "{bytes} bytes at once");
        if self.at + bytes > self.host.bytes() {
            // What was queued from here may still be read.
            self.device.wait();
            self.at = 0;
        }
        let at = self.at;
        self.at = (at + bytes).next_multiple_of(256);
        at
    }

    fn send(&self, at: usize, bytes: usize, to: Address) {
        let driver = self.device.bind();
        // SAFETY: the source stays until the stream was waited for (`reserve`); the caller says where to.
        let status = unsafe {
            (driver.copy_to_device)(to, self.host.address().cast::<u8>().add(at).cast(), bytes, self.device.stream())
        };
        self.device.must(status, || format!("copying {bytes} bytes to the device"));
    }
}

/// Numbers of a step on the card, copied when they differ from the last ones.
#[derive(Default)]
pub(super) struct List {
    values: Vec<u32>,
    memory: Option<Memory>,
}

impl List {
    /// Takes room for so many numbers.
    pub fn reserve(&mut self, device: &Arc<Device>, len: usize) -> Result<(), OutOfMemory> {
        if self.memory.as_ref().is_none_or(|memory| memory.bytes() < len * 4) {
            self.memory = None;
            self.memory = Some(device.allocate(len * 4, Contents::Kept, "a step")?);
            self.values.clear();
        }
        Ok(())
    }

    /// Where these values are. While work is recorded (`ring` is none) they only get their place: whoever repeats the
    /// work puts them there before.
    pub fn put(&mut self, device: &Arc<Device>, ring: Option<&mut Ring>, values: &[u32]) -> Address {
        let bytes = size_of_val(values);
        if self.memory.as_ref().is_none_or(|memory| memory.bytes() < bytes) {
            self.reserve(device, (values.len() * 2).max(64)).unwrap_or_else(|error| panic!("{error}"));
        }
        let address = self.memory.as_ref().map_or(0, Memory::address);
        match ring {
            Some(ring) if self.values != values => {
                self.values.clear();
                self.values.extend_from_slice(values);
                let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
                ring.copy(&bytes, address);
            }
            _ => {}
        }
        address
    }
}
