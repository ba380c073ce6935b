//! All memory of a card that an opened device takes: one stretch of addresses, behind which there is as much memory as is
//! used, and never more than it may have. The memory can go while the addresses stay, so that what was recorded with them
//! is right again when it comes back.

use super::driver::{Access, Address, Driver, Location, OUT_OF_MEMORY, Properties, Status};
use super::pool::Pool;
use std::collections::BTreeMap;
use std::ffi::c_int;

/// Memory is taken in multiples of this: the driver's own measure, of all cards that there are kernels for.
pub const GRANULE: usize = 2 << 20;

/// Memory of more than this is had in several pieces, so that some of it can be given back.
const PIECE: usize = 16 * GRANULE;

/// What becomes of what a piece holds when the memory goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Contents {
    /// It comes back as it was loaded: nobody changes it.
    Weights,
    /// It comes back as it was left.
    Kept,
    /// It is written anew before it is read. Of keys and values, whoever lets the memory go says what to keep.
    Scratch,
}

/// The memory.
pub(super) struct Arena {
    driver: &'static Driver,
    device: c_int,
    base: Address,
    /// Bytes of addresses.
    room: usize,
    /// Bytes of memory that it may have.
    limit: usize,
    pool: Pool,
    /// What is behind which addresses: where each begins, its bytes, the driver's number of it. Empty while it is away.
    mapped: Vec<(usize, usize, u64)>,
    /// Which pieces are in use, by where they begin.
    pieces: BTreeMap<usize, (usize, Contents)>,
    /// Addresses of pieces that were cut, behind which there is no memory any more: where each begins, its bytes.
    holes: Vec<(usize, usize)>,
}

impl Arena {
    /// With addresses for all memory of a card of `memory` bytes, and none behind them yet. The device's context is current.
    ///
    /// # Errors
    /// The driver's status.
    pub fn new(driver: &'static Driver, device: c_int, memory: u64, limit: Option<u64>) -> Result<Arena, Status> {
        let room = (memory as usize).next_multiple_of(GRANULE);
        let mut base = 0;
        // SAFETY: writes an address, which `end` gives back.
        ok(unsafe { (driver.address_reserve)(&mut base, room, 0, 0, 0) })?;
        let limit = limit.map_or(room, |limit| room.min(limit as usize));
        let (pool, mapped, pieces, holes) = (Pool::default(), Vec::new(), BTreeMap::new(), Vec::new());
        Ok(Arena { driver, device, base, room, limit, pool, mapped, pieces, holes })
    }

    /// A piece of so many bytes.
    ///
    /// # Errors
    /// The driver's status; that there is no memory, also where there would be more than it may have.
    pub fn take(&mut self, bytes: usize, contents: Contents) -> Result<Address, Status> {
        if self.is_away() {
            return Err(OUT_OF_MEMORY);
        }
        let at = match self.pool.take(bytes) {
            Some(at) => at,
            None => {
                let (end, more) = (self.pool.end(), self.pool.missing(bytes).next_multiple_of(GRANULE));
                if end + more > self.limit {
                    return Err(OUT_OF_MEMORY);
                }
                self.map_all(end, more)?;
                self.pool.grow(more);
                self.pool.take(bytes).ok_or(OUT_OF_MEMORY)?
            }
        };
        self.pieces.insert(at, (bytes, contents));
        Ok(self.base + at as u64)
    }

    /// Gives back a piece.
    pub fn give_back(&mut self, address: Address) {
        let at = (address - self.base) as usize;
        if let Some((bytes, _)) = self.pieces.remove(&at) {
            self.pool.give_back(at, bytes);
        }
    }

    /// Gives back to the card what is behind a piece beyond its first `keep` bytes, as far as whole stretches of memory are.
    /// Nothing must be computed there. Bytes of that.
    pub fn cut(&mut self, address: Address, keep: usize) -> usize {
        let at = (address - self.base) as usize;
        let Some(&(bytes, contents)) = self.pieces.get(&at) else { return 0 };
        let (from, to) = (at + Pool::taken(keep), at + Pool::taken(bytes));
        let within = |(start, len, _): &(usize, usize, u64)| *start >= from && start + len <= to;
        let gone: Vec<(usize, usize, u64)> = self.mapped.extract_if(.., |mapped| within(mapped)).collect();
        let (Some(start), Some(end)) =
            (gone.iter().map(|(start, ..)| *start).min(), gone.iter().map(|(start, len, _)| start + len).max())
        else {
            return 0;
        };
        gone.into_iter().for_each(|(at, bytes, handle)| self.unmap(at, bytes, handle));
        self.holes.push((start, end - start));
        self.pieces.insert(at, (start - at, contents));
        // The rest of it has memory that others can use.
        if to > end {
            self.pool.give_back(end, to - end);
        }
        end - start
    }

