use super::{Error, Header};
use std::collections::BTreeMap;

/// What a model file is, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Which forward pass it needs, such as `qwen2`.
    pub architecture: String,
    /// How many parameters it has.
    pub parameters: u64,
    /// How its weights are stored, such as `Q4_K_M`.
    pub quantisation: String,
    /// Tokens that it was trained to attend to.
    pub context_train: u64,
    /// What its makers call it.
    pub name: Option<String>,
    /// Its licence as the file has it, such as `apache-2.0`.
    pub licence: Option<String>,
}

impl Header {
    /// What this file is.
    ///
    /// # Errors
    /// When the file does not name its architecture or that one's context length, as vocabularies alone do not.
    pub fn summary(&self) -> Result<Summary, Error> {
        let metadata = self.metadata();
        let architecture: &str = metadata.get("general.architecture")?;
        let text = |key| Ok::<_, Error>(metadata.find::<&str>(key)?.map(str::to_owned));
        Ok(Summary {
            architecture: architecture.to_owned(),
            parameters: self.tensors().iter().map(|tensor| tensor.elements()).fold(0, u64::saturating_add),
            quantisation: self.quantisation()?,
            context_train: metadata.get(&format!("{architecture}.context_length"))?,
            name: text("general.name")?,
            licence: text("general.license")?,
        })
    }

    /// The name of its mix of kinds; where the file does not tell, the kind that most of its numbers are stored as.
    fn quantisation(&self) -> Result<String, Error> {
        if let Some(name) = self.metadata().find("general.file_type")?.and_then(file_type) {
            return Ok(name.to_owned());
        }
        let mut elements = BTreeMap::new();
        for tensor in self.tensors() {
            let sum: &mut u64 = elements.entry(tensor.kind).or_default();
            *sum = sum.saturating_add(tensor.elements());
        }
        let commonest = elements.into_iter().max_by_key(|&(_, sum)| sum);
        Ok(commonest.map_or_else(|| "none".to_owned(), |(kind, _)| kind.to_string()))
    }
}

/// The names of llama.cpp's file types: mixes of kinds.
fn file_type(id: u32) -> Option<&'static str> {
    Some(match id {
        0 => "F32",
        1 => "F16",
        2 => "Q4_0",
        3 => "Q4_1",
        7 => "Q8_0",
        8 => "Q5_0",
        9 => "Q5_1",
        10 => "Q2_K",
        11 => "Q3_K_S",
        12 => "Q3_K_M",
        13 => "Q3_K_L",
        14 => "Q4_K_S",
        15 => "Q4_K_M",
        16 => "Q5_K_S",
        17 => "Q5_K_M",
        18 => "Q6_K",
        19 => "IQ2_XXS",
        20 => "IQ2_XS",
        21 => "Q2_K_S",
        22 => "IQ3_XS",
        23 => "IQ3_XXS",
        24 => "IQ1_S",
        25 => "IQ4_NL",
        26 => "IQ3_S",
        27 => "IQ3_M",
        28 => "IQ2_S",
        29 => "IQ2_M",
        30 => "IQ4_XS",
        31 => "IQ1_M",
        32 => "BF16",
        36 => "TQ1_0",
        37 => "TQ2_0",
        38 => "MXFP4_MOE",
        39 => "NVFP4",
        40 => "Q1_0",
        41 => "Q2_0",
        _ => return None,
    })
}
