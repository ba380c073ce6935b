//! One file over HTTP, from where its partial file ends.

use super::beginning::Beginning;
use super::partial::{Origin, Partial};
use super::report::Report;
use super::{GGUF, space};
use crate::egress::{Outside, Reply, Request, StatusCode, Url, header};
use crate::models::Error;
use std::ops::Deref;
use std::time::Duration;

/// Failures in a row, without a new byte between them, after which a server is given up: a minute for a router that
/// starts anew.
const ATTEMPTS: u32 = 8;
/// The same of a server that has not sent anything yet: another may have the file.
const FIRST_ATTEMPTS: u32 = 3;
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// What a server says to an error is told to people; a page would drown it.
const SAID: usize = 200;

/// A file that a server has.
#[derive(Debug)]
pub(super) struct Remote<'a> {
    /// Its address.
    pub(super) url: Url,
    /// What people are told instead: an address may hold a secret.
    pub(super) from: &'a str,
    /// Sent as `Authorization: Bearer`, to this host alone.
    pub(super) token: Option<&'a str>,
    /// Its length, where that is known.
    pub(super) bytes: Option<u64>,
    /// Its digest, where that is known. Nothing here checks it: it says that a resumed file is the same one.
    pub(super) sha256: Option<&'a str>,
    /// What it begins with.
    pub(super) magic: &'static [u8],
    /// Bytes that count as done besides those of this file.
    pub(super) before: u64,
    /// The bytes of everything, where this file is a part.
    pub(super) of: Option<u64>,
}

impl Remote<'_> {
    /// Fetches what `partial` lacks. Whatever happens, what arrived is noted.
    ///
    /// # Errors
    /// When the server does not give it, in spite of patience.
    pub(super) async fn fetch(
        &self,
        outside: &Outside,
        partial: &mut Partial,
        report: &Report,
        pause: Duration,
    ) -> Result<(), Error> {
        let (before, mut most) = (partial.done(), partial.done());
        let mut failures = 0;
        loop {
            let result = self.attempt(outside, partial, report).await;
            partial.mark().await?;
            let wait = match result {
                Ok(()) => return Ok(()),
                Err(Failure { error, again, wait }) => {
                    // A server that does not answer is waited for where it had begun; otherwise another may have the file.
                    let silence = error.silence().filter(|_| partial.done() > before || most > before);
                    let wait = silence.or(wait);
                    if !again && silence.is_none() {
                        return Err(error);
                    }
                    failures = if partial.done() > most { 1 } else { failures + 1 };
                    most = most.max(partial.done());
                    if failures >= if most > before { ATTEMPTS } else { FIRST_ATTEMPTS } {
                        return Err(error);
                    }
                    let wait = wait.unwrap_or(pause * (1 << (failures - 1))).min(LONGEST_PAUSE);
                    tracing::info!(from = self.from, %error, ?wait, "a download broke off and will go on");
                    wait
                }
            };
            report.pause(wait).await?;
        }
    }

    async fn attempt(&self, outside: &Outside, partial: &mut Partial, report: &Report) -> Result<(), Failure> {
        let resume = self.may_resume(partial);
        let start = if resume { partial.done() } else { 0 };
        if resume && start > 0 && partial.origin().total == Some(start) {
            report.bytes(self.before + start, self.of.or(Some(start)));
            return Ok(());
        }
        let answer = report
            .unless_cancelled(async { self.ask(outside, partial, start).send().await.map_err(Error::http(self.from)) })
            .await?;
        match answer.status() {
            StatusCode::OK => self.whole(answer, partial, report).await,
            StatusCode::PARTIAL_CONTENT => {
                if let Err(problem) = self.check_range(&answer, partial, start) {
                    // Its beginning is of no use to what it has now. Without a range it may be fetched yet.
                    partial.restart(Origin::default()).await?;
                    return Err(Failure::again(Error::protocol(self.from, problem)));
                }
                space::check(partial.path(), partial.origin().total.unwrap_or(start) - start)?;
                self.take(answer, Vec::new(), partial, report).await
            }
            // There is nothing where we are: the file is shorter now, so it is another one.
            StatusCode::RANGE_NOT_SATISFIABLE if start > 0 => {
                partial.restart(Origin::default()).await?;
                Err(Failure::again(Error::protocol(self.from, "the file has changed")))
            }
            status => {
                let wait = retry_after(&answer);
                Err(Failure { wait, ..refused(self.from, status, answer).await.into() })
            }
        }
    }

    /// Whether what is in `partial` is the beginning of this file.
    fn may_resume(&self, partial: &Partial) -> bool {
        let origin = partial.origin();
        let same_digest = self.sha256.is_some() && origin.sha256.as_deref() == self.sha256;
        partial.done() > 0 && origin.from == self.from && (same_digest || origin.validator.is_some())
    }

    fn ask(&self, outside: &Outside, partial: &Partial, start: u64) -> Request {
        let mut request = outside.get(self.url.clone()).header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = self.token {
            request = request.bearer_auth(token);
        }
        if start > 0 {
            request = request.header(header::RANGE, format!("bytes={start}-"));
            if let Some(validator) = &partial.origin().validator {
                request = request.header(header::IF_RANGE, validator);
            }
        }
        request
    }

    /// The file from its first byte. What is in `partial` is thrown away only for what begins like the file.
    async fn whole(&self, mut answer: Reply, partial: &mut Partial, report: &Report) -> Result<(), Failure> {
        let total = number(&answer, header::CONTENT_LENGTH.as_str());
        if let (Some(expected), Some(actual)) = (self.bytes, total)
            && expected != actual
        {
            return Err(Error::Length { from: self.from.into(), expected, actual }.into());
        }
        let mut head = Vec::new();
        while head.len() < self.magic.len() {
            match self.chunk(&mut answer, report).await? {
                Some(chunk) => head.extend_from_slice(&chunk),
                None => break,
            }
        }
        if !head.starts_with(self.magic) {
            return Err(Error::Magic { from: self.from.into() }.into());
        }
        let total = total.or(self.bytes);
        let origin = Origin {
            from: self.from.into(),
            sha256: self.sha256.map(str::to_owned),
            validator: validator(&answer),
            total,
        };
        space::check(partial.path(), total.unwrap_or_default())?;
        partial.restart(origin).await?;
        self.take(answer, head, partial, report).await
    }

    /// The rest that was asked for must be the rest of the same file.
    fn check_range(&self, answer: &Reply, partial: &Partial, start: u64) -> Result<(), String> {
        let range = text(answer, header::CONTENT_RANGE.as_str()).unwrap_or_default();
        let known = partial.origin();
        let right = content_range(&range).is_some_and(|(first, total)| {
            first == start && start > 0 && (total.is_none() || known.total.is_none() || total == known.total)
        });
        if !right {
            return Err(format!("asked for the bytes from {start} on, it sends {range:?}"));
        }
        match (&known.validator, validator(answer)) {
            (Some(mine), Some(theirs)) if *mine != theirs => Err("the file changed while it was fetched".into()),
            _ => Ok(()),
        }
    }

    /// Writes what comes.
    async fn take(
        &self,
        mut answer: Reply,
        head: Vec<u8>,
        partial: &mut Partial,
        report: &Report,
    ) -> Result<(), Failure> {
        let total = partial.origin().total;
        let mut beginning = Beginning::new(self.magic == GGUF, self.from, total);
        let mut write = async |partial: &mut Partial, bytes: &[u8]| {
            let done = partial.done() + bytes.len() as u64;
            if let Some(total) = total.filter(|total| *total < done) {
                return Err(Error::Length { from: self.from.into(), expected: total, actual: done });
            }
            partial.write(bytes).await?;
            report.bytes(self.before + done, self.of.or(total));
            beginning.check(partial).await
        };
        write(partial, &head).await?;
        while let Some(chunk) = self.chunk(&mut answer, report).await? {
            write(partial, &chunk).await?;
        }
        match total {
            Some(total) if partial.done() < total => {
                Err(Failure::again(Error::protocol(self.from, "it ended before its end")))
            }
            _ => Ok(()),
        }
    }

    async fn chunk(
        &self,
        answer: &mut Reply,
        report: &Report,
    ) -> Result<Option<impl Deref<Target = [u8]> + use<>>, Error> {
        report.unless_cancelled(async { answer.chunk().await.map_err(Error::http(self.from)) }).await
    }
}

