//! The files of sentence-transformers beside a model's: how its states become the vectors of texts.

use super::{json_if_there, wrong};
use crate::engine::gguf::Error;
use serde::Deserialize;
use serde_json::{Map, Value};
use std::path::{Component, Path};

/// What is done with the states; nothing, where the model is there to answer.
#[derive(Debug, Default)]
pub(super) struct Sentences {
    /// GGUF's number for the kind of pooling.
    pub pooling: Option<u32>,
    /// Tokens that texts are cut to.
    pub tokens: Option<u64>,
    /// Whether texts lose their case before all else.
    pub lowercase: bool,
}

#[derive(Deserialize)]
struct Module {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    path: String,
}

/// Its names for kinds of pooling that GGUF has, as older and newer files spell them.
const POOLINGS: [(&str, &str, u32); 3] = [
    ("pooling_mode_mean_tokens", "mean", 1),
    ("pooling_mode_cls_token", "cls", 2),
    ("pooling_mode_lasttoken", "lasttoken", 3),
];

impl Sentences {
    /// What `modules.json` and the files that it names say.
    pub fn read(folder: &Path) -> Result<Sentences, Error> {
        let file = folder.join("modules.json");
        let Some(modules) = json_if_there::<Vec<Module>>(&file)? else { return Ok(Sentences::default()) };
        let mut sentences = Sentences::default();
        for Module { kind, path } in modules {
            match kind.rsplit('.').next().unwrap_or_default() {
                "Transformer" => sentences.limit(folder)?,
                "Pooling" => sentences.pooling = Some(pooling(folder, &path, &file)?),
                // Vectors are given the length one anyway.
                "Normalize" => {}
                _ => {
                    let problem = format!("it has a module of the type {kind:?}, which is not supported");
                    return Err(wrong(&file, problem));
                }
            }
        }
        Ok(sentences)
    }

    fn limit(&mut self, folder: &Path) -> Result<(), Error> {
        let found = ["bert", "roberta", "xlm-roberta", "camembert"]
            .iter()
            .find_map(|kind| {
                let file = folder.join(format!("sentence_{kind}_config.json"));
                let read = json_if_there::<Map<String, Value>>(&file);
                read.map(|fields| fields.map(|fields| (file, fields))).transpose()
            })
            .transpose()?;
        let Some((file, fields)) = found else { return Ok(()) };
        self.lowercase = fields.get("do_lower_case").and_then(Value::as_bool).unwrap_or(false);
        self.tokens = match fields.get("max_seq_length") {
            None | Some(Value::Null) => None,
            Some(value) => match value.as_u64() {
                Some(tokens) if tokens > 0 => Some(tokens),
                _ => {
                    return Err(wrong(
                        &file,
                        format!("\"max_seq_length\" is {value}, expected a whole number from 1 on"),
                    ));
                }
            },
        };
        Ok(())
    }
}

/// GGUF's number for the pooling that the configuration in the folder `path` says.
fn pooling(folder: &Path, path: &str, modules: &Path) -> Result<u32, Error> {
    if !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Err(wrong(modules, format!("the path {path:?} is none within the folder")));
    }
    let file = folder.join(path).join("config.json");
    let fields: Map<String, Value> = super::json(&file)?;
    let told: Vec<&str> = match fields.get("pooling_mode") {
        Some(Value::String(mode)) => vec![mode],
        Some(Value::Array(modes)) => modes.iter().map(|mode| mode.as_str().unwrap_or_default()).collect(),
        _ => {
            let set = fields.iter().filter(|(name, value)| name.starts_with("pooling_mode_") && **value == true);
            set.map(|(name, _)| name.as_str()).collect()
        }
    };
    let known = |mode: &str| POOLINGS.iter().find(|(long, short, _)| [*long, *short].contains(&mode));
    match *told {
        [] => Err(wrong(&file, "it sets no \"pooling_mode\"")),
        [mode] => match known(mode) {
            Some(&(.., number)) => Ok(number),
            None => Err(wrong(&file, format!("the pooling {mode:?} is not supported"))),
        },
        _ => {
            Err(wrong(&file, format!("several poolings, {}, one after the other, are not supported", told.join(", "))))
        }
    }
}
