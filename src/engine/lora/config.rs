//! `adapter_config.json`: how PEFT applies an adapter.

use super::MAX_RANK;
use crate::engine::safetensors::json_within;
use fancy_regex::Regex;
use serde_json::{Map, Value};
use std::path::Path;

/// Real ones have some KiB.
const MAX_BYTES: u64 = 1 << 20;

/// What changes the result and is not supported, unless it is absent, null, false, empty or `"none"`.
const REFUSED: [&str; 16] = [
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "bias",
    "modules_to_save",
    "trainable_token_indices",
    "target_parameters",
    "layer_replication",
    "alora_invocation_tokens",
    "arrow_config",
    "kasa_config",
    "monteclora_config",
    "megatron_config",
    "loftq_config",
];

/// What `init_lora_weights` may say: others change the model's own weights.
const INITS: [&str; 3] = ["gaussian", "eva", "orthogonal"];

/// The figures of an adapter.
#[derive(Debug)]
pub(super) struct Config {
    fields: Map<String, Value>,
    rank: usize,
    alpha: f64,
    /// Whether the root of the rank divides, not the rank.
    by_root: bool,
    ranks: Vec<(Pattern, f64)>,
    alphas: Vec<(Pattern, f64)>,
}

/// What names of modules end with, or all of them.
#[derive(Debug)]
struct Pattern {
    key: String,
    regex: Regex,
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// The field that is wrong, or not supported.
    pub(super) fn read(file: &Path) -> Result<Config, String> {
        let fields: Map<String, Value> = json_within(file, MAX_BYTES).map_err(|error| error.to_string())?;
        Config::of(fields).map_err(|problem| format!("adapter_config.json: {problem}"))
    }

    fn of(fields: Map<String, Value>) -> Result<Config, String> {
        match fields.get("peft_type") {
            Some(Value::String(kind)) if kind == "LORA" => {}
            other => return Err(format!("\"peft_type\" is {}, expected \"LORA\"", told(other))),
        }
        for name in REFUSED {
            if fields.get(name).is_some_and(|value| !is_nothing(value)) {
                return Err(format!("{name:?} is {}, which is not supported", told(fields.get(name))));
            }
        }
        match fields.get("init_lora_weights") {
            None | Some(Value::Null | Value::Bool(_)) => {}
            Some(Value::String(init)) if INITS.contains(&init.as_str()) => {}
            other => {
                let found = told(other);
                return Err(format!("\"init_lora_weights\" is {found}, with which the model has other weights"));
            }
        }
        let mut config = Config {
            rank: 0,
            alpha: 0.0,
            by_root: match fields.get("use_rslora") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(by_root)) => *by_root,
                other => return Err(format!("\"use_rslora\" is {}, expected true or false", told(other))),
            },
            ranks: patterns(&fields, "rank_pattern")?,
            alphas: patterns(&fields, "alpha_pattern")?,
            fields,
        };
        config.rank = rank("r", config.number("r")?)?;
        config.alpha = config.number("lora_alpha")?;
        for (pattern, found) in &config.ranks {
            rank(&format!("rank_pattern.{}", pattern.key), *found)?;
        }
        config.is_target("")?;
        Ok(config)
    }

    fn number(&self, name: &str) -> Result<f64, String> {
        let value = self.fields.get(name);
        value.and_then(Value::as_f64).ok_or_else(|| format!("{name:?} is {}, expected a number", told(value)))
    }

    /// The rank of a module, and what its product is multiplied with.
    pub(super) fn scale(&self, module: &str) -> Result<(usize, f32), String> {
        let rank = find(&self.ranks, module)?.map_or(self.rank, |rank| rank as usize);
        let alpha = find(&self.alphas, module)?.unwrap_or(self.alpha);
        let by = if self.by_root { (rank as f64).sqrt() } else { rank as f64 };
        let scale = (alpha / by) as f32;
        if !scale.is_finite() {
            return Err(format!("the alpha of {module:?} is {alpha}"));
        }
        Ok((rank, scale))
    }

    /// Whether the adapter is said to be for a module.
    pub(super) fn is_target(&self, module: &str) -> Result<bool, String> {
        let wrong = |value: &Value| format!("\"target_modules\" is {value}, expected a text or a list of texts");
        match self.fields.get("target_modules") {
            None | Some(Value::Null) => Err("\"target_modules\" is missing".into()),
            Some(Value::String(all)) if all == "all-linear" => Ok(true),
            Some(Value::String(regex)) => {
                Pattern::new("target_modules", regex, &format!("^(?:{regex})$"))?.matches(module)
            }
            Some(value @ Value::Array(names)) => {
                let names: Option<Vec<&str>> = names.iter().map(Value::as_str).collect();
                let ends =
                    |name: &str| module.strip_suffix(name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
                Ok(names.ok_or_else(|| wrong(value))?.into_iter().any(ends))
            }
            Some(other) => Err(wrong(other)),
        }
    }
}

impl Pattern {
    fn new(field: &str, key: &str, regex: &str) -> Result<Pattern, String> {
        let regex = Regex::new(regex).map_err(|error| format!("{field:?} has {key:?}: {error}"))?;
        Ok(Pattern { key: key.to_owned(), regex })
    }

    fn matches(&self, module: &str) -> Result<bool, String> {
        self.regex.is_match(module).map_err(|error| format!("{:?} cannot be looked for: {error}", self.key))
    }
}

/// Numbers by patterns, in their order.
fn patterns(fields: &Map<String, Value>, field: &str) -> Result<Vec<(Pattern, f64)>, String> {
    let by_pattern = match fields.get(field) {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(Value::Object(by_pattern)) => by_pattern,
        other => return Err(format!("{field:?} is {}, expected numbers by names", told(other))),
    };
    let pattern = |(key, value): (&String, &Value)| {
        let number = value.as_f64().ok_or_else(|| format!("\"{field}.{key}\" is {value}, expected a number"))?;
        Ok((Pattern::new(field, key, &format!(r"^(.*\.)?({key})$"))?, number))
    };
    by_pattern.iter().map(pattern).collect()
}

/// The number of the first pattern that fits.
fn find(patterns: &[(Pattern, f64)], module: &str) -> Result<Option<f64>, String> {
    for (pattern, number) in patterns {
        if pattern.matches(module)? {
            return Ok(Some(*number));
        }
    }
    Ok(None)
}

fn rank(name: &str, found: f64) -> Result<usize, String> {
    let fits = found.fract() == 0.0 && (1.0..=MAX_RANK as f64).contains(&found);
    fits.then_some(found as usize).ok_or_else(|| format!("{name:?} is {found}, not within 1..={MAX_RANK}"))
}

fn is_nothing(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(true) | Value::Number(_) => false,
    }
}

/// A value for a message, which is not as long as it.
fn told(value: Option<&Value>) -> String {
    value.map_or_else(|| "missing".into(), |value| format!("{value:.60}").chars().take(60).collect())
}
