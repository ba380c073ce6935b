//! Weights as they lie on a card, kept in the host's memory: what the card gives back comes again at the speed of the bus, and
//! in memory that somebody else holds too they outlive the process, so that the next one need not read and order them anew.

use super::Cuda;
use super::arena::Contents;
use super::device::{Device, Stream};
use super::driver::Address;
use super::transfer::{Stretch, staged};
use super::upload::Pinned;
use crate::engine::kernels::OutOfMemory;
use memmap2::{Advice, MmapMut};
use rustix::fs::{MemfdFlags, memfd_create};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What a whole image begins with.
const MAGIC: [u8; 8] = *b"SOVIMG\x01\0";
/// Bytes before the weights: the magic, whose they are, how they lie; up to the end of a page.
const HEADER: usize = 4096;
/// Threads that take memory for it beside what is computed.
const THREADS: usize = 8;

/// Where an image lies, and of what.
#[derive(Debug)]
pub struct Image {
    file: File,
    /// Stands for the weights of a model, on a kind of card.
    key: [u8; 32],
    /// What is in it, once something is.
    held: Option<Held>,
}

#[derive(Debug)]
struct Held {
    /// Gone before the memory is.
    registered: Option<Registered>,
    map: MmapMut,
    /// Where on the card it belongs.
    stretches: Vec<(Address, usize)>,
}

/// Memory of the host that the card reaches by itself.
struct Registered {
    device: Arc<Device>,
    address: usize,
}

impl std::fmt::Debug for Registered {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registered").finish_non_exhaustive()
    }
}

impl Registered {
    /// None where the system does not let memory be pinned: then it is reached through memory that is.
    fn new(device: &Arc<Device>, map: &mut MmapMut) -> Option<Registered> {
        let driver = device.bind();
        let address = map.as_mut_ptr();
        // SAFETY: the memory is as large as that, and stays until `drop` has taken it back.
        let status = unsafe { (driver.register_host)(address.cast(), map.len(), 0) };
        (status == 0).then(|| Registered { device: device.clone(), address: address as usize })
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        let driver = self.device.bind();
        // SAFETY: it was registered once and is taken back once.
        unsafe { (driver.unregister_host)(self.address as *mut _) };
    }
}

impl Image {
    /// In memory that may be shared with other processes, of the weights that `key` stands for.
    pub fn new(file: File, key: [u8; 32]) -> Image {
        Image { file, key, held: None }
    }

    /// In memory that is this process's alone.
    ///
    /// # Errors
    /// The system has none.
    pub fn alone() -> io::Result<Image> {
        Ok(Image::new(memfd_create("weights", MemfdFlags::CLOEXEC)?.into(), [0; 32]))
    }

    /// Whether all of these weights are in it already.
    pub fn is_whole(&self) -> bool {
        let mut header = [0; 72];
        self.file.read_exact_at(&mut header, 0).is_ok() && header[..8] == MAGIC && header[8..40] == self.key
    }

    /// Maps what is there, if it belongs to such stretches.
    fn open(&mut self, stretches: &[(Address, usize)]) -> bool {
        let mut layout = [0; 32];
        let same = self.is_whole()
            && self.file.read_exact_at(&mut layout, 40).is_ok()
            && layout == of(stretches)
            && self.file.metadata().is_ok_and(|file| file.len() == (HEADER + total(stretches)) as u64);
        // SAFETY: whoever shares the memory has written all of it before its magic, and writes no more.
        let map = if same { unsafe { MmapMut::map_mut(&self.file) }.ok() } else { None };
        self.held = map.map(|map| Held { registered: None, map, stretches: stretches.to_vec() });
        self.held.is_some()
    }

    /// Bytes of weights in it.
    pub fn bytes(&self) -> u64 {
        self.held.as_ref().map_or(0, |held| total(&held.stretches) as u64)
    }

    /// Whether it holds what belongs there.
    fn holds(&self, stretches: &[(Address, usize)]) -> bool {
        self.held.as_ref().is_some_and(|held| held.stretches == stretches)
    }

    /// Copies these weights from the card, unless it holds them; and lets the card reach them by itself, if it can.
    fn fill(
        &mut self,
        device: &Arc<Device>,
        stretches: Vec<(Address, usize)>,
        pinned: Option<&mut [u8]>,
    ) -> Result<(), OutOfMemory> {
        let bytes = total(&stretches);
        let none = |_: io::Error| OutOfMemory { what: "weights in the host's memory", bytes: bytes as u64 };
        if !self.holds(&stretches) {
            self.held = None;
            self.file.set_len(0).map_err(none)?;
            self.file.set_len((HEADER + bytes) as u64).map_err(none)?;
            // SAFETY: whoever shares the memory does not look at it before its magic.
            let mut map = unsafe { MmapMut::map_mut(&self.file) }.map_err(none)?;
            populate(&map);
            let registered = Registered::new(device, &mut map);
            let mut held = Held { registered, map, stretches };
            match (&held.registered, pinned) {
                (Some(_), _) => held.direct(device, Direction::ToHost),
                (None, Some(pinned)) => held.staged(device, pinned, Direction::ToHost),
                (None, None) => {
                    let mut pinned = Pinned::new(device, super::state::RING)?;
                    held.staged(device, pinned.as_mut_slice(), Direction::ToHost);
                }
            }
            held.map[8..40].copy_from_slice(&self.key);
            held.map[40..72].copy_from_slice(&of(&held.stretches));
            held.map[..8].copy_from_slice(&MAGIC);
            self.held = Some(held);
        }
        if let Some(held) = self.held.as_mut().filter(|held| held.registered.is_none()) {
            held.registered = Registered::new(device, &mut held.map);
        }
        Ok(())
    }

