//! The command line: one file a subcommand, dispatched by one `match`.

mod asker;
mod bench;
mod chat;
mod client;
mod doctor;
mod egress;
mod eval;
mod key;
mod lines;
mod model;
mod serve;
mod stack;
mod status;
mod table;
mod worker;

use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::process::ExitCode;

/// Own your AI: one daemon for the models, containers and documents of your house.
#[derive(Debug, Parser)]
#[command(name = "sovereign", version, max_term_width = 100)]
pub struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Options that every subcommand understands.
#[derive(Debug, Clone, clap::Args)]
pub struct Global {
    /// The configuration file; without it /etc/sovereign/config.yaml where that exists.
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// The state folder of the daemon, over the configuration's.
    #[arg(long, global = true, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Serve(serve::Serve),
    /// Serve one model file by itself, without the daemon.
    Worker(worker::Worker),
    Status(status::Status),
    /// Pull, list, inspect and remove models.
    Model(model::Model),
    /// List, start, stop and remove stacks of containers.
    Stack(stack::Stack),
    Chat(chat::Chat),
    Doctor(doctor::Doctor),
    Key(key::Key),
    Egress(egress::Egress),
    Offline(egress::Offline),
    Online(egress::Online),
    Bench(bench::Bench),
    Eval(eval::Eval),
}

impl Cli {
    /// Runs the subcommand to its end.
    ///
    /// # Errors
    /// Whatever stopped the subcommand, told for a person.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let global = self.global;
        match self.command {
            Command::Serve(command) => command.run(&global),
            Command::Worker(command) => command.run(),
            Command::Status(command) => command.run(&global),
            Command::Model(command) => command.run(&global),
            Command::Stack(command) => command.run(&global),
            Command::Chat(command) => command.run(&global),
            Command::Doctor(command) => command.run(&global),
            Command::Key(command) => command.run(&global),
            Command::Egress(command) => command.run(&global),
            Command::Offline(command) => command.run(&global),
            Command::Online(command) => command.run(&global),
            Command::Bench(command) => command.run(),
            Command::Eval(command) => command.run(),
        }
    }
}
