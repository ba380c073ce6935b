//! `sovereign bench`.

use super::table::Table;
use super::worker::{device, positive};
use crate::bench::manifesto::{self, ITS_SPEED, Row, Speed, Stand, TABLE};
use crate::bench::{self, Device, Measurement, Protocol, Report, Test};
use crate::config::{self, Bytes};
use crate::gpu::Probe;
use anyhow::Context;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Measure how fast the native engine is here.
#[derive(Debug, clap::Args)]
pub struct Bench {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Time one model: reading prompts, and writing answers.
    Engine(Engine),
    /// Lay two reports side by side.
    Compare(Compare),
    /// Measure again what a report did; the exit code is 1 where a figure has fallen.
    Canary(Canary),
    /// Measure what the manifesto asks of a card of 8 GB, on an NVIDIA card.
    Manifesto(Manifesto),
}

#[derive(Debug, clap::Args)]
struct Engine {
    /// The model, a GGUF file.
    #[arg(long, value_name = "FILE")]
    model: PathBuf,
    /// What computes: cpu, or cuda:N for an NVIDIA card (cuda is the first).
    #[arg(long, value_name = "DEVICE", default_value = "cpu", value_parser = device)]
    device: Device,
    /// Threads that compute; all physical cores unless said.
    #[arg(long, value_parser = positive)]
    threads: Option<usize>,
    /// Tokens of the prompt that is read; 0 for none.
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    prompt: usize,
    /// Tokens that each stream writes; 0 for none.
    #[arg(long = "gen", value_name = "TOKENS", default_value_t = 128)]
    generate: usize,
    /// Tokens that lie in the cache before.
    #[arg(long, value_name = "TOKENS", value_delimiter = ',', default_value = "0")]
    depth: Vec<usize>,
    /// Streams that write at once.
    #[arg(long, value_delimiter = ',', default_value = "1", value_parser = positive)]
    streams: Vec<usize>,
    /// How often each figure is measured; the median is told.
    #[arg(long, default_value_t = 5, value_parser = positive)]
    repeat: usize,
    /// Print a report as JSON, for `bench compare` and `bench canary`.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Compare {
    /// The report of before.
    before: PathBuf,
    /// The report of after.
    after: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Canary {
    /// The report that was good.
    baseline: PathBuf,
    /// Where the model is now, if not where the report says.
    #[arg(long, value_name = "FILE")]
    model: Option<PathBuf>,
    /// How much slower a figure may be, in per cent.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    tolerance: f64,
}

#[derive(Debug, clap::Args)]
struct Manifesto {
    /// The card: cuda:N (cuda is the first) or cuda:UUID.
    #[arg(long, value_name = "DEVICE", default_value = "cuda", value_parser = device)]
    device: Device,
    /// Llama 3.1 8B in 4 bits of floats, a GGUF file.
    #[arg(long, value_name = "FILE")]
    llama: Option<PathBuf>,
    /// Qwen2.5 7B in Q4_K_M.
    #[arg(long, value_name = "FILE")]
    qwen: Option<PathBuf>,
    /// Mistral 7B in Q4_K_M. An embedder beside it runs on the processor, and takes nothing of the card.
    #[arg(long, value_name = "FILE")]
    mistral: Option<PathBuf>,
    /// Bytes of memory that the card is taken to have.
    #[arg(long, value_name = "BYTES", default_value = "8188MiB")]
    memory: Bytes,
    /// Tokens that each stream writes.
    #[arg(long = "gen", value_name = "TOKENS", default_value_t = 128, value_parser = positive)]
    generate: usize,
    /// Print what was measured as JSON.
    #[arg(long)]
    json: bool,
}

impl Bench {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::Engine(command) => command.run(),
            Command::Compare(command) => command.run(),
            Command::Canary(command) => command.run(),
            Command::Manifesto(command) => command.run(),
        }
    }
}

