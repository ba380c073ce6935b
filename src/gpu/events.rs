//! Errors of cards as the driver tells of them, on a thread of its own: waiting for them blocks.

use super::nvml::explain;
use nvml_wrapper::bitmasks::event::EventTypes;
use nvml_wrapper::enums::event::XidError;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, EventSet, Nvml};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::Thread;
use std::time::{Duration, Instant};

/// How long the driver is waited for at once; the thread ends as much later at most.
const WAIT_MS: u32 = 250;
/// How long a driver that fails is left alone.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the thread may take to end before the library is closed behind its back.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread that waits.
#[derive(Debug)]
pub(super) struct Events {
    told: Receiver<Told>,
    stop: Arc<AtomicBool>,
    thread: Option<Thread>,
}

/// An error of a card.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Told {
    pub uuid: String,
    pub at: i64,
    pub code: u64,
}

impl Events {
    /// Waits for errors of the cards that `library` has now. Where none can be told of, or no thread can be had, none
    /// ever comes.
    pub(super) fn watch(library: Arc<Nvml>) -> Self {
        let (tell, told) = mpsc::channel();
        let stop = Arc::new(AtomicBool::new(false));
        let ends = stop.clone();
        let thread = std::thread::Builder::new().name("xid".into()).spawn(move || wait(&library, &tell, &ends));
        let thread = thread.inspect_err(|error| tracing::warn!(%error, "errors of cards will not be told of")).ok();
        Self { told, stop, thread: thread.map(|thread| thread.thread().clone()) }
    }

    /// What was told of and not taken yet.
    pub(super) fn take(&self) -> impl Iterator<Item = Told> + '_ {
        self.told.try_iter()
    }
}

impl Drop for Events {
    /// The driver forgets what was opened only when all who opened it have closed it: so the thread must have ended.
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = &self.thread {
            thread.unpark();
        }
        let until = Instant::now() + PATIENCE;
        loop {
            match self.told.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(_) => {}
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => {
                    tracing::warn!("the NVIDIA driver does not return from waiting; a card may not be found again");
                    return;
                }
            }
        }
    }
}

/// A card that is waited for: the driver's handle, and what the card is known by. A card that is lost does not tell.
struct Watched<'a> {
    device: Device<'a>,
    uuid: String,
}

fn wait(library: &Nvml, tell: &Sender<Told>, stop: &AtomicBool) {
    let (set, watched) = match register(library) {
        Ok(Some(registered)) => registered,
        Ok(None) => {
            tracing::debug!("no card tells of its errors");
            return;
        }
        Err(error) => {
            tracing::warn!("errors of cards will not be told of: {}", explain(&error));
            return;
        }
    };
    while !stop.load(Ordering::Relaxed) {
        match set.wait(WAIT_MS) {
            Ok(event) => {
                let code = match event.event_data {
                    Some(XidError::Value(code)) => code,
                    Some(XidError::Unknown) | None => continue,
                };
                let card = watched.iter().find(|watched| is_same(&watched.device, &event.device));
                let Some(card) = card else { continue };
                let told = Told { uuid: card.uuid.clone(), at: crate::db::now(), code };
                if tell.send(told).is_err() {
                    return;
                }
            }
            Err(NvmlError::Timeout) => {}
            Err(error) => {
                tracing::debug!(%error, "waiting for errors of cards failed");
                std::thread::park_timeout(PAUSE);
            }
        }
    }
}

/// Those cards that tell of their errors; none where none does.
fn register(library: &Nvml) -> Result<Option<(EventSet<'_>, Vec<Watched<'_>>)>, NvmlError> {
    let mut set = library.create_event_set()?;
    let mut watched: Vec<Watched<'_>> = Vec::new();
    for index in 0..library.device_count()? {
        let Ok(device) = library.device_by_index(index) else { continue };
        let tells = device.supported_event_types().is_ok_and(|types| types.contains(EventTypes::CRITICAL_XID_ERROR));
        let Ok(uuid) = device.uuid() else { continue };
        if !tells {
            continue;
        }
        match device.register_events(EventTypes::CRITICAL_XID_ERROR, set) {
            Ok(registered) => {
                set = registered;
                watched.push(Watched { device, uuid });
            }
            // The set is gone with the failure: those before it are put into another.
            Err(error) => {
                tracing::debug!(uuid, error = %error.error, "a card does not tell of its errors");
                set = library.create_event_set()?;
                for card in &watched {
                    set = card.device.register_events(EventTypes::CRITICAL_XID_ERROR, set).map_err(|e| e.error)?;
                }
            }
        }
    }
    Ok((!watched.is_empty()).then_some((set, watched)))
}

/// Whether both are one card to the driver.
fn is_same(a: &Device<'_>, b: &Device<'_>) -> bool {
    // SAFETY: The handles are compared, and neither kept nor given to the library.
    unsafe { a.handle() == b.handle() }
}