/// Why an attempt failed.
struct Failure {
    error: Error,
    /// Whether another one may succeed.
    again: bool,
    /// How long the server wants to be left alone.
    wait: Option<Duration>,
}

impl Failure {
    fn again(error: Error) -> Self {
        Self { error, again: true, wait: None }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self { again: error.is_transient(), error, wait: None }
    }
}

/// The first byte and the length of the whole in `bytes FIRST-LAST/LENGTH`.
fn content_range(range: &str) -> Option<(u64, Option<u64>)> {
    let (span, total) = range.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = span.split_once('-')?;
    let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    (first <= last).then(|| (first, total.parse().ok()))
}

/// The answer's entity as `If-Range` may name it: weak tags do not promise the same bytes.
fn validator(answer: &Reply) -> Option<String> {
    text(answer, header::ETAG.as_str())
        .filter(|tag| !tag.starts_with("W/"))
        .or_else(|| text(answer, header::LAST_MODIFIED.as_str()))
}

fn retry_after(answer: &Reply) -> Option<Duration> {
    number(answer, header::RETRY_AFTER.as_str()).map(Duration::from_secs)
}

pub(super) fn text(answer: &Reply, header: &str) -> Option<String> {
    answer.headers().get(header)?.to_str().ok().map(str::to_owned)
}

pub(super) fn number(answer: &Reply, header: &str) -> Option<u64> {
    text(answer, header)?.parse().ok()
}

/// A server's refusal, with what it says to people where that is not a page.
pub(super) async fn refused(from: &str, status: StatusCode, mut answer: Reply) -> Error {
    let is_page = text(&answer, header::CONTENT_TYPE.as_str()).is_some_and(|kind| kind.contains("html"));
    let said = match text(&answer, "x-error-message") {
        Some(said) => said,
        None if is_page => String::new(),
        // The first piece is enough; however it fails, the status is what counts.
        None => {
            answer.chunk().await.ok().flatten().map(|said| String::from_utf8_lossy(&said).into()).unwrap_or_default()
        }
    };
    let said: String = said.trim().chars().filter(|c| !c.is_control()).take(SAID).collect();
    Error::Status { from: from.into(), status, said: (!said.is_empty()).then_some(said) }
}
