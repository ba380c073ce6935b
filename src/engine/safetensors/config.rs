//! `config.json`: the shape of a model, in GGUF's keys.

use super::sentences::Sentences;
use super::{json, key, wrong};
use crate::engine::gguf::{Error, Writer};
use serde_json::{Map, Value, json};
use std::ops::Range;
use std::path::{Path, PathBuf};

/// What files call models, and GGUF's names for them.
const MODELS: [(&str, &str); 11] = [
    ("llama", "llama"),
    ("mistral", "llama"),
    ("qwen2", "qwen2"),
    ("qwen3", "qwen3"),
    ("gemma3", "gemma3"),
    ("gemma3_text", "gemma3"),
    ("bert", "bert"),
    ("roberta", "bert"),
    ("xlm-roberta", "bert"),
    ("camembert", "bert"),
    ("nomic_bert", "nomic-bert"),
];

/// What Nomic's own code calls figures, and what all others do.
const NOMIC: [(&str, &str); 8] = [
    ("n_embd", "hidden_size"),
    ("n_head", "num_attention_heads"),
    ("n_layer", "num_hidden_layers"),
    ("n_inner", "intermediate_size"),
    ("n_positions", "max_position_embeddings"),
    ("layer_norm_epsilon", "layer_norm_eps"),
    ("rotary_emb_base", "rope_theta"),
    ("activation_function", "hidden_act"),
];

/// The figures of a model.
#[derive(Debug)]
pub(super) struct Config {
    file: PathBuf,
    pub(super) fields: Map<String, Value>,
    /// GGUF's name for it.
    pub architecture: &'static str,
    pub heads: u64,
    pub kv_heads: u64,
    pub head: u64,
    /// Whether the table of embeddings is the way back to tokens.
    pub tied: bool,
    /// Rows of the table of positions that texts' tokens have, one after the other.
    pub positions: Range<u64>,
    /// What becomes of its states, where they are embeddings.
    pub sentences: Sentences,
}

impl Config {
    pub fn read(folder: &Path) -> Result<Config, Error> {
        let file = folder.join("config.json");
        let mut fields: Map<String, Value> = json(&file)?;
        // Models that see, too, have their figures for text apart.
        if let Some(Value::Object(text)) = fields.remove("text_config") {
            fields.extend(text);
        }
        let kind = fields.get("model_type").and_then(Value::as_str).unwrap_or_default();
        let Some(&(_, architecture)) = MODELS.iter().find(|(name, _)| *name == kind) else {
            let known = MODELS.map(|(name, _)| name).join(", ");
            return Err(wrong(&file, format!("\"model_type\" is {kind:?}; supported are {known}")));
        };
        // The rows before are of tokens that are none.
        let padded = !matches!(kind, "bert" | "nomic_bert") && architecture == "bert";
        if architecture == "nomic-bert" {
            for (from, to) in NOMIC {
                if let Some(value) = fields.remove(from) {
                    fields.entry(to).or_insert(value);
                }
            }
        }
        let gemma = architecture == "gemma3";
        let sentences = Sentences::read(folder)?;
        let mut config = Config {
            file,
            fields,
            architecture,
            heads: 0,
            kv_heads: 0,
            head: 0,
            tied: gemma,
            positions: 0..0,
            sentences,
        };
        config.heads = config.count("num_attention_heads")?;
        config.kv_heads = config.find_count("num_key_value_heads")?.unwrap_or(config.heads);
        config.head = match config.find_count("head_dim")? {
            Some(head) => head,
            None if gemma => 256,
            None => config.count("hidden_size")? / config.heads,
        };
        config.tied = config.find("tie_word_embeddings").and_then(Value::as_bool).unwrap_or(gemma);
        config.positions = config.positions(padded)?;
        config.check()?;
        Ok(config)
    }

    /// Whether it sees whole texts at once.
    pub fn encodes(&self) -> bool {
        self.architecture.ends_with("bert")
    }

