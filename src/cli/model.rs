//! `sovereign model`.

mod bar;
mod inspect;
mod pull;
mod quantize;

use super::Global;
use super::client::{Client, block_on, path_segment};
use super::table::{Table, ago};
use crate::admin::ModelList;
use crate::config::Bytes;
use crate::models::{CatalogueEntry, Progress, Removed};
use clap::Subcommand;
use std::process::ExitCode;

/// Models are files. They are pulled once, verified, and need no internet after that.
#[derive(Debug, clap::Args)]
pub struct Model {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Fetch a model, or go on with a fetch that was interrupted.
    Pull(pull::Pull),
    /// Stop a pull. What has arrived is kept for the next one.
    Cancel {
        /// What was pulled.
        source: String,
    },
    /// List the models that are installed, and what is on its way.
    List {
        /// List what the catalogue offers instead.
        #[arg(long)]
        catalogue: bool,
    },
    /// Tell what a model file holds, exactly what it takes and whether it fits here. Needs no daemon.
    Inspect(inspect::Inspect),
    /// Write a model anew with weights of fewer bits. Needs no daemon.
    Quantize(quantize::Quantize),
    /// Remove a model. Its file is deleted, unless it was adopted where it lay.
    Rm {
        /// The model's name.
        name: String,
    },
}

impl Model {
    pub fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Pull(pull) => return pull.run(global),
            Command::Inspect(inspect) => return inspect.run(global),
            Command::Quantize(quantize) => return quantize.run(),
            Command::Cancel { source } => block_on(cancel(&Client::new(global)?, &source))?,
            Command::List { catalogue: false } => block_on(list(&Client::new(global)?))?,
            Command::List { catalogue: true } => block_on(catalogue(&Client::new(global)?))?,
            Command::Rm { name } => block_on(remove(&Client::new(global)?, &name))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

async fn cancel(client: &Client, source: &str) -> anyhow::Result<()> {
    let source = pull::absolute(source)?;
    client.delete(&format!("/admin/v1/models/pulls?source={}", path_segment(&source))).await?;
    println!("The pull of {source} is stopped; `sovereign model pull {source}` goes on with it.");
    Ok(())
}

async fn list(client: &Client) -> anyhow::Result<()> {
    let list: ModelList = client.get("/admin/v1/models").await?;
    if list.models.is_empty() && list.broken.is_empty() && list.pulls.is_empty() {
        eprintln!("There is no model. `sovereign model pull {}` fetches the default one.", list.default);
        return Ok(());
    }
    let mut table = Table::new(["NAME", "SIZE", "KIND", "CONTEXT", "LICENCE", "PULLED"]);
    for model in &list.models {
        table.row([
            model.name.clone(),
            Bytes(model.bytes).to_string(),
            format!("{} {}", model.architecture, model.quantisation),
            model.context_train.to_string(),
            model.licence.clone().unwrap_or_default(),
            ago(model.pulled_at),
        ]);
    }
    if !list.models.is_empty() {
        print!("{table}");
    }
    for broken in &list.broken {
        println!("{} cannot be served: {}", broken.name, broken.problem);
    }
    for pull in &list.pulls {
        println!("{}", told(pull));
    }
    Ok(())
}

/// A pull in a line.
fn told(pull: &Progress) -> String {
    match (&pull.error, pull.total) {
        (Some(error), _) => format!("{} was not pulled: {error}", pull.source),
        (None, Some(total)) => {
            format!("{} is on its way: {} of {}", pull.source, Bytes(pull.done), Bytes(total))
        }
        (None, None) => format!("{} is on its way: {}", pull.source, Bytes(pull.done)),
    }
}

async fn catalogue(client: &Client) -> anyhow::Result<()> {
    let entries: Vec<CatalogueEntry> = client.get("/admin/v1/models/catalogue").await?;
    let mut table = Table::new(["NAME", "SIZE", "CONTEXT", "LICENCE", "TITLE"]);
    for entry in entries {
        let size = entry.bytes.map_or("told by its mirror".into(), |bytes| Bytes(bytes).to_string());
        table.row([entry.name, size, entry.context.to_string(), entry.licence, entry.title]);
    }
    print!("{table}");
    Ok(())
}

async fn remove(client: &Client, name: &str) -> anyhow::Result<()> {
    let removed: Removed = client.delete_for(&format!("/admin/v1/models/{}", path_segment(name))).await?;
    match removed.kept {
        Some(file) => println!("{} is removed. Its file stays where it is: {}", removed.name, file.display()),
        None => println!("{} is removed, and its file is deleted.", removed.name),
    }
    Ok(())
}
