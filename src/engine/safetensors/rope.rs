//! How `config.json` says that positions turn queries and keys. The rules for what is not told are transformers'.

use super::config::Config;
use super::key;
use crate::engine::gguf::{Error, Writer};
use serde_json::{Map, Value};

/// What it is known what to do with. Anything else would change results.
const KNOWN: [&str; 16] = [
    "rope_type",
    "type",
    "rope_theta",
    "factor",
    "original_max_position_embeddings",
    "max_position_embeddings",
    "attention_factor",
    "beta_fast",
    "beta_slow",
    "mscale",
    "mscale_all_dim",
    "short_factor",
    "long_factor",
    "low_freq_factor",
    "high_freq_factor",
    // Of tuning, which is over.
    "finetuned",
];

impl Config {
    /// What is said of rotations, for layers that see all or for those with a window: older files have one of it.
    fn rope_fields(&self, layers: &str) -> Option<&Map<String, Value>> {
        let told = self.find("rope_parameters").or_else(|| self.find("rope_scaling"))?.as_object()?;
        let of_layers = ["full_attention", "sliding_attention"].iter().any(|layers| told.contains_key(*layers));
        if of_layers { told.get(layers).and_then(Value::as_object) } else { Some(told) }
    }

    /// A number of layers that see all.
    fn rope_number(&self, name: &str) -> Option<f64> {
        self.rope_fields("full_attention")?.get(name)?.as_f64()
    }

    fn rope_needed(&self, name: &str) -> Result<f64, Error> {
        let number = self.rope_number(name).filter(|number| *number > 0.0);
        number.ok_or_else(|| self.wrong(name, "of the rotation is missing"))
    }

    fn rope_base(&self) -> Result<f64, Error> {
        Ok(self.rope_number("rope_theta").or(self.find_number("rope_theta")?).unwrap_or(match self.architecture {
            "gemma3" => 1e6,
            "nomic-bert" => 1e3,
            _ => 1e4,
        }))
    }

    fn rope_kind(&self, layers: &str) -> &str {
        let fields = self.rope_fields(layers);
        let kind = fields.and_then(|fields| fields.get("rope_type").or_else(|| fields.get("type")));
        kind.and_then(Value::as_str).unwrap_or("default")
    }

    /// Positions that were trained at first.
    fn rope_trained(&self) -> Result<f64, Error> {
        const NAME: &str = "original_max_position_embeddings";
        let all = self.find_number("max_position_embeddings")?;
        let told = self.find_number(NAME)?.or(self.rope_number(NAME)).or(all);
        told.filter(|&told| told >= 1.0).ok_or_else(|| self.wrong(NAME, "of the rotation is missing"))
    }

    /// By how many times more positions there are.
    fn rope_factor(&self) -> Result<f64, Error> {
        match self.rope_number("factor") {
            Some(factor) => Ok(factor),
            None => Ok(self.find_number("max_position_embeddings")?.unwrap_or(1.0) / self.rope_trained()?),
        }
    }

    /// What queries and keys are multiplied with besides.
    fn rope_magnitude(&self) -> Result<f64, Error> {
        if let Some(told) = self.rope_number("attention_factor") {
            return Ok(told);
        }
        let factor = self.rope_factor()?;
        let sharper = |by: f64| if factor <= 1.0 { 1.0 } else { 0.1 * by * factor.ln() + 1.0 };
        let told = |name| self.rope_number(name).filter(|&by| by != 0.0);
        Ok(match (self.rope_kind("full_attention"), told("mscale"), told("mscale_all_dim")) {
            ("longrope", ..) if factor <= 1.0 => 1.0,
            ("longrope", ..) => (1.0 + factor.ln() / self.rope_trained()?.ln()).sqrt(),
            (_, Some(one), Some(all)) => sharper(one) / sharper(all),
            _ => sharper(1.0),
        })
    }

