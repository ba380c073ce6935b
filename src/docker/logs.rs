//! What containers print, line by line.

use super::error::status;
use super::{Container, Docker, Error, Phase};
use bollard::container::LogOutput;
use bollard::query_parameters::LogsOptionsBuilder;
use futures_util::{Stream, StreamExt};
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::sync::mpsc;

/// Lines of each container that are shown from before.
const TAIL: &str = "200";
/// Where a line without an end is cut.
const LONGEST_LINE: usize = 64 << 10;
/// Lines that wait for a slow reader before the reading of the log waits.
const QUEUE: usize = 256;

/// A line that a container printed.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Line {
    /// The service of the container.
    pub service: String,
    /// When it was printed.
    pub at: Option<Timestamp>,
    /// What was printed, without the line's end.
    pub text: String,
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} | {}", self.service, self.text)
    }
}

/// The lines of a stack's containers, as a stream. Dropping it stops the reading.
#[derive(Debug)]
pub struct Logs(mpsc::Receiver<Result<Line, Error>>);

impl Stream for Logs {
    type Item = Result<Line, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(context)
    }
}

impl Docker {
    /// What the containers of a stack print: the last lines of each, in the order of time. With `follow` also what will
    /// come, of containers that start again and of new ones too, until the reader or the engine goes away.
    ///
    /// # Errors
    /// When no engine answers. What fails later comes in the stream, as its last item.
    pub async fn logs(&self, stack: &str, follow: bool) -> Result<Logs, Error> {
        self.client()?;
        let (lines, receiver) = mpsc::channel(QUEUE);
        let containers: Vec<_> = self.of_stack(stack);
        let docker = self.clone();
        let stack = stack.to_owned();
        tokio::spawn(async move {
            let told =
                if follow { docker.follow(&stack, &lines).await } else { docker.last_lines(&containers, &lines).await };
            if let Err(error) = told {
                // Nobody reads any more: then nobody is told.
                let _ = lines.send(Err(error)).await;
            }
        });
        Ok(Logs(receiver))
    }

    /// The containers of one stack.
    pub fn of_stack(&self, stack: &str) -> Vec<Container> {
        self.containers.borrow().iter().filter(|container| container.stack == stack).cloned().collect()
    }

    async fn last_lines(
        &self,
        containers: &[Container],
        lines: &mpsc::Sender<Result<Line, Error>>,
    ) -> Result<(), Error> {
        let mut all = Vec::new();
        for container in containers {
            let mut log = std::pin::pin!(self.log(container, false, None)?);
            while let Some(line) = log.next().await {
                all.push(line?);
            }
        }
        // A stable order: what has no time keeps its place.
        all.sort_by_key(|line| line.at);
        for line in all {
            if lines.send(Ok(line)).await.is_err() {
                break;
            }
        }
        Ok(())
    }

    /// Follows each container of the stack, as they come and go.
    async fn follow(&self, stack: &str, lines: &mpsc::Sender<Result<Line, Error>>) -> Result<(), Error> {
        let mut changes = self.containers();
        let mut readers = tokio::task::JoinSet::new();
        // By container: the start that its log is, or was, read from; and the time of its last line.
        let mut starts: HashMap<String, Option<Timestamp>> = HashMap::new();
        let mut last: HashMap<String, Timestamp> = HashMap::new();
        let mut reading = HashSet::new();
        loop {
            let containers: Vec<_> =
                changes.borrow_and_update().iter().filter(|container| container.stack == stack).cloned().collect();
            for container in containers {
                let known = starts.get(&container.id);
                let is_new =
                    known.is_none_or(|start| *start != container.started_at) && container.phase != Phase::Created;
                if is_new && reading.insert(container.id.clone()) {
                    starts.insert(container.id.clone(), container.started_at);
                    let (docker, lines) = (self.clone(), lines.clone());
                    let after = last.get(&container.id).copied();
                    readers.spawn(async move {
                        let end = docker.pass_on(&container, after, &lines).await;
                        (container.id, end)
                    });
                }
            }
            tokio::select! {
                () = lines.closed() => return Ok(()),
                changed = changes.changed() => if changed.is_err() { return Ok(()) },
                Some(Ok((id, end))) = readers.join_next() => {
                    reading.remove(&id);
                    if let Some(at) = end? {
                        last.insert(id, at);
                    }
                }
            }
        }
    }