    /// Copies the weights to where they belong on the card; what was queued there before has been waited for.
    pub(super) fn restore(&mut self, device: &Device, pinned: &mut [u8]) {
        match &mut self.held {
            Some(held) if held.registered.is_some() => held.direct(device, Direction::ToCard),
            Some(held) => held.staged(device, pinned, Direction::ToCard),
            None => {}
        }
    }
}

/// Where copies go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    ToHost,
    ToCard,
}

impl Held {
    fn staged(&mut self, device: &Device, pinned: &mut [u8], direction: Direction) {
        let mut rest = &mut self.map[HEADER..];
        let mut stretches = Vec::new();
        for &(address, bytes) in &self.stretches {
            let (host, others) = rest.split_at_mut(bytes);
            rest = others;
            stretches.push(match direction {
                Direction::ToHost => Stretch::ToHost(host, address),
                Direction::ToCard => Stretch::ToCard(host, address),
            });
        }
        staged(device, pinned, stretches);
    }

    /// The same where the card reaches it.
    fn direct(&mut self, device: &Device, direction: Direction) {
        let stream = Stream::new(device);
        let mut rest = &mut self.map[HEADER..];
        for &(address, bytes) in &self.stretches {
            let (host, others) = rest.split_at_mut(bytes);
            rest = others;
            // SAFETY: both are as large, and the stream is waited for while the memory is borrowed.
            unsafe {
                match direction {
                    Direction::ToHost => stream.copy_to_host(host.as_mut_ptr().cast(), address, bytes),
                    Direction::ToCard => stream.copy_to_card(address, host.as_ptr().cast(), bytes),
                }
            }
        }
        stream.wait();
    }
}

fn total(stretches: &[(Address, usize)]) -> usize {
    stretches.iter().map(|(_, bytes)| bytes).sum()
}

/// What stands for how weights lie: where the first of them is does not matter.
fn of(stretches: &[(Address, usize)]) -> [u8; 32] {
    let base = stretches.first().map_or(0, |(address, _)| *address);
    let mut digest = Sha256::new();
    for (address, bytes) in stretches {
        digest.update((address - base).to_le_bytes());
        digest.update((*bytes as u64).to_le_bytes());
    }
    digest.finalize().into()
}

/// Takes all of the memory now, by several threads: pinning it afterwards is quick. Where the system does not do that, it
/// comes when it is written to.
fn populate(map: &MmapMut) {
    let threads = std::thread::available_parallelism().map_or(1, |all| usize::from(all).min(THREADS));
    let each = map.len().div_ceil(threads).next_multiple_of(2 << 20);
    std::thread::scope(|scope| {
        for at in (0..map.len()).step_by(each) {
            scope.spawn(move || map.advise_range(Advice::PopulateWrite, at, each.min(map.len() - at)));
        }
    });
}

/// An image that is made beside what is computed.
pub(super) type Shared = Arc<Mutex<Option<Image>>>;

pub(super) fn lock(image: &Shared) -> MutexGuard<'_, Option<Image>> {
    image.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Makes the image hold the card's weights: in one of this process's own where there is none.
pub(super) fn fill(
    image: &mut Option<Image>,
    device: &Arc<Device>,
    pinned: Option<&mut [u8]>,
) -> Result<(), OutOfMemory> {
    let stretches = device.arena().stretches(Contents::Weights);
    let none = |_| OutOfMemory { what: "weights in the host's memory", bytes: total(&stretches) as u64 };
    let mut filled = match image.take() {
        Some(image) => image,
        None => Image::alone().map_err(none)?,
    };
    let done = filled.fill(device, stretches, pinned);
    *image = Some(filled);
    done
}

impl Cuda {
    /// Takes all weights from an image, in place of those that were passed over while it [expected](Self::expect) one. What
    /// holds others, or the same in another order, is given back: then nothing was done.
    pub(in crate::engine) fn take(&self, image: Option<Image>) -> Option<Image> {
        let mut state = self.state();
        state.expects = false;
        let mut image = image?;
        let stretches = self.device.arena().stretches(Contents::Weights);
        if !image.open(&stretches) {
            return Some(image);
        }
        image.restore(&self.device, state.ring.pinned());
        *lock(&self.image) = Some(image);
        None
    }

    /// From now on matrices are not filled: an image comes.
    pub(in crate::engine) fn expect(&self) {
        self.state().expects = true;
    }

    /// Where weights are to be kept beside the card.
    pub(in crate::engine) fn keep_in(&self, image: Image) {
        *lock(&self.image) = Some(image);
    }

    /// Begins to keep them there, beside what is computed: so that sleeping need not wait for it. What fails is tried again
    /// then.
    pub fn keep_weights(&self) {
        let (image, device) = (self.image.clone(), self.device.clone());
        // Without a thread it is done later.
        let _ = std::thread::Builder::new().name("weights".into()).spawn(move || {
            let _ = fill(&mut lock(&image), &device, None);
        });
    }

    /// Keeps them now, if they are not: what the image holds is whole then. Bytes of it.
    ///
    /// # Errors
    /// The host has no such memory.
    pub fn kept_weights(&self) -> Result<u64, OutOfMemory> {
        let mut image = lock(&self.image);
        if !self.is_asleep() {
            fill(&mut image, &self.device, None)?;
        }
        Ok(image.as_ref().map_or(0, Image::bytes))
    }
}
