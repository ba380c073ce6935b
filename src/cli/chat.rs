//! `sovereign chat`.

use super::Global;
use super::client::{Client, block_on, path_segment};
use crate::egress::Response;
use anyhow::{Context, bail};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;
use std::time::Instant;
use tokio::io::{AsyncBufReadExt, BufReader};

/// Talk to a model.
///
/// Streams the answer to standard output. Without a prompt, what is piped in is the prompt; from a terminal it asks for
/// one after the other, and remembers the conversation.
///
/// With one argument, that is a model if one of that name is installed, and a prompt for the default model otherwise.
#[derive(Debug, clap::Args)]
pub struct Chat {
    /// The model; the configuration's default unless given.
    #[arg(value_name = "MODEL")]
    first: Option<String>,
    /// What to ask.
    #[arg(value_name = "PROMPT")]
    second: Option<String>,
}

impl Chat {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global)?;
        block_on(self.talk(client))?;
        Ok(ExitCode::SUCCESS)
    }

    async fn talk(self, client: Client) -> anyhow::Result<()> {
        let (model, prompt) = match (self.first, self.second) {
            (Some(word), None) if is_model(&client, &word).await? => (Some(word), None),
            (Some(prompt), None) => (None, Some(prompt)),
            (model, prompt) => (model, prompt),
        };
        let mut conversation = Conversation { client, model, messages: Vec::new() };
        let mut stdin = std::io::stdin();
        let prompt = match prompt {
            Some(prompt) => prompt,
            None if stdin.is_terminal() => return conversation.go_on().await,
            None => {
                let mut piped = String::new();
                stdin.read_to_string(&mut piped).context("what is piped in is not text")?;
                piped
            }
        };
        anyhow::ensure!(!prompt.trim().is_empty(), "there is nothing to ask: the prompt is empty");
        conversation.ask(prompt).await.map(drop)
    }
}

async fn is_model(client: &Client, word: &str) -> anyhow::Result<bool> {
    // What has white space in it names no model.
    Ok(!word.contains(char::is_whitespace) && client.exists(&format!("/v1/models/{}", path_segment(word))).await?)
}

struct Conversation {
    client: Client,
    model: Option<String>,
    messages: Vec<Value>,
}

impl Conversation {
    /// Asks for prompts until the input ends.
    async fn go_on(&mut self) -> anyhow::Result<()> {
        eprintln!("Ctrl-C stops an answer, Ctrl-D ends the conversation.");
        let mut lines = BufReader::new(tokio::io::stdin()).lines();
        loop {
            eprint!("\n> ");
            let line = tokio::select! {
                line = lines.next_line() => line.context("the terminal cannot be read")?,
                _ = tokio::signal::ctrl_c() => None,
            };
            let Some(line) = line else {
                eprintln!();
                return Ok(());
            };
            if line.trim().is_empty() {
                continue;
            }
            tokio::select! {
                answered = self.ask(line) => match answered {
                    Ok(facts) => eprintln!("\x1b[2m{facts}\x1b[0m"),
                    // One question that fails does not end the conversation.
                    Err(error) => eprintln!("sovereign: {error:#}"),
                },
                _ = tokio::signal::ctrl_c() => println!(),
            }
        }
    }

    /// Asks once, prints the answer as it comes, and returns who answered and how fast.
    async fn ask(&mut self, prompt: String) -> anyhow::Result<String> {
        let mut messages = self.messages.clone();
        messages.push(json!({"role": "user", "content": prompt}));
        let request = json!({
            "model": self.model,
            "messages": messages,
            "stream": true,
            "stream_options": {"include_usage": true},
        });
        let answer = self.client.post_raw("/v1/chat/completions", &request).await?;
        let model = answer.headers().get("x-sovereign-model").and_then(|name| name.to_str().ok()).unwrap_or_default();
        let mut facts = model.to_string();
        let answer = print(answer).await?;
        if let Some(rate) = answer.rate() {
            facts = format!("{facts}, {rate:.1} tokens/s");
        }
        messages.push(json!({"role": "assistant", "content": answer.text}));
        self.messages = messages;
        Ok(facts)
    }
}

struct Answer {
    text: String,
    tokens: u64,
    first: Option<Instant>,
    last: Instant,
}

impl Answer {
    /// Tokens a second, from the first one on.
    fn rate(&self) -> Option<f64> {
        let seconds = self.last.checked_duration_since(self.first?)?.as_secs_f64();
        (self.tokens > 1 && seconds > 0.0).then(|| (self.tokens - 1) as f64 / seconds)
    }
}

/// Prints an answer as it comes.
async fn print(mut response: Response) -> anyhow::Result<Answer> {
    let mut answer = Answer { text: String::new(), tokens: 0, first: None, last: Instant::now() };
    let mut stdout = std::io::stdout();
    let mut pending = Vec::new();
    while let Some(bytes) = response.chunk().await.context("the daemon ended in the middle of its answer")? {
        pending.extend_from_slice(&bytes);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            match piece(&line)? {
                Piece::Text(text) => {
                    answer.last = Instant::now();
                    answer.first.get_or_insert(answer.last);
                    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot print")?;
                    answer.text.push_str(&text);
                }
                Piece::Tokens(tokens) => answer.tokens = tokens,
                Piece::Other => {}
            }
        }
    }
    if !answer.text.ends_with('\n') {
        println!();
    }
    Ok(answer)
}

#[derive(Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Tokens(u64),
    Other,
}

/// What a line of the stream brings.
fn piece(line: &[u8]) -> anyhow::Result<Piece> {
    let Some(data) = line.strip_prefix(b"data:").map(<[u8]>::trim_ascii) else { return Ok(Piece::Other) };
    if data == b"[DONE]" {
        return Ok(Piece::Other);
    }
    let chunk: Value = serde_json::from_slice(data).context("the answer is not understood")?;
    if let Some(message) = chunk["error"]["message"].as_str() {
        bail!("{message}");
    }
    match chunk["choices"][0]["delta"]["content"].as_str() {
        Some(text) if !text.is_empty() => Ok(Piece::Text(text.to_string())),
        _ => Ok(chunk["usage"]["completion_tokens"].as_u64().map_or(Piece::Other, Piece::Tokens)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_stream() {
        let check = |line: &str, expected: Result<Piece, &str>| {
            let piece = piece(line.as_bytes()).map_err(|error| error.to_string());
            assert_eq!(piece, expected.map_err(str::to_string), "{line}");
        };
        check("\n", Ok(Piece::Other));
        check(": keep-alive\n", Ok(Piece::Other));
        check("data: [DONE]\r\n", Ok(Piece::Other));
        check("data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n", Ok(Piece::Other));
        check("data: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}],\"usage\":null}\n", Ok(Piece::Text("Hi".into())));
        check("data: {\"choices\":[],\"usage\":{\"completion_tokens\":7}}\n", Ok(Piece::Tokens(7)));
        check("data: {\"error\":{\"message\":\"it broke\"}}\n", Err("it broke"));
        check("data: <html>\n", Err("the answer is not understood"));
    }
}
