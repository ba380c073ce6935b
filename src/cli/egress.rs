//! `sovereign egress`, `sovereign offline` and `sovereign online`.

use super::Global;
use super::asker::Asker;
use super::client::{Client, block_on};
use super::lines::Lines;
use super::table::{Table, ago};
use crate::admin::{Decided, NewDecision, NewMode, Switch};
use crate::config::{Bytes, Config, Mode};
use crate::egress::ledger::{self, Lasting, Report};
use crate::egress::{Answer, Class, Line, Page, Pattern, Period, Question, Scope, View};
use anyhow::{Context, anyhow, bail};
use clap::Subcommand;
use serde::Serialize;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::io::AsyncWriteExt;

/// See and decide what leaves the house.
///
/// Every connection to the outside passes one gate and is written into a ledger. Classes of connections are off, asked
/// about or on; docs/egress.md tells more.
#[derive(Debug, clap::Args)]
pub struct Egress {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show what is in force, what waits, and the latest rows of the ledger.
    List {
        /// Rows to show.
        #[arg(long, default_value_t = 20, value_name = "N")]
        rows: u32,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Answer questions as they come, until Ctrl-C.
    Ask,
    /// Allow what a question asks, or something before anybody asks.
    Allow(Decide),
    /// Refuse what a question asks, or something before anybody asks.
    Deny(Decide),
    /// Take a decision back. Connections that it alone allowed are cut.
    Revoke {
        /// The decision's number.
        decision: u64,
    },
    /// Turn a class off, to ask, or on.
    Set {
        /// The class, as in the configuration.
        class: Class,
        /// off, ask or on.
        #[arg(value_parser = mode)]
        mode: Mode,
    },
    /// Check that nobody changed the ledger. Works without a daemon.
    Verify,
    /// Write the ledger out, a JSON object a line.
    Export {
        /// The file; standard output without one.
        file: Option<PathBuf>,
    },
    /// Erase the text of what was sent with a row. Its digest stays.
    Erase {
        /// The row.
        row: u64,
    },
}

#[derive(Debug, clap::Args)]
struct Decide {
    /// The number of a question, or a class and a host: model_downloads huggingface.co, or '*.hf.co', or host:port.
    #[arg(required = true, num_args = 1..=2, value_names = ["QUESTION|CLASS", "HOST"])]
    what: Vec<String>,
    /// How long, such as 30m, 1h or 7d. Without it a question is answered once, and anything else decided for an hour.
    #[arg(long = "for", value_name = "TIME", value_parser = span, conflicts_with = "always")]
    period: Option<u32>,
    /// Until it is revoked.
    #[arg(long)]
    always: bool,
}

/// Let nothing leave the house, and cut what is under way. It stays so until `sovereign online`.
#[derive(Debug, clap::Args)]
pub struct Offline {}

/// Let leave the house again what its classes allow.
#[derive(Debug, clap::Args)]
pub struct Online {}

impl Offline {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        switch(global, true, "The house is offline: nothing leaves it. `sovereign online` changes that.")
    }
}

impl Online {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        switch(
            global,
            false,
            "The house is online: what its classes allow may leave. `sovereign egress list` shows them.",
        )
    }
}

fn switch(global: &Global, offline: bool, said: &str) -> anyhow::Result<ExitCode> {
    let client = Client::new(global)?;
    block_on(async { client.put("/admin/v1/egress/offline", &Switch { offline }).await })?;
    println!("{said}");
    Ok(ExitCode::SUCCESS)
}

impl Egress {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Verify => block_on(verify(global)),
            command => {
                let client = Client::new(global)?;
                block_on(command.run(&client)).map(|()| ExitCode::SUCCESS)
            }
        }
    }
}

impl Command {
    async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::List { rows, json } => list(client, rows, json).await,
            Self::Ask => ask(client).await,
            Self::Allow(decide) => decide.run(client, true).await,
            Self::Deny(decide) => decide.run(client, false).await,
            Self::Revoke { decision } => {
                client.delete(&format!("/admin/v1/egress/decisions/{decision}")).await?;
                println!("Decision {decision} is taken back.");
                Ok(())
            }
            Self::Set { class, mode } => {
                client.put(&format!("/admin/v1/egress/classes/{class}"), &NewMode { mode }).await?;
                println!("{class} are {mode} now, until egress.{class} in the configuration says something new.");
                Ok(())
            }
            Self::Export { file } => export(client, file).await,
            Self::Erase { row } => {
                client.delete(&format!("/admin/v1/egress/rows/{row}/text")).await?;
                println!("The text beside row {row} is erased; its digest stays in the row.");
                Ok(())
            }
            // It has no daemon, or asks it otherwise.
            Self::Verify => Ok(()),
        }
    }
}

