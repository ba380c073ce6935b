use super::Metrics;
use super::Speculation;
use super::openai::Error;
use crate::engine::batcher::Batcher;
use crate::engine::pace::Pace;
use crate::engine::passes::Passes;
use crate::engine::sequence::{Event, Job, Sequence, Sink};
use crate::engine::tokenizer::Tokenizer;
use axum::http::StatusCode;
use std::cell::Cell;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

/// How long a worker that ends may write what is to be kept. Whoever asked it to end kills it after some seconds.
const PARTING: Duration = Duration::from_secs(2);

/// The thread that computes, by its handle.
#[derive(Debug)]
pub(super) struct Engine {
    orders: mpsc::Sender<Order>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
    context: usize,
    /// Answers that may wait for a slot.
    queue: usize,
}

/// What the thread is told.
enum Order {
    /// Answer this.
    Answer(Box<Sequence<Listener>>),
    /// Give the card back, or take it again, and say how that went.
    Rest(Rest, Told),
    /// Nothing more.
    End,
}

/// What becomes of the memory on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Rest {
    /// It goes to the host's memory once all that was asked is answered.
    Sleep,
    /// It comes back.
    Wake,
    /// Weights are all in the host's memory, for the next process: this one is to end.
    Park,
    /// What conversations do not use goes, for good.
    Shrink,
}

/// Who waits for that: bytes of the host's memory that it takes now, or why it was not done.
type Told = oneshot::Sender<Result<u64, String>>;

/// What a job's events come with: which of the answers they belong to.
pub(super) type Events = UnboundedReceiver<(usize, Event)>;

impl Engine {
    /// Starts the thread. `ended` is cancelled when it ends, which it does by itself only if it panics.
    pub(super) fn start(work: Work, queue: usize, ended: CancellationToken) -> std::io::Result<Self> {
        let (orders, inbox) = mpsc::channel();
        let (metrics, slots, context) = (work.metrics.clone(), work.passes.cache.slots(), work.passes.cache.context());
        std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _ended = ended.drop_guard();
            work.run(&inbox);
        })?;
        Ok(Self { orders, places: Arc::new(Semaphore::new(slots + queue)), metrics, context, queue })
    }

    /// Tokens that one conversation may hold.
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// Ends the thread after the pass that runs: what was asked is not answered, and what is to be kept is written to disk.
    pub(super) fn end(&self) {
        // It may have ended by itself.
        let _ = self.orders.send(Order::End);
    }

    /// Lets the model rest, or wakes it; returns when it does, with the bytes of the host's memory that this takes.
    ///
    /// # Errors
    /// There is no memory for that, on the host or on the card; or it was woken before it slept.
    pub(super) async fn rest(&self, rest: Rest) -> Result<u64, String> {
        let (told, hears) = oneshot::channel();
        // Without the thread nobody listens to the channel, and the answer says so.
        let _ = self.orders.send(Order::Rest(rest, told));
        hears.await.unwrap_or_else(|_| Err("the engine has ended".into()))
    }

    /// Queues jobs. Dropping what is returned gives them up.
    ///
    /// # Errors
    /// The queue is full, or the model sleeps.
    pub(super) fn submit(&self, jobs: Vec<Job>) -> Result<Events, Error> {
        if self.metrics.is_asleep() {
            let message = "the model sleeps: POST /wake_up first";
            return Err(Error::new(StatusCode::SERVICE_UNAVAILABLE, message).code("asleep"));
        }
        let (events, answers) = unbounded_channel();
        let begun = Instant::now();
        // All or none: half of a request is of no use.
        let places =
            u32::try_from(jobs.len()).ok().and_then(|jobs| self.places.clone().try_acquire_many_owned(jobs).ok());
        let Some(mut places) = places else {
            let message = format!("{} answers wait already: try again in a few seconds", self.queue);
            return Err(Error::busy(message));
        };
        for (index, job) in jobs.into_iter().enumerate() {
            let listener = Listener {
                index,
                events: events.clone(),
                metrics: self.metrics.clone(),
                begun,
                silent: Cell::new(true),
                _place: places.split(1),
            };
            let sequence = Sequence::new(job, self.context, listener);
            let sequence = sequence.map_err(|error| Error::bad_request(error.to_string()))?;
            // Without the thread nobody listens to the channel, and the answer says so.
            let _ = self.orders.send(Order::Answer(Box::new(sequence)));
        }
        Ok(answers)
    }
}

