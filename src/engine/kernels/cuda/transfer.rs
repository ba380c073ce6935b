//! Between a card and memory of the host that is like any other: through pinned memory, by several threads, each of which
//! copies one piece while the card takes or brings another.

use super::device::{Device, Stream};
use super::driver::Address;
use std::ffi::c_void;
use std::sync::{Mutex, PoisonError};

/// Bytes that a thread copies at a time.
const UNIT: usize = 2 << 20;

/// Bytes of host memory, and where their like is on the card.
pub(super) enum Stretch<'a> {
    /// They go there.
    ToCard(&'a [u8], Address),
    /// They come from there.
    ToHost(&'a mut [u8], Address),
}

impl<'a> Stretch<'a> {
    /// The same in pieces that a thread copies at a time.
    fn units(self) -> Box<dyn Iterator<Item = Stretch<'a>> + Send + 'a> {
        let addresses = |address: Address| (address..).step_by(UNIT);
        match self {
            Stretch::ToCard(from, to) => {
                Box::new(from.chunks(UNIT).zip(addresses(to)).map(|(from, to)| Stretch::ToCard(from, to)))
            }
            Stretch::ToHost(to, from) => {
                Box::new(to.chunks_mut(UNIT).zip(addresses(from)).map(|(to, from)| Stretch::ToHost(to, from)))
            }
        }
    }
}

/// Copies all of them, by way of `pinned` memory that nobody else uses meanwhile. Returns when it is done.
pub(super) fn staged(device: &Device, pinned: &mut [u8], stretches: Vec<Stretch<'_>>) {
    let units = Mutex::new(stretches.into_iter().flat_map(Stretch::units));
    let next = || units.lock().unwrap_or_else(PoisonError::into_inner).next();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for places in pinned.chunks_exact_mut(2 * UNIT).take(threads) {
            scope.spawn(|| lane(device, places, &next));
        }
    });
}

/// Copies what is `next` until there is nothing, in two places by turns.
fn lane<'a>(device: &Device, places: &mut [u8], next: &impl Fn() -> Option<Stretch<'a>>) {
    let (first, second) = places.split_at_mut(UNIT);
    let mut places = [first, second].map(|place| (place, Stream::new(device), None));
    let (mut at, mut over) = (0, false);
    while !over || places.iter().any(|(_, _, coming)| coming.is_some()) {
        let (place, stream, coming) = &mut places[at];
        stream.wait();
        if let Some(to) = coming.take() {
            let to: &mut [u8] = to;
            to.copy_from_slice(&place[..to.len()]);
        }
        match next() {
            None => over = true,
            Some(Stretch::ToCard(from, to)) => {
                place[..from.len()].copy_from_slice(from);
                // SAFETY: the place is pinned and stays as it is until the stream was waited for; the caller says where to.
                unsafe { stream.copy_to_card(to, place.as_ptr().cast(), from.len()) };
            }
            Some(Stretch::ToHost(to, from)) => {
                let address: *mut c_void = place.as_mut_ptr().cast();
                // SAFETY: as above, and nobody looks at the place before.
                unsafe { stream.copy_to_host(address, from, to.len()) };
                *coming = Some(to);
            }
        }
        at = 1 - at;
    }
    places.iter().for_each(|(_, stream, _)| stream.wait());
}