impl Manifesto {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Device::Cuda(which) = self.device else {
            anyhow::bail!("the manifesto is about NVIDIA cards: --device cuda");
        };
        let stand = Stand { which, memory: self.memory.0, tokens: self.generate };
        let files = TABLE.into_iter().zip([self.llama, self.qwen, self.mistral]);
        let lines: Vec<_> = files.filter_map(|(line, file)| Some((line, file?))).collect();
        if lines.is_empty() {
            anyhow::bail!("say which models to measure: --llama FILE, --qwen FILE, --mistral FILE");
        }
        let memory_speed = manifesto::memory_speed(which)?;
        eprintln!("the card's memory moves {}/s", Bytes(memory_speed as u64));
        let mut probe = Probe::new(&config::Gpu::default());
        let mut taken = || {
            let cards = probe.read();
            let mine =
                cards.iter().flat_map(|card| &card.processes).filter(|process| process.pid == std::process::id());
            let bytes: Vec<u64> = mine.filter_map(|process| process.bytes).collect();
            (!bytes.is_empty()).then(|| bytes.iter().sum())
        };
        let mut rows = Vec::new();
        for (line, file) in lines {
            let told = |speed: &Speed| {
                let Speed { streams, depth, speculates, tokens_per_second, .. } = speed;
                let how = if *speculates { ", with guesses" } else { "" };
                eprintln!("{}, {streams} at {depth}{how}: {tokens_per_second:.1} tokens/s", line.model);
            };
            let row = manifesto::measure(line, &file, stand, memory_speed, &mut taken, told);
            rows.push(row.with_context(|| format!("cannot measure {}", file.display()))?);
        }
        if self.json {
            println!("{}", serde_json::to_string_pretty(&rows)?);
        } else {
            tell(&rows);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints what was measured, what is computed, and what is a projection.
fn tell(rows: &[Row]) {
    let mut table = Table::new(["MODEL", "CONTEXT", "K/V", "PLANNED", "TAKEN (NVML)", "ASKED FOR", "FITS"]);
    for row in rows {
        table.row([
            row.line.model.into(),
            row.line.context.to_string(),
            row.kv.into(),
            Bytes(row.planned).to_string(),
            row.taken.map_or_else(|| "-".into(), |taken| Bytes(taken).to_string()),
            Bytes(row.line.memory).to_string(),
            if row.fits() { "yes" } else { "no" }.into(),
        ]);
    }
    println!("{table}");
    for row in rows {
        if let Some(instead) = &row.instead {
            println!("{}: {instead}.", row.line.model);
        }
    }
    let limit = format!("LIMIT AT {:.0} GB/S", ITS_SPEED / 1e9);
    let mut table = Table::new([
        "MODEL",
        "STREAMS",
        "DEPTH",
        "GUESSES",
        "TOKENS/S",
        "A PASS",
        "OF ROOFLINE",
        &limit,
        "PROJECTION",
        "ASKED FOR",
    ]);
    for (row, speed) in rows.iter().flat_map(|row| row.speeds.iter().map(move |speed| (row, speed))) {
        table.row([
            row.line.model.into(),
            speed.streams.to_string(),
            speed.depth.to_string(),
            if speed.speculates { "yes" } else { "no" }.into(),
            format!("{:.1}", speed.tokens_per_second),
            format!("{:.2}", speed.tokens_per_pass),
            format!("{:.0} %", 100.0 * speed.of_roofline),
            format!("{:.0}", speed.limit(ITS_SPEED)),
            format!("{:.0}", speed.projection(ITS_SPEED)),
            format!("{:.0}", row.line.speed),
        ]);
    }
    print!("{table}");
    println!(
        "The limit is what reading weights, keys and values allows on the manifesto's card. The projection is no measurement: it is \
         the same part of that limit as was reached here. How much guesses help depends on the text: here a program's, which repeats."
    );
    rows.iter().filter_map(Row::beyond).for_each(|reason| println!("{reason}."));
}

impl Engine {
    fn run(self) -> anyhow::Result<ExitCode> {
        let Engine { prompt, generate, depth: depths, streams, repeat, .. } = self;
        let protocol = Protocol { prompt, generate, depths, streams, repeat };
        let report = measure(&self.model, self.device, self.threads, protocol)?;
        if self.json {
            println!("{}", serde_json::to_string_pretty(&report)?);
            return Ok(ExitCode::SUCCESS);
        }
        let machine = &report.machine;
        println!(
            "{} ({}), {} threads on {}",
            report.model.file, report.model.quantisation, machine.threads, machine.cpu
        );
        if let Some(speed) = machine.read_bytes_per_second {
            println!(
                "memory is read at {}/s; the model was loaded in {:.2} s",
                Bytes(speed as u64),
                report.load_seconds
            );
        }
        if let Some(peak) = machine.operations_per_second {
            let [int8, float32] = [peak.int8, peak.float32].map(|operations| operations / 1e9);
            println!("its threads do {int8:.0} billion operations a second on 8 bits, {float32:.0} on floats");
        }
        let mut table = Table::new(["TEST", "DEPTH", "STREAMS", "TOKENS/S", "SPREAD", "READ/TOKEN", "OF ROOFLINE"]);
        for row in &report.results {
            table.row([
                name(row),
                row.depth.to_string(),
                row.streams.to_string(),
                format!("{:.1}", row.tokens_per_second),
                format!("{:.1} %", 100.0 * row.spread),
                Bytes(row.bytes_per_token as u64).to_string(),
                row.roofline_fraction.map_or_else(|| "-".into(), |fraction| format!("{:.0} %", 100.0 * fraction)),
            ]);
        }
        print!("{table}");
        Ok(ExitCode::SUCCESS)
    }
}

impl Compare {
    fn run(self) -> anyhow::Result<ExitCode> {
        let (before, after) = (read(&self.before)?, read(&self.after)?);
        lay_side_by_side(&before, &after);
        Ok(ExitCode::SUCCESS)
    }
}

impl Canary {
    fn run(self) -> anyhow::Result<ExitCode> {
        let before = read(&self.baseline)?;
        let model = self.model.unwrap_or_else(|| before.model.file.clone().into());
        let on = device(&before.machine.device).map_err(anyhow::Error::msg)?;
        let after = measure(&model, on, Some(before.machine.threads), before.protocol.clone())?;
        lay_side_by_side(&before, &after);
        let least = 1.0 - self.tolerance / 100.0;
        let fallen = bench::compare(&before, &after).iter().filter(|change| change.ratio() < least).count();
        if fallen == 0 {
            println!("no figure is more than {} % below the baseline", self.tolerance);
            return Ok(ExitCode::SUCCESS);
        }
        println!("{fallen} figures are more than {} % below the baseline", self.tolerance);
        Ok(ExitCode::FAILURE)
    }
}

/// Measures, telling each figure on the way to who watches.
fn measure(model: &Path, on: Device, threads: Option<usize>, protocol: Protocol) -> anyhow::Result<Report> {
    let told = |row: &Measurement| {
        let Measurement { depth, streams, tokens_per_second, .. } = row;
        eprintln!("{} at {depth}, {streams} at once: {tokens_per_second:.1} tokens/s", name(row));
    };
    bench::run(model, on, threads, protocol, told).with_context(|| format!("cannot measure {}", model.display()))
}

fn read(path: &Path) -> anyhow::Result<Report> {
    let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Report::parse(&text).map_err(anyhow::Error::msg).with_context(|| format!("{} is no report", path.display()))
}

fn name(row: &Measurement) -> String {
    match row.test {
        Test::Prefill => format!("prefill {}", row.tokens),
        Test::Decode => format!("decode {}", row.tokens),
    }
}

/// Prints the figures that both have, and what else differs.
fn lay_side_by_side(before: &Report, after: &Report) {
    let differs = [
        ("processor", &before.machine.cpu, &after.machine.cpu),
        ("device", &before.machine.device, &after.machine.device),
        ("quantisation", &before.model.quantisation, &after.model.quantisation),
        ("architecture", &before.model.architecture, &after.model.architecture),
    ];
    for (what, one, other) in differs.into_iter().filter(|(_, one, other)| one != other) {
        println!("the {what} differs: {one}, then {other}");
    }
    let mut table = Table::new(["TEST", "DEPTH", "STREAMS", "BEFORE", "AFTER", "RATIO"]);
    for change in bench::compare(before, after) {
        table.row([
            name(&change.before),
            change.before.depth.to_string(),
            change.before.streams.to_string(),
            format!("{:.1}", change.before.tokens_per_second),
            format!("{:.1}", change.after.tokens_per_second),
            format!("{:.2}", change.ratio()),
        ]);
    }
    print!("{table}");
}
