//! Answers that come as a JSON value a line, and are not at their end yet.

use crate::egress::Response;
use anyhow::Context;
use serde::de::DeserializeOwned;
use std::marker::PhantomData;

/// See the module.
#[derive(Debug)]
pub struct Lines<T> {
    answer: Response,
    read: Vec<u8>,
    of: PhantomData<fn() -> T>,
}

impl<T: DeserializeOwned> Lines<T> {
    /// Of an answer.
    pub fn of(answer: Response) -> Self {
        Self { answer, read: Vec::new(), of: PhantomData }
    }

    /// The next value; nothing at the end. Nothing is lost when this is given up.
    ///
    /// # Errors
    /// When a line is something else.
    pub async fn next(&mut self) -> anyhow::Result<Option<T>> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                let value = serde_json::from_slice(&line);
                return Ok(Some(value.context("the daemon's answer is not understood; is it of another version?")?));
            }
            match self.answer.chunk().await {
                Ok(Some(chunk)) => self.read.extend_from_slice(&chunk),
                // A daemon that was killed breaks its answer off; what that means is told by its last line.
                Ok(None) | Err(_) => return Ok(None),
            }
        }
    }
}