    /// Passes a container's lines on until its log ends, and returns the time of the last.
    async fn pass_on(
        &self,
        container: &Container,
        after: Option<Timestamp>,
        lines: &mpsc::Sender<Result<Line, Error>>,
    ) -> Result<Option<Timestamp>, Error> {
        let mut last = after;
        let mut log = std::pin::pin!(self.log(container, true, after)?);
        while let Some(line) = log.next().await {
            let line = line?;
            last = line.at.or(last);
            if lines.send(Ok(line)).await.is_err() {
                break;
            }
        }
        Ok(last)
    }

    /// One container's log: its last lines, or those after a time.
    fn log(
        &self,
        container: &Container,
        follow: bool,
        after: Option<Timestamp>,
    ) -> Result<impl Stream<Item = Result<Line, Error>> + use<>, Error> {
        let client = self.client()?;
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).timestamps(true).follow(follow);
        let options = match after {
            // The engine counts whole seconds; what was seen of them is left out below.
            Some(after) => options.since(i32::try_from(after.as_second()).unwrap_or(i32::MAX)).tail("all"),
            None => options.tail(TAIL),
        };
        let service = container.service.clone();
        let chunks = client.logs(&container.id, Some(options.build()));
        let mut buffers = [Buffer::default(), Buffer::default()];
        let lines = chunks.map(Some).chain(futures_util::stream::iter([None])).flat_map(move |chunk| {
            let found: Vec<Result<Line, Error>> = match chunk {
                Some(Ok(output)) => {
                    // The two streams are cut into lines by themselves.
                    let buffer = &mut buffers[usize::from(matches!(output, LogOutput::StdErr { .. }))];
                    buffer.push(output.as_ref()).into_iter().map(|text| Ok(line(&service, &text))).collect()
                }
                // It was removed while it was read: the end of its log.
                Some(Err(error)) if matches!(status(&error), Some(404 | 409)) => Vec::new(),
                Some(Err(error)) => vec![Err(Error::of(format!("read the log of {service}"))(error))],
                None => buffers.iter_mut().filter_map(Buffer::rest).map(|text| Ok(line(&service, &text))).collect(),
            };
            futures_util::stream::iter(found)
        });
        Ok(lines.filter(move |line| {
            let seen = matches!(line, Ok(Line { at: Some(at), .. }) if after.is_some_and(|after| *at <= after));
            std::future::ready(!seen)
        }))
    }
}

/// A line as the engine gives it: its time, a space, the text.
fn line(service: &str, bytes: &[u8]) -> Line {
    let text = String::from_utf8_lossy(bytes);
    let (at, text) = match text.split_once(' ') {
        Some((at, rest)) => match at.parse() {
            Ok(at) => (Some(at), rest),
            Err(_) => (None, &*text),
        },
        None => match text.parse() {
            Ok(at) => (Some(at), ""),
            Err(_) => (None, &*text),
        },
    };
    Line { service: service.into(), at, text: text.trim_end_matches('\r').into() }
}

/// Cuts chunks into lines.
#[derive(Debug, Default)]
struct Buffer(Vec<u8>);

impl Buffer {
    fn push(&mut self, chunk: &[u8]) -> Vec<Vec<u8>> {
        let mut lines = Vec::new();
        for piece in chunk.split_inclusive(|byte| *byte == b'\n') {
            self.0.extend_from_slice(piece);
            if self.0.last() == Some(&b'\n') {
                self.0.pop();
                lines.push(std::mem::take(&mut self.0));
            } else if self.0.len() > LONGEST_LINE {
                lines.push(std::mem::take(&mut self.0));
            }
        }
        lines
    }

    fn rest(&mut self) -> Option<Vec<u8>> {
        (!self.0.is_empty()).then(|| std::mem::take(&mut self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_cut_into_lines() {
        let mut buffer = Buffer::default();
        assert_eq!(buffer.push(b"one\ntw"), [b"one"]);
        assert_eq!(buffer.push(b"o\n\nthree"), [b"two".to_vec(), b"".to_vec()]);
        assert_eq!(buffer.rest().unwrap(), b"three");
        assert_eq!(buffer.rest(), None);
        assert_eq!(buffer.push(&[b'x'; LONGEST_LINE + 1]).len(), 1);
    }

    #[test]
    fn a_line_has_its_time() {
        let check = |bytes: &[u8], at: Option<&str>, text: &str| {
            let expected = Line { service: "s".into(), at: at.map(|at| at.parse().unwrap()), text: text.into() };
            assert_eq!(line("s", bytes), expected);
        };
        let at = "2026-11-24T05:37:32.253983031Z";
        check(format!("{at} hello  world\r").as_bytes(), Some(at), "hello  world");
        check(format!("{at} ").as_bytes(), Some(at), "");
        check(at.as_bytes(), Some(at), "");
        check(b"hello world", None, "hello world");
        check(b"\xff", None, "\u{fffd}");
    }
}