/// Who waits for a job.
#[derive(Debug)]
struct Listener {
    index: usize,
    events: UnboundedSender<(usize, Event)>,
    metrics: Arc<Metrics>,
    begun: Instant,
    /// Whether there was no text yet.
    silent: Cell<bool>,
    /// The place in the queue, free again when the job is gone.
    _place: Option<OwnedSemaphorePermit>,
}

impl Sink for Listener {
    fn send(&self, event: Event) {
        match &event {
            Event::Text { .. } if self.silent.replace(false) => self.metrics.first_token(self.begun.elapsed()),
            Event::Finished { .. } => self.metrics.answer(self.begun.elapsed()),
            _ => {}
        }
        // Whoever does not listen any more is noticed before the next step.
        let _ = self.events.send((self.index, event));
    }

    fn is_closed(&self) -> bool {
        self.events.is_closed()
    }
}

/// What the thread owns.
pub(super) struct Work {
    pub(super) passes: Passes,
    pub(super) tokenizer: Arc<Tokenizer>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) speculation: Speculation,
}

impl Work {
    /// Works until that is to end, or nobody can send jobs any more.
    fn run(self, inbox: &mpsc::Receiver<Order>) {
        let Self { mut passes, tokenizer, metrics, speculation } = self;
        let mut batcher = Batcher::new(passes.cache.slots());
        if speculation == Speculation::Draft {
            batcher = batcher.without_looking_back();
        }
        let speculates = speculation != Speculation::Off;
        let mut pace = Pace::default();
        // Who waits for it to sleep.
        let mut sleepy: Vec<Told> = Vec::new();
        loop {
            let asleep = metrics.is_asleep();
            let first = match (asleep || batcher.is_idle()).then(|| inbox.recv()) {
                Some(Err(mpsc::RecvError)) => return,
                first => first.and_then(Result::ok),
            };
            for order in first.into_iter().chain(inbox.try_iter()) {
                match order {
                    Order::Answer(sequence) => batcher.submit(*sequence),
                    Order::Rest(Rest::Sleep, told) => sleepy.push(told),
                    Order::Rest(Rest::Wake, told) => {
                        tell(sleepy.drain(..), &Err("it was woken before it slept".into()));
                        let woken = passes.wake().map(|()| 0).map_err(|error| error.to_string());
                        metrics.sleeps(metrics.is_asleep() && woken.is_err());
                        tell([told], &woken);
                    }
                    Order::Rest(Rest::Shrink, told) => {
                        tell([told], &passes.shrink().map_err(|error| error.to_string()));
                    }
                    Order::Rest(Rest::Park, told) => {
                        tell([told], &passes.keep().map_err(|error| error.to_string()));
                    }
                    Order::End => {
                        // Whoever waits for an answer learns by the end of the connection that none comes, as when a
                        // worker is killed: what has ended it is known to the daemon, not here.
                        std::mem::forget(batcher);
                        return passes.cache.finish(PARTING);
                    }
                }
            }
            if batcher.is_idle() && !sleepy.is_empty() {
                let slept = passes.sleep().map_err(|error| error.to_string());
                metrics.sleeps(slept.is_ok());
                tell(sleepy.drain(..), &slept);
            }
            if metrics.is_asleep() || batcher.is_idle() {
                continue;
            }
            let begun = Instant::now();
            let allow = |answers| pace.allowance(answers, speculates);
            let step = batcher.step(allow, &*tokenizer, &mut passes);
            let took = begun.elapsed();
            pace.note(&step, took);
            metrics.step(step, batcher.load(passes.cache.blocks()), took);
        }
    }
}

/// Whoever has left needs not to be told.
fn tell(all: impl IntoIterator<Item = Told>, outcome: &Result<u64, String>) {
    for told in all {
        let _ = told.send(outcome.clone());
    }
}
