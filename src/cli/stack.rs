//! `sovereign stack`.

use super::Global;
use super::asker::answer_meanwhile;
use super::client::{Client, block_on, path_segment};
use super::table::Table;
use crate::admin::{StackList, StackUpdate};
use crate::egress::{Class, Initiator, Question, Response};
use crate::stacks::{StackState, StackView};
use anyhow::Context;
use clap::Subcommand;
use indicatif::ProgressBar;
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

/// Services beside the models: compose files, run in Docker, kept off the internet.
#[derive(Debug, clap::Args)]
pub struct Stack {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the stacks and how they are.
    List,
    /// Bring a stack up, and keep it so.
    Up {
        /// The stack's name.
        name: String,
        /// Allow the pulls of its images, each once, where the configuration says that you are asked.
        #[arg(long, short)]
        yes: bool,
    },
    /// Take a stack down. Its data stays.
    Down {
        /// The stack's name.
        name: String,
    },
    /// Show what a stack's services print.
    Logs {
        /// The stack's name.
        name: String,
        /// Go on with what they will print.
        #[arg(short, long)]
        follow: bool,
    },
    /// Take a stack down and delete the data in its volumes.
    Rm {
        /// The stack's name.
        name: String,
    },
}

impl Stack {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let client = Client::new(global)?;
        block_on(self.command.run(&client))?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Command {
    async fn run(self, client: &Client) -> anyhow::Result<()> {
        match self {
            Self::List => list(client).await,
            Self::Up { name, yes } => {
                let answer = client.post_raw(&format!("{}/up", path(&name)), &json!({})).await?;
                let spinner = spinner();
                let concerns = |question: &Question| {
                    let ours = |who: &Initiator| matches!(who, Initiator::Stack { stack, .. } if *stack == name);
                    question.class == Class::ImagePull && ours(&question.initiator)
                };
                let stack = tokio::select! {
                    stack = follow(answer, &spinner) => stack?,
                    failed = answer_meanwhile(client, yes, concerns, &spinner) => match failed? {},
                };
                println!("{}", told(&stack));
                Ok(())
            }
            Self::Down { name } => {
                let answer = client.post_raw(&format!("{}/down", path(&name)), &json!({})).await?;
                let stack = follow(answer, &spinner()).await?;
                println!("{} is down; its data is kept. `sovereign stack rm {name}` deletes it.", stack.title);
                Ok(())
            }
            Self::Logs { name, follow } => {
                print_all(client.get_raw(&format!("{}/logs?follow={follow}", path(&name))).await?).await
            }
            Self::Rm { name } => {
                let stack = follow(client.delete_raw(&path(&name)).await?, &spinner()).await?;
                println!("{} is down, and its data is deleted.", stack.title);
                Ok(())
            }
        }
    }
}

fn path(name: &str) -> String {
    format!("/admin/v1/stacks/{}", path_segment(name))
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let list: StackList = client.get("/admin/v1/stacks").await?;
    if let Some(reason) = &list.absent {
        eprintln!("Docker is not reachable: {reason}");
    }
    let mut table = Table::new(["NAME", "STATE", "SERVICES", "RESTARTS", "PORTS", "TITLE"]);
    for stack in &list.stacks {
        let services = stack.services.iter().map(|service| format!("{} {}", service.name, service.status));
        let restarts: u32 = stack.services.iter().map(|service| service.restarts).sum();
        table.row([
            stack.name.clone(),
            stack.state.to_string(),
            services.collect::<Vec<_>>().join(", "),
            restarts.to_string(),
            ports(stack),
            stack.title.clone(),
        ]);
    }
    print!("{table}");
    for stack in &list.stacks {
        if let Some(progress) = &stack.progress {
            println!("{}: {progress}", stack.name);
        }
        if let Some(problem) = &stack.problem {
            println!("{}: {problem}", stack.name);
        }
    }
    Ok(())
}

fn ports(stack: &StackView) -> String {
    let ports = stack.services.iter().flat_map(|service| &service.ports);
    ports.map(|publish| publish.listen.to_string()).collect::<Vec<_>>().join(", ")
}

/// How a stack that was brought up is.
fn told(stack: &StackView) -> String {
    let ports = ports(stack);
    match stack.state {
        StackState::Running if ports.is_empty() => format!("{} runs.", stack.title),
        StackState::Running => format!("{} runs, at {ports}.", stack.title),
        state => format!("{}: {state}", stack.title),
    }
}

const ENDED: &str = "the daemon ended in the middle; when it is back, it goes on";

/// Drawn only on a terminal.
fn spinner() -> ProgressBar {
    let spinner = ProgressBar::new_spinner();
    spinner.enable_steady_tick(Duration::from_millis(100));
    spinner
}

/// Tells of an operation until it is over.
async fn follow(mut answer: Response, spinner: &ProgressBar) -> anyhow::Result<StackView> {
    let mut rest = Vec::new();
    while let Some(chunk) = answer.chunk().await.context(ENDED)? {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let update: StackUpdate = serde_json::from_slice(&line)
                .context("the daemon's answer is not understood; is it of another version?")?;
            if let Some(progress) = &update.stack.progress {
                spinner.set_message(progress.clone());
            }
            if let Some(error) = update.error {
                anyhow::bail!("{}: {error}", update.stack.name);
            }
            if update.over {
                spinner.finish_and_clear();
                return Ok(update.stack);
            }
        }
    }
    anyhow::bail!(ENDED)
}

async fn print_all(mut answer: Response) -> anyhow::Result<()> {
    let mut out = std::io::stdout();
    while let Some(chunk) = answer.chunk().await.context("the daemon ended in the middle of the log")? {
        // A reader that has seen enough (`| head`) is no error.
        if out.write_all(&chunk).and_then(|()| out.flush()).is_err() {
            break;
        }
    }
    Ok(())
}
