//! `POST /v1/embeddings`, and the thread that computes them.

use super::Metrics;
use super::face::{Body, Face, fields};
use super::openai::completion::Prompt;
use super::openai::{Error, embedding};
use super::prompt;
use crate::engine::model::{Embedder, Pooling};
use crate::engine::tokenizer::Special;
use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use tokio::sync::oneshot;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Requests that may wait. At the pace of one machine more would wait longer than their clients do.
const QUEUE: usize = 128;
/// Texts that are taken from the queue at once at most.
const AT_ONCE: usize = 256;

/// The thread that embeds, by its handle.
#[derive(Debug)]
pub(super) struct Embedding {
    jobs: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
    context: usize,
    /// Whether it gives a text one vector, not one for each token.
    pools: bool,
}

/// The texts of a request.
#[derive(Debug)]
struct Job {
    texts: Vec<Vec<u32>>,
    /// The vectors of the first of them.
    done: Vec<Vec<f32>>,
    reply: oneshot::Sender<Result<Vec<Vec<f32>>, String>>,
    /// The place in the queue, free again when the job is gone.
    _place: OwnedSemaphorePermit,
}

impl Embedding {
    /// Starts the thread. `ended` is cancelled when it ends, which it does by itself only if it panics.
    pub(super) fn start(embedder: Embedder, metrics: Arc<Metrics>, ended: CancellationToken) -> std::io::Result<Self> {
        let (jobs, inbox) = mpsc::channel();
        let context = embedder.context();
        let pools = embedder.model().hyper().pooling != Some(Pooling::Tokens);
        std::thread::Builder::new().name("engine".into()).spawn(move || {
            let _ended = ended.drop_guard();
            run(embedder, &metrics, &inbox);
        })?;
        Ok(Self { jobs, places: Arc::new(Semaphore::new(QUEUE)), context, pools })
    }

    /// Tokens that a text may have.
    pub(super) fn context(&self) -> usize {
        self.context
    }

    /// The vectors of texts. Whoever stops waiting gives them up.
    async fn embed(&self, texts: Vec<Vec<u32>>) -> Result<Vec<Vec<f32>>, Error> {
        let Ok(place) = self.places.clone().try_acquire_owned() else {
            let message = format!("{QUEUE} requests wait already: try again in a few seconds");
            return Err(Error::busy(message));
        };
        let (reply, answer) = oneshot::channel();
        // Without the thread nobody answers, which is told below.
        let _ = self.jobs.send(Job { texts, done: Vec::new(), reply, _place: place });
        match answer.await {
            Ok(vectors) => vectors.map_err(Error::internal),
            Err(_) => Err(Error::internal("the engine ended before the answer was complete")),
        }
    }
}

/// Works until nobody can send jobs any more.
fn run(mut embedder: Embedder, metrics: &Metrics, inbox: &mpsc::Receiver<Job>) {
    let mut jobs = VecDeque::new();
    loop {
        if jobs.is_empty() {
            match inbox.recv() {
                Ok(job) => jobs.push_back(job),
                Err(mpsc::RecvError) => return,
            }
        }
        jobs.extend(inbox.try_iter());
        jobs.retain(|job: &Job| !job.reply.is_closed());
        pass(&mut embedder, metrics, &mut jobs);
    }
}