impl Decide {
    async fn run(self, client: &Client, allow: bool) -> anyhow::Result<()> {
        let period = match (self.period, self.always) {
            (_, true) => Some(Period::Always),
            (Some(seconds), _) => Some(Period::Seconds(seconds)),
            _ => None,
        };
        let decided: Decided = match &self.what[..] {
            [question] => {
                let id: u64 = question.parse().map_err(|_| {
                    anyhow!("{question:?} is not the number of a question; to decide ahead, name a class and a host")
                })?;
                let answer = Answer { allow, period: period.unwrap_or_default() };
                client.post(&format!("/admin/v1/egress/questions/{id}"), &answer).await?
            }
            [class, host] => {
                let (host, port) = host_and_port(host);
                let class = class.parse().map_err(anyhow::Error::msg)?;
                let host: Pattern = host.parse().map_err(anyhow::Error::msg)?;
                let scope = Scope { class, host, port, initiator: None };
                let answer = Answer { allow, period: period.unwrap_or(Period::Seconds(3600)) };
                client.post("/admin/v1/egress/decisions", &NewDecision { scope, answer }).await?
            }
            _ => bail!("name a question, or a class and a host"),
        };
        let verb = if allow { "Allowed" } else { "Refused" };
        match decided.decision {
            Some(decision) => println!("{verb}. `sovereign egress revoke {decision}` takes it back."),
            None => println!("{verb}."),
        }
        Ok(())
    }
}

/// `host:port`, where there is a port; an IPv6 address has more than one colon.
fn host_and_port(text: &str) -> (&str, Option<u16>) {
    match text.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => match port.parse() {
            Ok(port) => (host, Some(port)),
            Err(_) => (text, None),
        },
        _ => (text, None),
    }
}

#[derive(Serialize)]
struct Listing {
    #[serde(flatten)]
    view: View,
    #[serde(flatten)]
    page: Page,
}

async fn list(client: &Client, rows: u32, json: bool) -> anyhow::Result<()> {
    let view: View = client.get("/admin/v1/egress").await?;
    let page: Page = client.get(&format!("/admin/v1/egress/rows?limit={}", rows.clamp(1, 1000))).await?;
    if json {
        println!("{}", serde_json::to_string_pretty(&Listing { view, page })?);
        return Ok(());
    }
    println!("{}\n", if view.offline { "The house is OFFLINE: nothing leaves it." } else { "The house is online." });
    let mut table = Table::new(["CLASS", "MODE", "HOSTS"]);
    for class in &view.classes {
        let hosts = if class.hosts.is_empty() { "any".into() } else { class.hosts.join(" ") };
        table.row([class.class.to_string(), class.mode.to_string(), hosts]);
    }
    print!("{table}");
    if !view.questions.is_empty() {
        println!("\nQuestions that wait (`sovereign egress ask` answers them):");
        let mut table = Table::new(["QUESTION", "TO", "CLASS", "FOR", "WHAT"]);
        for question in &view.questions {
            let Question { id, class, initiator, host, port, what, .. } = question;
            table.row([
                id.to_string(),
                format!("{host}:{port}"),
                class.to_string(),
                initiator.to_string(),
                what.clone(),
            ]);
        }
        print!("{table}");
    }
    if !view.consents.is_empty() {
        println!("\nDecisions in force (`sovereign egress revoke N` takes one back):");
        let mut table = Table::new(["DECISION", "", "CLASS", "HOST", "FOR", "UNTIL"]);
        for consent in &view.consents {
            let port = consent.scope.port.map(|port| format!(":{port}")).unwrap_or_default();
            table.row([
                consent.id.to_string(),
                if consent.allow { "allow" } else { "refuse" }.into(),
                consent.scope.class.to_string(),
                format!("{}{port}", consent.scope.host),
                consent.scope.initiator.as_ref().map_or("anybody".into(), ToString::to_string),
                until(consent.lasting),
            ]);
        }
        print!("{table}");
    }
    println!();
    if page.lines.is_empty() {
        println!("Nothing has left the house yet.");
        return Ok(());
    }
    let mut table = Table::new(["ROW", "WHEN", "WHAT", "TO", "ADDRESS", "OUT", "IN", ""]);
    for line in page.lines.into_iter().rev() {
        table.row(cells(line));
    }
    print!("{table}");
    Ok(())
}

fn cells(line: Line) -> [String; 8] {
    let bytes = |bytes: Option<u64>| bytes.map(|bytes| Bytes(bytes).to_string()).unwrap_or_default();
    [
        line.row.to_string(),
        ago(line.at / 1000),
        line.what,
        line.host.unwrap_or_default(),
        line.address.map(|address| address.to_string()).unwrap_or_default(),
        bytes(line.bytes_out),
        bytes(line.bytes_in),
        line.how,
    ]
}

