//! `config.json`: the shape of a model, in GGUF's keys.

use super::{json, key, wrong};
use crate::engine::gguf::{Error, Writer};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// The figures of a model.
#[derive(Debug)]
pub(super) struct Config {
    file: PathBuf,
    fields: Map<String, Value>,
    /// GGUF's name for it.
    pub architecture: &'static str,
    pub heads: u64,
    pub kv_heads: u64,
    head: u64,
    /// Whether the table of embeddings is the way back to tokens.
    pub tied: bool,
}

impl Config {
    pub fn read(file: &Path) -> Result<Config, Error> {
        let mut fields: Map<String, Value> = json(file)?;
        // Models that see, too, have their figures for text apart.
        if let Some(Value::Object(text)) = fields.remove("text_config") {
            fields.extend(text);
        }
        let kind = fields.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let architecture = match kind {
            "llama" | "mistral" => "llama",
            "qwen2" => "qwen2",
            "qwen3" => "qwen3",
            "gemma3" | "gemma3_text" => "gemma3",
            _ => {
                let problem = format!(
                    "\"model_type\" is {kind:?}; supported are llama, mistral, qwen2, qwen3, gemma3 and gemma3_text"
                );
                return Err(wrong(file, problem));
            }
        };
        let gemma = architecture == "gemma3";
        let mut config =
            Config { file: file.to_owned(), fields, architecture, heads: 0, kv_heads: 0, head: 0, tied: gemma };
        config.heads = config.count("num_attention_heads")?;
        config.kv_heads = config.find_count("num_key_value_heads")?.unwrap_or(config.heads);
        config.head = match config.find_count("head_dim")? {
            Some(head) => head,
            None if gemma => 256,
            None => config.count("hidden_size")? / config.heads,
        };
        config.tied = config.find("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(gemma);
        Ok(config)
    }

    fn find(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    fn wrong(&self, name: &str, problem: &str) -> Error {
        wrong(&self.file, format!("{name:?} {problem}"))
    }

    fn find_count(&self, name: &str) -> Result<Option<u64>, Error> {
        let Some(value) = self.find(name) else { return Ok(None) };
        let count = value.as_u64().filter(|count| (1..1 << 31).contains(count));
        count.map(Some).ok_or_else(|| self.wrong(name, &format!("is {value}, expected a whole number from 1 on")))
    }

    fn count(&self, name: &str) -> Result<u64, Error> {
        self.find_count(name)?.ok_or_else(|| self.wrong(name, "is missing"))
    }

    fn find_number(&self, name: &str) -> Result<Option<f64>, Error> {
        let Some(value) = self.find(name) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.wrong(name, &format!("is {value}, expected a number")))
    }

    /// The metadata that a converter would write.
    pub fn metadata(&self, folder: &Path) -> Result<Writer<'static>, Error> {
        let mut writer = Writer::new();
        let architecture = self.architecture;
        writer.set("general.architecture", architecture);
        let name =
            folder.canonicalize().ok().and_then(|folder| Some(folder.file_name()?.to_string_lossy().into_owned()));
        writer.set("general.name", name.unwrap_or_else(|| "model".into()));
        for (to, from) in [
            ("context_length", "max_position_embeddings"),
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
        ] {
            key(&mut writer, architecture, to, self.count(from)? as u32);
        }
        for (to, figure) in [
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head),
            ("attention.value_length", self.head),
            ("rope.dimension_count", self.head),
        ] {
            key(&mut writer, architecture, to, figure as u32);
        }
        let eps = self.find_number("rms_norm_eps")?.unwrap_or(1e-6);
        key(&mut writer, architecture, "attention.layer_norm_rms_epsilon", eps as f32);
        self.windows(&mut writer)?;
        self.rope(&mut writer)?;
        for (to, from) in [
            ("attn_logit_softcapping", "attn_logit_softcapping"),
            ("final_logit_softcapping", "final_logit_softcapping"),
        ] {
            if let Some(cap) = self.find_number(from)? {
                key(&mut writer, architecture, to, cap as f32);
            }
        }
        if let Some(scalar) = self.find_number("query_pre_attn_scalar")? {
            key(&mut writer, architecture, "attention.scale", scalar.sqrt().recip() as f32);
        }
        Ok(writer)
    }

    fn windows(&self, writer: &mut Writer<'static>) -> Result<(), Error> {
        let used = self.find("use_sliding_window").and_then(Value::as_bool);
        let Some(window) = self.find_count("sliding_window")?.filter(|_| used != Some(false)) else { return Ok(()) };
        if self.architecture.starts_with("qwen") {
            return match used {
                Some(true) => Err(self.wrong("use_sliding_window", "is true, which is not supported")),
                _ => Ok(()),
            };
        }
        key(writer, self.architecture, "attention.sliding_window", window as u32);
        let pattern = format!("{}.attention.sliding_window_pattern", self.architecture);
        if let Some(Value::Array(layers)) = self.find("layer_types") {
            let windowed: Vec<bool> = layers.iter().map(|layer| layer == "sliding_attention").collect();
            writer.array(&pattern, &windowed);
        } else if let Some(period) = self.find_count("sliding_window_pattern")? {
            writer.set(&pattern, period as u32);
        }
        Ok(())
    }

    /// What is said of rotations, for layers that see all or for those with a window: older files have one of it.
    fn rope_fields(&self, layers: &str) -> Option<&Map<String, Value>> {
        let told = self.find("rope_parameters").or_else(|| self.find("rope_scaling"))?.as_object()?;
        told.get(layers).map_or(Some(told), Value::as_object)
    }

    fn rope(&self, writer: &mut Writer<'static>) -> Result<(), Error> {
        let architecture = self.architecture;
        let number = |layers: &str, name: &str| self.rope_fields(layers)?.get(name)?.as_f64();
        let base = number("full_attention", "rope_theta").or(self.find_number("rope_theta")?).unwrap_or(10_000.0);
        key(writer, architecture, "rope.freq_base", base as f32);
        if architecture == "gemma3" {
            let told = self.find_number("rope_local_base_freq")?;
            let local = told.or_else(|| number("sliding_attention", "rope_theta")).unwrap_or(10_000.0);
            key(writer, architecture, "rope.freq_base_swa", local as f32);
        }
        let factor = number("full_attention", "factor").unwrap_or(1.0);
        match self.rope_kind() {
            // Llama's factors are a tensor in GGUF.
            "default" | "llama3" => {}
            "linear" => {
                key(writer, architecture, "rope.scaling.type", "linear");
                key(writer, architecture, "rope.scaling.factor", factor as f32);
            }
            "yarn" => {
                key(writer, architecture, "rope.scaling.type", "yarn");
                key(writer, architecture, "rope.scaling.factor", factor as f32);
                for (to, from) in [
                    ("rope.scaling.yarn_attn_factor", "attention_factor"),
                    ("rope.scaling.yarn_beta_fast", "beta_fast"),
                    ("rope.scaling.yarn_beta_slow", "beta_slow"),
                ] {
                    if let Some(number) = number("full_attention", from) {
                        key(writer, architecture, to, number as f32);
                    }
                }
                if let Some(trained) = number("full_attention", "original_max_position_embeddings") {
                    key(writer, architecture, "rope.scaling.original_context_length", trained as u32);
                }
            }
            kind => return Err(self.wrong("rope_type", &format!("is {kind:?}, which is not supported"))),
        }
        Ok(())
    }

    fn rope_kind(&self) -> &str {
        let fields = self.rope_fields("full_attention");
        let kind = fields.and_then(|fields| fields.get("rope_type").or_else(|| fields.get("type")));
        kind.and_then(Value::as_str).unwrap_or("default")
    }

    /// By how much Llama 3.1 divides each frequency: those of waves longer than what was trained by `factor`, those of short
    /// ones not at all, others in between.
    pub fn rope_factors(&self) -> Result<Option<Vec<f32>>, Error> {
        if self.rope_kind() != "llama3" {
            return Ok(None);
        }
        let fields = self.rope_fields("full_attention");
        let number = |name: &str| {
            let number = fields.and_then(|fields| fields.get(name)).and_then(Value::as_f64);
            number.filter(|number| *number > 0.0).ok_or_else(|| self.wrong(name, "of the rotation is missing"))
        };
        let (factor, low, high) = (number("factor")?, number("low_freq_factor")?, number("high_freq_factor")?);
        let trained = number("original_max_position_embeddings")?;
        let base = number("rope_theta").ok().or(self.find_number("rope_theta")?).unwrap_or(10_000.0);
        let each = |i: u64| {
            let wave = std::f64::consts::TAU * base.powf(2.0 * i as f64 / self.head as f64);
            let stays = ((trained / wave - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - stays) / factor + stays).recip() as f32
        };
        Ok(Some((0..self.head / 2).map(each).collect()))
    }

    /// The id of a token that this file tells; of several the first.
    pub fn token(&self, name: &str) -> Option<u32> {
        let value = match self.find(name)? {
            Value::Array(several) => several.first()?,
            one => one,
        };
        value.as_u64()?.try_into().ok()
    }
}
