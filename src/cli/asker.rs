//! Questions of the gate, answered where the person sits.

use super::client::Client;
use super::egress::give;
use super::lines::Lines;
use crate::egress::{Answer, Period, Question};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::convert::Infallible;
use std::io::{self, IsTerminal};
use tokio::io::{self as aio, AsyncBufReadExt, BufReader, Stdin};

const HOUR: u32 = 3600;

/// Asks a person, one question after the other; or says yes for them.
#[derive(Debug)]
pub struct Asker {
    yes: bool,
    terminal: Option<aio::Lines<BufReader<Stdin>>>,
    waiting: Vec<Question>,
    /// The question that stands on the terminal, or that the person was told of.
    shown: Option<u64>,
}

impl Asker {
    /// With `yes`, everything is allowed once; otherwise the terminal is asked, where there is one.
    pub fn new(yes: bool) -> Self {
        let terminal = (!yes && io::stdin().is_terminal()).then(|| BufReader::new(aio::stdin()).lines());
        Self { yes, terminal, waiting: Vec::new(), shown: None }
    }

    /// Whether it can answer anything.
    pub fn can_answer(&self) -> bool {
        self.yes || self.terminal.is_some()
    }

    /// Takes in what waits now, in the place of what waited before.
    pub fn hear(&mut self, waiting: Vec<Question>) {
        if self.shown.is_some_and(|shown| waiting.iter().all(|question| question.id != shown)) {
            self.shown = None;
            if self.terminal.is_some() {
                eprintln!("It was answered.");
            }
        }
        self.waiting = waiting;
        if self.shown.is_none()
            && !self.yes
            && let Some(question) = self.waiting.first()
        {
            self.shown = Some(question.id);
            eprint!("{}", told(question));
            match self.terminal {
                Some(_) => eprint!("{CHOICE}"),
                None => eprintln!(
                    "Answer on the dashboard's Ledger page or with `sovereign egress ask`; with --yes it is allowed."
                ),
            }
        }
    }

    /// The next answer; never, while nothing is asked. Nothing is lost when this is given up.
    pub async fn answered(&mut self) -> io::Result<(u64, Answer)> {
        if self.yes
            && let Some(question) = self.waiting.pop()
        {
            return Ok((question.id, Answer { allow: true, period: Period::Once }));
        }
        let (Some(shown), Some(terminal)) = (self.shown, &mut self.terminal) else {
            return std::future::pending().await;
        };
        loop {
            // The end of the input is a no.
            let line = terminal.next_line().await?.unwrap_or_default();
            if let Some(answer) = understood(&line) {
                self.shown = None;
                self.waiting.retain(|question| question.id != shown);
                return Ok((shown, answer));
            }
            eprint!("{CHOICE}");
        }
    }
}

/// Answers the daemon's questions that concern what a command does, for as long as that goes on; `bar` leaves the terminal to
/// them meanwhile.
///
/// # Errors
/// When the terminal cannot be read, or the daemon does not take an answer.
pub async fn answer_meanwhile(
    client: &Client,
    yes: bool,
    concerns: impl Fn(&Question) -> bool,
    bar: &ProgressBar,
) -> anyhow::Result<Infallible> {
    let mut lines = Lines::<Vec<Question>>::of(client.get_raw("/admin/v1/egress/questions").await?);
    let mut asker = Asker::new(yes);
    loop {
        tokio::select! {
            // At its end the daemon stopped, which the command's own stream tells better.
            Some(mut waiting) = async { lines.next().await.ok().flatten() } => {
                waiting.retain(&concerns);
                let asked = !waiting.is_empty();
                bar.set_style(if asked { blank() } else { ProgressStyle::default_spinner() });
                bar.tick();
                bar.set_draw_target(if asked { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() });
                asker.hear(waiting);
            }
            answered = asker.answered() => {
                let (id, answer) = answered.context("the terminal cannot be read")?;
                give(client, id, answer).await?;
            }
        }
    }
}

/// What a bar looks like while the terminal is a question's.
fn blank() -> ProgressStyle {
    ProgressStyle::with_template("").unwrap_or_else(|_| ProgressStyle::default_spinner())
}

const CHOICE: &str = "[o]nce, for an [h]our, [a]lways, [n]o, or ne[v]er? ";

/// What would be sent, and where.
fn told(question: &Question) -> String {
    let Question { class, initiator, host, port, what, bytes, text, .. } = question;
    let mut told = format!("\nMay this leave the house?\n  to {host}:{port}, for {class}\n  {what}, for {initiator}\n");
    if let Some(bytes) = bytes {
        told += &format!("  sending {bytes} bytes\n");
    }
    if let Some(text) = text {
        // What a program wrote must not move the cursor.
        let plain: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect();
        told += &format!("  {plain}\n");
    }
    told
}

/// What a person typed; nothing where that is no answer.
fn understood(line: &str) -> Option<Answer> {
    let (allow, period) = match line.trim().to_lowercase().as_str() {
        "o" | "once" | "y" | "yes" => (true, Period::Once),
        "h" | "hour" => (true, Period::Seconds(HOUR)),
        "a" | "always" => (true, Period::Always),
        "n" | "no" | "" => (false, Period::Once),
        "v" | "never" => (false, Period::Always),
        _ => return None,
    };
    Some(Answer { allow, period })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::egress::{Class, Initiator};

    #[test]
    fn answers_are_understood() {
        let check = |line: &str, expected: Option<(bool, Period)>| {
            assert_eq!(understood(line).map(|answer| (answer.allow, answer.period)), expected, "{line}");
        };
        check(" Once ", Some((true, Period::Once)));
        check("h", Some((true, Period::Seconds(3600))));
        check("always", Some((true, Period::Always)));
        check("", Some((false, Period::Once)));
        check("never", Some((false, Period::Always)));
        check("maybe", None);
    }

    #[tokio::test]
    async fn yes_allows_each_question_once() {
        let question = |id, text: Option<&str>| Question {
            id,
            class: Class::CloudData,
            initiator: Initiator::Owner,
            host: "a.example".into(),
            port: 443,
            what: "POST for a test".into(),
            bytes: Some(3),
            text: text.map(Into::into),
            waiting: 1,
            since: 0,
        };
        let mut asker = Asker::new(true);
        asker.hear(vec![question(1, None), question(2, None)]);
        let yes = Answer { allow: true, period: Period::Once };
        assert_eq!(asker.answered().await.unwrap(), (2, yes));
        assert_eq!(asker.answered().await.unwrap(), (1, yes));
        let told = told(&question(3, Some("hello\x1b[2Jthere")));
        assert!(told.contains("a.example:443") && told.contains("hello [2Jthere"), "{told}");
    }
}
