//! How `config.json` says that positions turn queries and keys.

use super::config::Config;
use super::key;
use crate::engine::gguf::{Error, Writer};
use serde_json::{Map, Value};

impl Config {
    /// What is said of rotations, for layers that see all or for those with a window: older files have one of it.
    fn rope_fields(&self, layers: &str) -> Option<&Map<String, Value>> {
        let told = self.find("rope_parameters").or_else(|| self.find("rope_scaling"))?.as_object()?;
        told.get(layers).map_or(Some(told), Value::as_object)
    }

    pub(super) fn rope(&self, writer: &mut Writer<'static>) -> Result<(), Error> {
        let architecture = self.architecture;
        let number = |layers: &str, name: &str| self.rope_fields(layers)?.get(name)?.as_f64();
        key(writer, architecture, "rope.freq_base", self.rope_base()? as f32);
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

    fn rope_base(&self) -> Result<f64, Error> {
        let told = self.rope_fields("full_attention").and_then(|fields| fields.get("rope_theta")?.as_f64());
        Ok(told.or(self.find_number("rope_theta")?).unwrap_or(match self.architecture {
            "gemma3" => 1e6,
            "nomic-bert" => 1e3,
            _ => 1e4,
        }))
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
        let base = self.rope_base()?;
        let each = |i: u64| {
            let wave = std::f64::consts::TAU * base.powf(2.0 * i as f64 / self.head as f64);
            let stays = ((trained / wave - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - stays) / factor + stays).recip() as f32
        };
        Ok(Some((0..self.head / 2).map(each).collect()))
    }
}