    pub(super) fn rope(&self, writer: &mut Writer<'static>) -> Result<(), Error> {
        self.check_rope()?;
        let architecture = self.architecture;
        key(writer, architecture, "rope.freq_base", self.rope_base()? as f32);
        if architecture == "gemma3" {
            let number = || self.rope_fields("sliding_attention")?.get("rope_theta")?.as_f64();
            let local = self.find_number("rope_local_base_freq")?.or_else(number).unwrap_or(10_000.0);
            key(writer, architecture, "rope.freq_base_swa", local as f32);
        }
        let kind = self.rope_kind("full_attention");
        match kind {
            // Llama's factors are a tensor in GGUF. A dynamic base stays as it is for as many positions as were trained, and
            // there are no more.
            "default" | "llama3" | "dynamic" => {}
            "linear" => {
                key(writer, architecture, "rope.scaling.type", kind);
                key(writer, architecture, "rope.scaling.factor", self.rope_needed("factor")? as f32);
            }
            "yarn" => {
                key(writer, architecture, "rope.scaling.type", kind);
                key(writer, architecture, "rope.scaling.factor", self.rope_factor()? as f32);
                key(writer, architecture, "rope.scaling.original_context_length", self.rope_trained()? as u32);
                key(writer, architecture, "rope.scaling.yarn_attn_factor", self.rope_magnitude()? as f32);
                for (to, from) in
                    [("rope.scaling.yarn_beta_fast", "beta_fast"), ("rope.scaling.yarn_beta_slow", "beta_slow")]
                {
                    if let Some(number) = self.rope_number(from).filter(|&number| number != 0.0) {
                        key(writer, architecture, to, number as f32);
                    }
                }
            }
            "longrope" => {
                key(writer, architecture, "rope.scaling.type", kind);
                key(writer, architecture, "rope.scaling.original_context_length", self.rope_trained()? as u32);
                key(writer, architecture, "rope.scaling.attn_factor", self.rope_magnitude()? as f32);
            }
            kind => return Err(self.wrong("rope_type", &format!("is {kind:?}, which is not supported"))),
        }
        Ok(())
    }

    /// That nothing is said that is not looked at.
    fn check_rope(&self) -> Result<(), Error> {
        for layers in ["full_attention", "sliding_attention"] {
            for (name, value) in self.rope_fields(layers).into_iter().flatten().filter(|(_, value)| !value.is_null()) {
                let neutral = match name.as_str() {
                    "truncate" => *value == true,
                    "partial_rotary_factor" => *value == 1.0,
                    _ => false,
                };
                if !KNOWN.contains(&name.as_str()) && !neutral {
                    return Err(self.wrong(name, &format!("of the rotation is {value}, which is not supported")));
                }
            }
        }
        let local = self.rope_kind("sliding_attention");
        let separate = self.rope_fields("sliding_attention") != self.rope_fields("full_attention");
        if separate && local != "default" {
            let problem = format!("is {local:?} in layers with a window, which is not supported");
            return Err(self.wrong("rope_type", &problem));
        }
        Ok(())
    }

    /// Tensors of GGUF with what divides each frequency, by their names.
    pub fn rope_factors(&self) -> Result<Vec<(&'static str, Vec<f32>)>, Error> {
        match self.rope_kind("full_attention") {
            "llama3" => Ok(vec![("rope_freqs.weight", self.llama_factors()?)]),
            "longrope" => Ok(vec![
                ("rope_factors_long.weight", self.told_factors("long_factor")?),
                ("rope_factors_short.weight", self.told_factors("short_factor")?),
            ]),
            _ => Ok(Vec::new()),
        }
    }

    fn told_factors(&self, name: &str) -> Result<Vec<f32>, Error> {
        let told = self.rope_fields("full_attention").and_then(|fields| fields.get(name)?.as_array());
        let half = (self.head / 2) as usize;
        let factors: Option<Vec<f32>> =
            told.and_then(|told| told.iter().map(|factor| factor.as_f64().map(|factor| factor as f32)).collect());
        factors
            .filter(|factors| factors.len() == half)
            .ok_or_else(|| self.wrong(name, &format!("of the rotation is no list of {half} numbers")))
    }

    /// By how much Llama 3.1 divides each frequency: those of waves longer than what was trained by `factor`, those of short
    /// ones not at all, others in between.
    fn llama_factors(&self) -> Result<Vec<f32>, Error> {
        let (factor, low, high) =
            (self.rope_needed("factor")?, self.rope_needed("low_freq_factor")?, self.rope_needed("high_freq_factor")?);
        let (trained, base) = (self.rope_trained()?, self.rope_base()?);
        let each = |i: u64| {
            let wave = std::f64::consts::TAU * base.powf(2.0 * i as f64 / self.head as f64);
            let stays = ((trained / wave - low) / (high - low)).clamp(0.0, 1.0);
            ((1.0 - stays) / factor + stays).recip() as f32
        };
        Ok((0..self.head / 2).map(each).collect())
    }
}