    fn positions(&self, padded: bool) -> Result<Range<u64>, Error> {
        let first = match padded {
            true => self.find("pad_token_id").and_then(Value::as_u64).unwrap_or(1).saturating_add(1),
            false => 0,
        };
        let all = self.count("max_position_embeddings")?;
        let Some(mut count) = all.checked_sub(first).filter(|&count| count > 0) else {
            return Err(self.wrong("max_position_embeddings", &format!("is {all}, of which {first} are no text's")));
        };
        if self.architecture == "nomic-bert" {
            // Beyond those its rotations would depend on the length of a text.
            count = count.min(self.find_count("max_trained_positions")?.unwrap_or(count));
        }
        Ok(first..first + self.sentences.tokens.map_or(count, |tokens| tokens.min(count)))
    }

    /// What would give other results if it were known what to do with it: each may be absent, or one of these.
    fn check(&self) -> Result<(), Error> {
        let no = || vec![json!(false)];
        let fixed = match self.architecture {
            "bert" => vec![
                ("hidden_act", vec![json!("gelu")]),
                ("position_embedding_type", vec![json!("absolute")]),
                ("is_decoder", no()),
                ("add_cross_attention", no()),
            ],
            "nomic-bert" => vec![
                ("hidden_act", vec![json!("swiglu"), json!("silu")]),
                ("causal", no()),
                ("prenorm", no()),
                ("use_rms_norm", no()),
                ("parallel_block", no()),
                ("rotary_emb_interleaved", no()),
                ("rotary_emb_fraction", vec![json!(1.0), json!(1)]),
                ("rotary_emb_scale_base", vec![]),
                ("moe_every_n_layers", vec![json!(0)]),
            ],
            "gemma3" => vec![
                ("hidden_activation", vec![json!("gelu_pytorch_tanh")]),
                ("use_bidirectional_attention", no()),
                ("partial_rotary_factor", vec![json!(1.0), json!(1)]),
            ],
            _ => vec![
                ("hidden_act", vec![json!("silu")]),
                ("is_causal", vec![json!(true)]),
                ("partial_rotary_factor", vec![json!(1.0), json!(1)]),
            ],
        };
        for (name, allowed) in fixed {
            if let Some(value) = self.find(name).filter(|value| !allowed.contains(value)) {
                return Err(self.wrong(name, &format!("is {value}, which is not supported")));
            }
        }
        Ok(())
    }

    pub(super) fn find(&self, name: &str) -> Option<&Value> {
        self.fields.get(name).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(&self, name: &str, problem: &str) -> Error {
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

    pub(super) fn find_number(&self, name: &str) -> Result<Option<f64>, Error> {
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
            ("embedding_length", "hidden_size"),
            ("block_count", "num_hidden_layers"),
            ("feed_forward_length", "intermediate_size"),
        ] {
            key(&mut writer, architecture, to, self.count(from)? as u32);
        }
        for (to, figure) in [
            ("context_length", self.positions.end - self.positions.start),
            ("attention.head_count", self.heads),
            ("attention.head_count_kv", self.kv_heads),
            ("attention.key_length", self.head),
            ("attention.value_length", self.head),
            ("rope.dimension_count", self.head),
        ] {
            key(&mut writer, architecture, to, figure as u32);
        }
        match self.encodes() {
            true => {
                let eps = self.find_number("layer_norm_eps")?.unwrap_or(1e-12);
                key(&mut writer, architecture, "attention.layer_norm_epsilon", eps as f32);
                key(&mut writer, architecture, "attention.causal", false);
            }
            false => {
                let eps = self.find_number("rms_norm_eps")?.unwrap_or(1e-6);
                key(&mut writer, architecture, "attention.layer_norm_rms_epsilon", eps as f32);
                self.windows(&mut writer)?;
            }
        }
        if architecture != "bert" {
            self.rope(&mut writer)?;
        }
        if let Some(pooling) = self.sentences.pooling {
            key(&mut writer, architecture, "pooling_type", pooling);
        }
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

    /// The id of a token that this file tells; of several the first.
    pub fn token(&self, name: &str) -> Option<u32> {
        let value = match self.find(name)? {
            Value::Array(several) => several.first()?,
            one => one,
        };
        value.as_u64()?.try_into().ok()
    }
}