/// Takes through the model what goes through together, and hands out what is complete.
fn pass(embedder: &mut Embedder, metrics: &Metrics, jobs: &mut VecDeque<Job>) {
    let left: Vec<usize> = jobs.iter().map(|job| job.texts.len() - job.done.len()).collect();
    let next: Vec<(usize, &[u32])> =
        turns(&left).take(AT_ONCE).map(|(job, text)| (job, &*jobs[job].texts[jobs[job].done.len() + text])).collect();
    let together = embedder.together(next.iter().map(|(_, text)| text.len())).min(next.len());
    let (whose, texts): (Vec<usize>, Vec<&[u32]>) = next[..together].iter().copied().unzip();
    let tokens = texts.iter().map(|text| text.len()).sum();
    let result = embedder.embed(&texts);
    metrics.embedded(tokens, jobs.len());
    match result {
        Ok(vectors) => whose.into_iter().zip(vectors).for_each(|(job, vector)| jobs[job].done.push(vector)),
        Err(error) => {
            // Whoever had a text in the pass learns of it; which of them was at fault is not known.
            let failed: Vec<bool> = (0..jobs.len()).map(|job| whose.contains(&job)).collect();
            let all: Vec<Job> = jobs.drain(..).collect();
            for (job, failed) in all.into_iter().zip(failed) {
                match failed {
                    true => drop(job.reply.send(Err(error.to_string()))),
                    false => jobs.push_back(job),
                }
            }
        }
    }
    let all: Vec<Job> = jobs.drain(..).collect();
    for job in all {
        match job.done.len() == job.texts.len() {
            // Whoever does not wait any more needs no answer.
            true => drop(job.reply.send(Ok(job.done))),
            false => jobs.push_back(job),
        }
    }
}

/// Which texts come next where jobs have so many left: one of each job, then another of each, so that a short request
/// does not wait for a long one. Pairs of a job and of its how manieth text left.
fn turns(left: &[usize]) -> impl Iterator<Item = (usize, usize)> {
    let rounds = left.iter().copied().max().unwrap_or(0);
    (0..rounds).flat_map(move |text| (0..left.len()).filter(move |&job| text < left[job]).map(move |job| (job, text)))
}

/// Answers a request.
pub(super) async fn embeddings(State(face): State<Arc<Face>>, body: Body) -> Result<Response, Error> {
    let embedding = face.embedding()?;
    if !embedding.pools {
        let message = "this model gives each token a vector (its pooling is none), which embeddings of texts are not";
        return Err(Error::invalid("model", message).code("unsupported_model"));
    }
    let request = embedding::Request::read(&fields(body)?)?;
    let read = {
        let request = request.clone();
        move |face: &Face| {
            request.texts.iter().enumerate().map(|(at, text)| face.text(at, text, request.truncate)).collect()
        }
    };
    let texts: Vec<(Vec<u32>, bool)> = face.blocking(read).await?;
    let truncated = texts.iter().filter(|(_, truncated)| *truncated).count();
    let texts: Vec<Vec<u32>> = texts.into_iter().map(|(tokens, _)| tokens).collect();
    let tokens = texts.iter().map(Vec::len).sum();
    let vectors = embedding.embed(texts).await?;
    let vectors = vectors.into_iter().map(|vector| request.shape(vector)).collect::<Result<_, _>>()?;
    let answer = embedding::Answer::new(face.base.name.clone(), vectors, tokens);
    Ok(prompt::tell(Json(answer).into_response(), truncated))
}

impl Face {
    /// The tokens of a text to embed, and whether it was cut to what the model takes.
    fn text(&self, at: usize, text: &Prompt, truncate: bool) -> Result<(Vec<u32>, bool), Error> {
        let param = format!("input[{at}]");
        let mut tokens = match text {
            Prompt::Text(text) => self.tokenizer.encode(text, Special::Parse, true),
            Prompt::Tokens(tokens) => {
                self.check_tokens(&param, tokens)?;
                tokens.clone()
            }
        };
        if tokens.is_empty() {
            return Err(Error::invalid(&param, format!("{param} is empty")));
        }
        let (len, context) = (tokens.len(), self.context());
        let truncated = self.tokenizer.shorten(&mut tokens, context);
        if truncated && !truncate {
            let message =
                format!("{param} has {len} tokens, and the model takes {context}; \"truncate\": true cuts it");
            return Err(Error::invalid(param, message).code("context_length_exceeded"));
        }
        Ok((tokens, truncated))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_take_turns() {
        let check = |left: &[usize], expected: &[(usize, usize)]| {
            assert_eq!(turns(left).collect::<Vec<_>>(), expected);
        };
        check(&[3, 1, 2], &[(0, 0), (1, 0), (2, 0), (0, 1), (2, 1), (0, 2)]);
        check(&[0, 1], &[(1, 0)]);
        check(&[], &[]);
    }
}