fn until(lasting: Lasting) -> String {
    match lasting {
        Lasting::Once => "it is done".into(),
        Lasting::Always => "revoked".into(),
        Lasting::Until(at) => match jiff::Timestamp::from_millisecond(at) {
            Ok(at) => at.to_zoned(jiff::tz::TimeZone::system()).strftime("%F %R").to_string(),
            Err(_) => "?".into(),
        },
    }
}

/// Answers questions as they come.
async fn ask(client: &Client) -> anyhow::Result<()> {
    let mut asker = Asker::new(false);
    anyhow::ensure!(asker.can_answer(), "there is no terminal to ask; `sovereign egress allow N` answers question N");
    let mut lines = Lines::<Vec<Question>>::of(client.get_raw("/admin/v1/egress/questions").await?);
    eprintln!("Questions appear here as they come. Ctrl-C ends this.");
    loop {
        tokio::select! {
            waiting = lines.next() => match waiting? {
                Some(waiting) => asker.hear(waiting),
                None => bail!("the daemon stopped"),
            },
            answered = asker.answered() => {
                let (id, answer) = answered.context("the terminal cannot be read")?;
                give(client, id, answer).await?;
            }
            _ = tokio::signal::ctrl_c() => return Ok(()),
        }
    }
}

/// Gives an answer; a question that is no more was answered by somebody else.
pub(super) async fn give(client: &Client, id: u64, answer: Answer) -> anyhow::Result<()> {
    let given = client.post::<Decided>(&format!("/admin/v1/egress/questions/{id}"), &answer).await;
    match given {
        Err(error) if error.to_string().contains("there is no question") => Ok(()),
        given => given.map(drop),
    }
}

async fn export(client: &Client, file: Option<PathBuf>) -> anyhow::Result<()> {
    let mut answer = client.get_raw("/admin/v1/egress/export").await?;
    let mut to: Box<dyn tokio::io::AsyncWrite + Unpin> = match &file {
        Some(file) => {
            let mut options = tokio::fs::OpenOptions::new();
            options.write(true).create_new(true).mode(0o600);
            Box::new(options.open(file).await.with_context(|| format!("cannot write {}", file.display()))?)
        }
        None => Box::new(tokio::io::stdout()),
    };
    while let Some(chunk) = answer.chunk().await.context("the daemon broke off: the export is not whole")? {
        to.write_all(&chunk).await.context("cannot write the export")?;
    }
    to.flush().await.context("cannot write the export")
}

/// By the daemon where it runs, which has the file open, and on the file itself where it does not.
async fn verify(global: &Global) -> anyhow::Result<ExitCode> {
    let config = Config::load(global.config.as_deref(), global.state.as_deref())?;
    let client = Client::of(&config);
    let report: Report = match client.is_running().await? {
        true => client.get("/admin/v1/egress/verify").await?,
        false => ledger::verify_file(config.state_dir()).await?,
    };
    println!("{} rows, {} connections, {} texts kept", report.rows, report.connections, report.texts);
    println!("head {}", report.head);
    match report.problem {
        None => {
            println!("Every row is as it was written.");
            Ok(ExitCode::SUCCESS)
        }
        Some(problem) => {
            eprintln!("The ledger was CHANGED: {problem}.");
            Ok(ExitCode::FAILURE)
        }
    }
}

fn mode(text: &str) -> Result<Mode, String> {
    match text {
        "off" => Ok(Mode::Off),
        "ask" => Ok(Mode::Ask),
        "on" => Ok(Mode::On),
        _ => Err("it is off, ask or on".into()),
    }
}

/// `90s`, `30m`, `1h`, `7d`, in seconds.
fn span(text: &str) -> Result<u32, String> {
    let wrong = || "write a time like 30m, 1h or 7d".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(wrong()),
    };
    number.parse::<u32>().ok().and_then(|number| number.checked_mul(scale)).filter(|span| *span > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_understood() {
        let check = |text: &str, expected: Option<u32>| assert_eq!(span(text).ok(), expected, "{text}");
        check("90s", Some(90));
        check("30m", Some(1800));
        check("1h", Some(3600));
        check("7d", Some(604_800));
        for nonsense in ["", "1", "h", "0h", "-1h", "1 h", "1w", "99999999d"] {
            check(nonsense, None);
        }
    }

    #[test]
    fn hosts_may_have_ports() {
        let check = |text: &str, host: &str, port: Option<u16>| assert_eq!(host_and_port(text), (host, port));
        check("a.example", "a.example", None);
        check("a.example:443", "a.example", Some(443));
        check("*.a.example:443", "*.a.example", Some(443));
        check("2001:db8::1", "2001:db8::1", None);
        check("[2001:db8::1]:443", "[2001:db8::1]", Some(443));
    }
}
