use super::lock;
use llguidance::toktrie::SimpleVob;
use llguidance::{CancellationHandle, Matcher};
use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How long it may take to find out what may follow, where some milliseconds are usual: all answers wait for it.
const PATIENCE: Duration = Duration::from_secs(2);

/// The thread that finds out what may follow in answers, one after the other.
#[derive(Clone)]
pub(super) struct Masks {
    tasks: Sender<Task>,
    current: Arc<Mutex<Option<Current>>>,
    patience: Duration,
}

/// What it is at.
struct Current {
    since: Instant,
    stop: CancellationHandle,
}

/// What may follow is to be found out.
struct Task {
    matcher: Box<Matcher>,
    done: Sender<Done>,
}

/// The matcher again, and what may follow, or why that cannot be told.
pub(super) type Done = (Box<Matcher>, Result<SimpleVob, String>);

impl Masks {
    /// Starts it. It ends with the last that could ask.
    pub(super) fn start() -> io::Result<Self> {
        let (tasks, inbox) = channel();
        let masks = Self { tasks, current: Arc::default(), patience: PATIENCE };
        let (current, patience) = (masks.current.clone(), masks.patience);
        std::thread::Builder::new().name("masks".into()).spawn(move || work(&inbox, &current, patience))?;
        Ok(masks)
    }

    /// Asks what may follow. The answer comes by what is returned; nothing does if the thread is gone.
    pub(super) fn ask(&self, matcher: Box<Matcher>) -> Receiver<Done> {
        let (done, answer) = channel();
        let _ = self.tasks.send(Task { matcher, done });
        answer
    }

    /// Waits for an answer. Whatever takes too long meanwhile, this or what comes before it, is stopped.
    pub(super) fn wait(&self, answer: &Receiver<Done>) -> Option<Done> {
        loop {
            match answer.recv_timeout(self.patience) {
                Ok(done) => return Some(done),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(current) = lock(&self.current).as_ref().filter(|at| at.since.elapsed() >= self.patience)
                    {
                        current.stop.cancel();
                    }
                }
            }
        }
    }
}

fn work(inbox: &Receiver<Task>, current: &Mutex<Option<Current>>, patience: Duration) {
    while let Ok(Task { mut matcher, done }) = inbox.recv() {
        *lock(current) = matcher.cancellation_handle().map(|stop| Current { since: Instant::now(), stop });
        let mask = matcher.compute_mask_or_eos();
        *lock(current) = None;
        let late = matcher.is_cancelled().then(|| format!("it takes longer than {patience:?} to tell what may follow"));
        let mask = mask.map_err(|error| late.unwrap_or_else(|| super::brief(&error.to_string())));
        // An answer that was given up is not waited for.
        let _ = done.send((matcher, mask));
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{grammars, slow};
    use super::*;

    #[test]
    fn what_takes_long_is_stopped() {
        let grammars = grammars();
        let grammar = grammars.compile(&slow()).unwrap();
        let hasty = Masks { patience: Duration::ZERO, ..grammar.masks.clone() };
        let matcher = || Box::new(lock(&grammar.start).deep_clone());
        let (first, second) = (hasty.ask(matcher()), hasty.ask(matcher()));
        // Whoever waits stops what is under way, be it another's.
        let (_, stopped) = hasty.wait(&second).unwrap();
        assert!(stopped.unwrap_err().contains("it takes longer"));
        let (_, stopped) = hasty.wait(&first).unwrap();
        assert!(stopped.unwrap_err().contains("it takes longer"));
    }
}
