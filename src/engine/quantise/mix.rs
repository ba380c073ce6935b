use crate::engine::Error;
use crate::engine::gguf::{Header, Tensor};
use crate::engine::model::Hyper;
use crate::engine::quant::Format;

/// Mixes of formats by llama.cpp's names and rules: most tensors in one format, those that suffer most in better ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, non_camel_case_types, reason = "the names are llama.cpp's")]
pub enum Mix {
    F32,
    F16,
    BF16,
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2_K,
    Q3_K_S,
    Q3_K_M,
    Q3_K_L,
    Q4_K_S,
    Q4_K_M,
    Q5_K_S,
    Q5_K_M,
    Q6_K,
    IQ4_NL,
    IQ4_XS,
    NVFP4,
}

use Mix::*;

/// Name, the format of most tensors, llama.cpp's number.
const MIXES: [(&str, Mix, Format, u32); 20] = [
    ("f32", F32, Format::F32, 0),
    ("f16", F16, Format::F16, 1),
    ("bf16", BF16, Format::BF16, 32),
    ("q4_0", Q4_0, Format::Q4_0, 2),
    ("q4_1", Q4_1, Format::Q4_1, 3),
    ("q5_0", Q5_0, Format::Q5_0, 8),
    ("q5_1", Q5_1, Format::Q5_1, 9),
    ("q8_0", Q8_0, Format::Q8_0, 7),
    ("q2_k", Q2_K, Format::Q2K, 10),
    ("q3_k_s", Q3_K_S, Format::Q3K, 11),
    ("q3_k_m", Q3_K_M, Format::Q3K, 12),
    ("q3_k_l", Q3_K_L, Format::Q3K, 13),
    ("q4_k_s", Q4_K_S, Format::Q4K, 14),
    ("q4_k_m", Q4_K_M, Format::Q4K, 15),
    ("q5_k_s", Q5_K_S, Format::Q5K, 16),
    ("q5_k_m", Q5_K_M, Format::Q5K, 17),
    ("q6_k", Q6_K, Format::Q6K, 18),
    ("iq4_nl", IQ4_NL, Format::IQ4NL, 25),
    ("iq4_xs", IQ4_XS, Format::IQ4XS, 30),
    ("nvfp4", NVFP4, Format::NVFP4, 39),
];

impl std::str::FromStr for Mix {
    type Err = String;

    fn from_str(name: &str) -> Result<Mix, String> {
        let found = MIXES.iter().find(|(known, ..)| name.eq_ignore_ascii_case(known));
        found.map(|&(_, mix, ..)| mix).ok_or_else(|| {
            let known: Vec<_> = MIXES.iter().map(|(known, ..)| *known).collect();
            format!("the types are {}", known.join(", "))
        })
    }
}

/// What the rules ask about a model.
struct Shape {
    layers: usize,
    /// Whether the table of embeddings is the way back to tokens, too.
    tied: bool,
    /// Heads of queries that share one of keys.
    group: usize,
}

impl Mix {
    fn entry(self) -> (Format, u32) {
        let found = MIXES.iter().find(|(_, mix, ..)| *mix == self);
        found.map_or((Format::F32, 0), |&(_, _, format, file_type)| (format, file_type))
    }

    /// llama.cpp's number.
    pub(super) fn file_type(self) -> u32 {
        self.entry().1
    }

    /// The format of each tensor, or `None` where it stays as it is.
    pub(super) fn formats(self, header: &Header) -> Result<Vec<Option<Format>>, Error> {
        let hyper = Hyper::of(header)?;
        let tied = header.tensor("output.weight").is_none();
        let shape = Shape { layers: hyper.layers, tied, group: hyper.heads / hyper.kv_heads };
        let format = |tensor: &Tensor| is_stored(tensor).then(|| fitting(self.format(&tensor.name, &shape), tensor));
        Ok(header.tensors().iter().map(format).collect())
    }

    fn format(self, name: &str, shape: &Shape) -> Format {
        let base = self.entry().0;
        if matches!(self, F32 | F16 | BF16) {
            return base;
        }
        if name == "output.weight" || shape.tied && name == "token_embd.weight" {
            return if base == Format::Q8_0 { base } else { Format::Q6K };
        }
        let Some((layer, part)) = in_layer(name) else {
            // Tables have no scale of the whole, without which the scales within NVFP4 do not reach far.
            return if base == Format::NVFP4 { Format::Q6K } else { base };
        };
        let n = shape.layers;
        let eighth = layer < n / 8;
        // The first and last layers and each third between them.
        let sensitive = eighth || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2;
        match (part, self) {
            ("attn_v.weight" | "ffn_down.weight", Q4_K_M | Q5_K_M) if sensitive => Format::Q6K,
            ("attn_v.weight", Q2_K) => {
                if shape.group >= 4 {
                    Format::Q4K
                } else {
                    Format::Q3K
                }
            }
            ("attn_v.weight", Q3_K_M) => {
                if layer < 2 {
                    Format::Q5K
                } else {
                    Format::Q4K
                }
            }
            ("attn_v.weight", IQ4_NL | IQ4_XS) if shape.group >= 4 => Format::Q5K,
            ("attn_v.weight", Q4_K_S) if layer < 4 => Format::Q5K,
            ("attn_v.weight" | "ffn_down.weight" | "attn_output.weight", Q3_K_L) => Format::Q5K,
            ("ffn_down.weight" | "attn_output.weight", Q2_K) => Format::Q3K,
            ("ffn_down.weight", Q3_K_M) => {
                if layer < n / 16 {
                    Format::Q5K
                } else {
                    Format::Q4K
                }
            }
            ("ffn_down.weight", IQ4_NL | IQ4_XS | Q4_K_S) if eighth => Format::Q5K,
            ("attn_output.weight", Q3_K_M) => Format::Q4K,
            _ => base,
        }
    }
}

/// The layer and the rest of `blk.3.attn_q.weight`.
fn in_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, part) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, part))
}

/// Matrices that are multiplied with, and tables; what is small and sensitive stays as it is.
pub(super) fn is_stored(tensor: &Tensor) -> bool {
    let name = tensor.name.as_str();
    let small = ["position_embd.weight", "token_types.weight"].contains(&name) || name.ends_with("_norm.weight");
    tensor.dims[1..].iter().any(|&dim| dim > 1) && name.ends_with("weight") && !small
}

/// The format, or one like it whose blocks a row is made of.
fn fitting(format: Format, tensor: &Tensor) -> Format {
    let fits = |format: &Format| tensor.dims[0].is_multiple_of(format.block_len() as u64);
    let smaller = match format {
        Format::Q2K | Format::Q3K => Format::Q4_0,
        Format::Q4K => Format::Q5_0,
        Format::Q5K => Format::Q5_1,
        Format::IQ4XS => Format::IQ4NL,
        _ => Format::Q8_0,
    };
    [format, smaller].into_iter().find(fits).unwrap_or(Format::F16)
}
