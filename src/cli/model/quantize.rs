use crate::bench::{Device, Subject};
use crate::cli::worker::positive;
use crate::config::Bytes;
use crate::engine::eval::Text;
use crate::engine::gguf::Gguf;
use crate::engine::kernels::cpu::physical_cores;
use crate::engine::quantise::{Mix, Plan, fit};
use anyhow::{Context, bail};
use clap::ArgGroup;
use indicatif::{ProgressBar, ProgressStyle};
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

/// Tokens of a chunk of the text that predictions are compared on, and how many chunks count.
const CONTEXT: usize = 128;
const CHUNKS: usize = 2;

#[derive(Debug, clap::Args)]
#[command(group(ArgGroup::new("goal").required(true).args(["mix", "fit"])))]
pub(super) struct Quantize {
    /// The model, best one whose weights are floats.
    input: PathBuf,
    /// The file to write, which must not be there yet.
    output: PathBuf,
    /// What weights are stored as, such as q4_k_m, q6_k, q8_0 or nvfp4.
    #[arg(long = "type", value_name = "TYPE")]
    mix: Option<Mix>,
    /// Choose a type for each tensor by measurement, so that the file has at most so many bytes, such as 800MiB.
    #[arg(long, value_name = "BYTES")]
    fit: Option<Bytes>,
    /// The text to measure on, instead of a built-in one; what the model will be used for is best.
    #[arg(long, value_name = "FILE", requires = "fit")]
    text: Option<PathBuf>,
    /// Threads that compute; all physical cores unless said.
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
}

impl Quantize {
    pub(super) fn run(self) -> anyhow::Result<ExitCode> {
        if self.output.exists() {
            bail!("{} is there already; remove it, or write to another file", self.output.display());
        }
        let gguf = Arc::new(Gguf::open(&self.input).with_context(|| format!("cannot read {}", self.input.display()))?);
        let plan = match (self.mix, self.fit) {
            (Some(mix), _) => Plan::of(&gguf, mix)?,
            (None, Some(bytes)) => self.fitted(&gguf, bytes)?,
            (None, None) => bail!("say --type or --fit"),
        };
        let rounded = plan.rounded_before(&gguf);
        if rounded > 0 {
            eprintln!("{rounded} tensors are rounded already and will be rounded again: start from floats if you can.");
        }
        let told = || format!("cannot write {}, of {} bytes", self.output.display(), plan.bytes(&gguf));
        self.write(&gguf, &plan).with_context(told)?;
        println!("{}: {} instead of {}", self.output.display(), size(&self.output)?, Bytes(gguf.file_bytes()));
        Ok(ExitCode::SUCCESS)
    }

    fn threads(&self) -> usize {
        self.threads.unwrap_or_else(physical_cores)
    }

    /// The file appears under its name when it is whole and on the disk.
    fn write(&self, gguf: &Gguf, plan: &Plan) -> anyhow::Result<()> {
        let partial = beside(&self.output, "partial");
        let written = self.write_to(gguf, plan, &partial);
        if written.is_err() {
            // It is the first error that tells.
            let _ = fs::remove_file(&partial);
        }
        written?;
        fs::rename(&partial, &self.output)?;
        let folder = self.output.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(())
    }

    fn write_to(&self, gguf: &Gguf, plan: &Plan, partial: &Path) -> anyhow::Result<()> {
        let bar = bar("writing", "{msg} {wide_bar} {bytes}/{total_bytes} {eta}", plan.bytes(gguf));
        let mut out = BufWriter::with_capacity(1 << 20, File::create(partial)?);
        plan.write(gguf, self.threads(), &mut out, |bytes| bar.set_position(bytes))?;
        bar.finish_and_clear();
        out.flush()?;
        out.get_ref().sync_all()?;
        Ok(())
    }

    fn fitted(&self, gguf: &Arc<Gguf>, bytes: Bytes) -> anyhow::Result<Plan> {
        let text = match &self.text {
            Some(path) => fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?,
            None => fit::TEXT.to_owned(),
        };
        let predictions = beside(&self.output, "predictions");
        let measured = (|| {
            let Subject { tokenizer, model, .. } = Subject::load(&self.input, Device::Cpu, Some(self.threads()))?;
            let text = Text::new(&tokenizer, &text, CONTEXT, Some(CHUNKS))?;
            fit::predict(&model, &text, &predictions)?;
            drop(model);
            let bar = bar("measuring", "{msg} {wide_bar} {pos}/{len} tensors {eta}", 0);
            let measured = fit::measure(gguf, &tokenizer, &predictions, self.threads(), |done, of| {
                bar.set_length(of as u64);
                bar.set_position(done as u64);
            });
            bar.finish_and_clear();
            measured
        })();
        // It may not have come into being.
        let _ = fs::remove_file(&predictions);
        let (plan, expected) = fit::plan(gguf, &measured?, bytes.0)?;
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (_, format) in fit::told(gguf, &plan) {
            *counts.entry(format.kind().name()).or_default() += 1;
        }
        let counts: Vec<String> = counts.iter().map(|(name, count)| format!("{count} {name}")).collect();
        eprintln!("{}; expected divergence {expected:.5}", counts.join(", "));
        Ok(plan)
    }
}

/// `model.gguf.partial`
fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    name.into()
}

fn size(path: &Path) -> anyhow::Result<Bytes> {
    Ok(Bytes(fs::metadata(path)?.len()))
}

fn bar(message: &'static str, template: &str, len: u64) -> ProgressBar {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(len).with_style(style).with_message(message)
}
