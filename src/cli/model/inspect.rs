use crate::cli::Global;
use crate::config::{Bytes, Config};
use crate::models::{Fact, Inspection, Models};
use crate::placement;
use serde::Serialize;
use std::fmt;
use std::io::{ErrorKind, Write};
use std::path::PathBuf;
use std::process::ExitCode;

/// A value longer than this is cut in the table; `--json` has it whole.
const SHOWN: usize = 60;

#[derive(Debug, clap::Args)]
pub(super) struct Inspect {
    /// The GGUF file.
    file: PathBuf,
    /// Print everything as JSON.
    #[arg(long)]
    json: bool,
}

/// A file, and whether it fits here.
#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    inspection: Inspection,
    fit: Fit,
}

/// What the configured engine would need for it, and what it may have.
#[derive(Debug, Serialize)]
struct Fit {
    /// Whether it can be served here.
    fits: bool,
    /// Tokens of each conversation.
    context: usize,
    /// Conversations at once.
    slots: usize,
    /// Bytes of their keys and values.
    kv: u64,
    /// Bytes that computing takes besides.
    workspace: u64,
    /// Weights, keys and values, and workspace.
    needed: u64,
    /// Bytes of host memory that models may hold together.
    budget: u64,
}

impl Inspect {
    pub(super) fn run(self, global: &Global) -> anyhow::Result<ExitCode> {
        let config = Config::load(global.config.as_deref(), global.state.as_deref())?;
        let inspection = Models::inspect(&self.file)?;
        let fit = Fit::of(&inspection, &config)?;
        let report = Report { inspection, fit };
        let told = match self.json {
            true => serde_json::to_string_pretty(&report)? + "\n",
            false => report.to_string(),
        };
        match std::io::stdout().write_all(told.as_bytes()) {
            // Whoever reads it has read enough, as `head` does.
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {}
            written => written?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Fit {
    fn of(inspection: &Inspection, config: &Config) -> anyhow::Result<Self> {
        let (context, slots) = (inspection.context(config.engine.context), config.engine.slots);
        let (needed, budget) = (inspection.memory(context, slots), placement::budget(config, &[])?.ram);
        let workspace = inspection.workspace(context, slots);
        let kv = inspection.memory(context, slots) - inspection.weights - workspace;
        Ok(Self {
            fits: inspection.problem.is_none() && needed <= budget,
            context,
            slots,
            kv,
            workspace,
            needed,
            budget,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { inspection, fit } = self;
        let mut row = |name: &str, value: &dyn fmt::Display| writeln!(f, "{name:<14} {value}");
        row("file", &format!("{}, GGUF version {}", inspection.file.display(), inspection.gguf_version))?;
        row("length", &exact(inspection.bytes))?;
        row("name", &inspection.name.as_deref().unwrap_or("not told"))?;
        row("licence", &inspection.licence.as_deref().unwrap_or("not told"))?;
        row("architecture", &inspection.architecture)?;
        row("parameters", &inspection.parameters)?;
        let kinds = inspection.weights_by_kind.iter().map(|(kind, bytes)| format!("{kind} {}", Bytes(*bytes)));
        row("quantisation", &format!("{} ({})", inspection.quantisation, kinds.collect::<Vec<_>>().join(", ")))?;
        row("context", &format!("{} tokens", inspection.context_train))?;
        row("weights", &format!("{} in {} tensors", exact(inspection.weights), inspection.tensors))?;
        match &inspection.problem {
            Some(problem) => row("served", &format!("no: {problem}"))?,
            None => {
                row("for", if inspection.embeds { &"embeddings" } else { &"answers" })?;
                row("KV per token", &exact(inspection.kv_per_token))?;
                let (needed, slots, context) = (exact(fit.needed), fit.slots, fit.context);
                row("needs", &format!("{needed} with {slots} conversations of {context} tokens"))?;
                let verdict = if fit.fits { "yes" } else { "no" };
                row("fits here", &format!("{verdict}: models may hold {} together", Bytes(fit.budget)))?;
            }
        }
        writeln!(f)?;
        inspection.metadata.iter().try_for_each(|(key, fact)| writeln!(f, "{key} = {}", shown(fact)))
    }
}

/// Every byte, and for people what that is about.
fn exact(bytes: u64) -> String {
    if bytes < 1 << 20 { format!("{bytes} B") } else { format!("{bytes} B ({})", Bytes(bytes)) }
}

/// A value in a line.
fn shown(fact: &Fact) -> String {
    match fact {
        Fact::Unsigned(number) => number.to_string(),
        Fact::Signed(number) => number.to_string(),
        Fact::Float(number) => number.to_string(),
        Fact::Bool(yes) => yes.to_string(),
        Fact::Array { length } => format!("{length} values"),
        Fact::Text(text) if text.chars().count() > SHOWN => {
            format!("{:?}... ({} bytes)", text.chars().take(SHOWN).collect::<String>(), text.len())
        }
        Fact::Text(text) => format!("{text:?}"),
    }
}
