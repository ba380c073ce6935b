//! `sovereign eval`.

use super::worker::{device, positive};
use crate::bench::{Device, Subject};
use crate::engine::eval::{self, Reader, Text, Writer};
use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use std::path::PathBuf;
use std::process::ExitCode;

/// Measure how well a model predicts a text.
#[derive(Debug, clap::Args)]
pub struct Eval {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// How much a text surprises a model: lower is better.
    Perplexity(Perplexity),
    /// How far a model's predictions are from those that another one wrote with `perplexity --save`.
    Kld(Kld),
}

#[derive(Debug, clap::Args)]
struct Model {
    /// The model, a GGUF file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// Threads that compute; all physical cores unless said.
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
    /// What computes: cpu, or cuda:N for an NVIDIA card (cuda is the first).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    device: Device,
    /// Print the figures as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Perplexity {
    #[command(flatten)]
    model: Model,
    /// The text.
    #[arg(long, value_name = "FILE")]
    text: PathBuf,
    /// Tokens of a chunk; the second half of each counts.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    ctx: usize,
    /// Take the first chunks only.
    #[arg(long, value_parser = positive)]
    chunks: Option<usize>,
    /// Keep all predictions, for `eval kld --reference` (two bytes for each token of the vocabulary and each prediction).
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct Kld {
    #[command(flatten)]
    model: Model,
    /// The predictions of the reference, by `eval perplexity --save` or llama-perplexity's --kl-divergence-base.
    #[arg(long, value_name = "FILE")]
    reference: PathBuf,
    /// The text, to make sure that it is the one that was predicted.
    #[arg(long, value_name = "FILE")]
    text: Option<PathBuf>,
}

impl Eval {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Perplexity(command) => command.run(),
            Command::Kld(command) => command.run(),
        }
    }
}

impl Perplexity {
    fn run(self) -> anyhow::Result<ExitCode> {
        let text = read(&self.text)?;
        let Subject { tokenizer, model, .. } = self.model.load()?;
        let text = Text::new(&tokenizer, &text, self.ctx, self.chunks)?;
        let mut writer =
            self.save.as_deref().map(|path| Writer::create(path, &text, model.hyper().vocabulary)).transpose()?;
        let bar = bar(text.len());
        let found = eval::perplexity(&model, &text, writer.as_mut(), |done, so_far| {
            bar.set_position(done as u64);
            bar.set_message(format!("{:.4}", so_far.value()));
        })?;
        bar.finish_and_clear();
        writer.map_or(Ok(()), Writer::finish)?;
        if self.model.json {
            let figures = json!({
                "perplexity": found.value(), "error": found.error(), "tokens": found.tokens, "chunks": text.len(), "ctx": self.ctx,
            });
            println!("{figures}");
        } else {
            println!(
                "perplexity {:.4} ± {:.4}, by {} predictions in {} chunks of {} tokens",
                found.value(),
                found.error(),
                found.tokens,
                text.len(),
                self.ctx
            );
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Kld {
    fn run(self) -> anyhow::Result<ExitCode> {
        let mut reference = Reader::open(&self.reference)?;
        let Subject { tokenizer, model, .. } = self.model.load()?;
        let predicted = reference.text(&tokenizer);
        if let Some(path) = &self.text {
            let text = Text::new(&tokenizer, &read(path)?, predicted.context(), Some(predicted.len()))?;
            anyhow::ensure!(
                text.tokens() == predicted.tokens(),
                "{} is of another text than {}",
                self.reference.display(),
                path.display()
            );
        }
        let bar = bar(predicted.len());
        let found = eval::divergence(&model, &tokenizer, &mut reference, |done, so_far| {
            bar.set_position(done as u64);
            bar.set_message(format!("{:.6}", so_far.value));
        })?;
        bar.finish_and_clear();
        let (own, theirs) = (found.perplexity, found.reference);
        if self.model.json {
            let figures = json!({
                "kld": found.divergence.value, "kld_error": found.divergence.error,
                "kld_median": found.quantile(0.5), "kld_99": found.quantile(0.99), "kld_max": found.quantile(1.0),
                "same_top": found.same_top, "rms_probability": found.rms_probability,
                "perplexity": own.value(), "reference_perplexity": theirs.value(), "tokens": own.tokens,
            });
            println!("{figures}");
        } else {
            println!("divergence   {:.6} ± {:.6} nats", found.divergence.value, found.divergence.error);
            let [median, most, all] = [0.5, 0.99, 1.0].map(|share| found.quantile(share));
            println!("             median {median:.6}, 99% within {most:.6}, all within {all:.6}");
            println!("same choice  {:.2} %", 100.0 * found.same_top);
            println!("probability  differs by {:.3} % (rms)", 100.0 * found.rms_probability);
            println!("perplexity   {:.4}, that of the reference {:.4}", own.value(), theirs.value());
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Model {
    fn load(&self) -> anyhow::Result<Subject> {
        let cannot = || format!("cannot measure {}", self.model.display());
        Subject::load(&self.model, self.device, self.threads).with_context(cannot)
    }
}

fn read(path: &PathBuf) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read the text {}", path.display()))
}

/// A bar over chunks; nothing where there is no terminal.
fn bar(chunks: usize) -> ProgressBar {
    let style = ProgressStyle::with_template("{pos}/{len} {wide_bar} {msg} {eta}");
    // The template is written above, and right.
    ProgressBar::new(chunks as u64).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}