    fn unmap(&self, at: usize, bytes: usize, handle: u64) {
        // SAFETY: as it was mapped; nobody reads or writes there any more, or not before it comes back.
        unsafe {
            (self.driver.unmap)(self.base + at as u64, bytes);
            (self.driver.release)(handle);
        }
    }

    /// Bytes of memory that it has.
    pub fn bytes(&self) -> usize {
        self.mapped.iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// Whether its memory is away.
    pub fn is_away(&self) -> bool {
        self.mapped.is_empty() && self.pool.end() > 0
    }

    /// All its addresses that memory is behind.
    pub fn mapped(&self) -> impl Iterator<Item = (Address, usize)> {
        self.mapped.iter().map(|(at, bytes, _)| (self.base + *at as u64, *bytes))
    }

    /// Where such contents are, and how many bytes: as few and long stretches as there are.
    pub fn stretches(&self, of: Contents) -> Vec<(Address, usize)> {
        let mut stretches: Vec<(Address, usize)> = Vec::new();
        for (&at, &(bytes, _)) in self.pieces.iter().filter(|(_, (_, contents))| *contents == of) {
            let (address, bytes) = (self.base + at as u64, Pool::taken(bytes));
            match stretches.last_mut() {
                Some((start, len)) if *start + *len as u64 == address => *len += bytes,
                _ => stretches.push((address, bytes)),
            }
        }
        stretches
    }

    /// Gives all memory back to the card; addresses and pieces stay. Nothing must be computed.
    pub fn leave(&mut self) {
        for (at, bytes, handle) in std::mem::take(&mut self.mapped) {
            self.unmap(at, bytes, handle);
        }
    }

    /// Takes as much memory as it had, with nothing in it.
    ///
    /// # Errors
    /// The driver's status: another one has the memory. It is away then as before.
    pub fn come_back(&mut self) -> Result<(), Status> {
        let mut holes = self.holes.clone();
        holes.sort_unstable();
        holes.push((self.pool.end(), 0));
        let mut at = 0;
        for (hole, bytes) in holes {
            if let Err(status) = self.map_all(at, hole - at) {
                self.leave();
                return Err(status);
            }
            at = hole + bytes;
        }
        Ok(())
    }

    fn map_all(&mut self, at: usize, bytes: usize) -> Result<(), Status> {
        let end = at + bytes;
        (at..end).step_by(PIECE).try_for_each(|at| self.map(at, PIECE.min(end - at)))
    }

    fn map(&mut self, at: usize, bytes: usize) -> Result<(), Status> {
        let Arena { driver, device, base, room, .. } = *self;
        if at + bytes > room {
            return Err(OUT_OF_MEMORY);
        }
        let (properties, mut handle) = (Properties::on(device), 0);
        // SAFETY: reads the properties and writes a handle.
        ok(unsafe { (driver.create)(&mut handle, bytes, &properties, 0) })?;
        let address = base + at as u64;
        let access = Access { location: Location::on(device), flags: Access::READ_AND_WRITE };
        // SAFETY: these addresses are ours, and nothing is behind them; the memory is as large. Reads one description.
        let mapped = unsafe {
            ok((driver.map)(address, bytes, 0, handle, 0)).and_then(|()| {
                let open = ok((driver.set_access)(address, bytes, &access, 1));
                if open.is_err() {
                    (driver.unmap)(address, bytes);
                }
                open
            })
        };
        if let Err(status) = mapped {
            // SAFETY: nothing refers to it.
            unsafe { (driver.release)(handle) };
            return Err(status);
        }
        self.mapped.push((at, bytes, handle));
        Ok(())
    }

    /// Gives everything back. The device's context is current, and nothing is computed any more.
    pub fn end(&mut self) {
        self.leave();
        // SAFETY: reserved once, given back once.
        unsafe { (self.driver.address_free)(self.base, self.room) };
    }
}

fn ok(status: Status) -> Result<(), Status> {
    if status == 0 { Ok(()) } else { Err(status) }
}
