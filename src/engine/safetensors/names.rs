//! What tensors are called here and in GGUF.

/// What a class of models puts before the names of its inner one's tensors.
const PREFIXES: [&str; 8] = [
    "model.language_model.",
    "language_model.model.",
    "model.",
    "language_model.",
    "bert.",
    "roberta.",
    "nomic_bert.",
    "encoder.",
];

/// A tensor's name in GGUF without its `weight` or `bias`, for its name without that in a folder. `None`: it is not known.
pub(in crate::engine) fn gguf(name: &str, architecture: &str) -> Option<String> {
    let strip = |name| PREFIXES.iter().find_map(|prefix| str::strip_prefix(name, prefix)).unwrap_or(name);
    // An encoder may be in a model.
    let name = strip(strip(name));
    let Some(rest) = name.strip_prefix("layers.").or_else(|| name.strip_prefix("layer.")) else {
        return match name {
            "embed_tokens" | "embeddings.word_embeddings" => Some("token_embd".into()),
            "embeddings.position_embeddings" => Some("position_embd".into()),
            "embeddings.token_type_embeddings" => Some("token_types".into()),
            "embeddings.LayerNorm" | "emb_ln" => Some("token_embd_norm".into()),
            "norm" => Some("output_norm".into()),
            "lm_head" => Some("output".into()),
            _ => None,
        };
    };
    let (layer, part) = rest.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let part = match architecture {
        "bert" => bert(part),
        "nomic-bert" => nomic(part).or_else(|| decoder(part, architecture)),
        _ => decoder(part, architecture),
    };
    part.map(|part| format!("blk.{layer}.{part}"))
}

fn decoder(part: &str, architecture: &str) -> Option<&'static str> {
    Some(match part {
        "post_attention_layernorm" if architecture == "gemma3" => "post_attention_norm",
        "pre_feedforward_layernorm" => "ffn_norm",
        "post_feedforward_layernorm" => "post_ffw_norm",
        "input_layernorm" => "attn_norm",
        "post_attention_layernorm" => "ffn_norm",
        "self_attn.q_proj" => "attn_q",
        "self_attn.k_proj" => "attn_k",
        "self_attn.v_proj" => "attn_v",
        "self_attn.o_proj" => "attn_output",
        "self_attn.q_norm" => "attn_q_norm",
        "self_attn.k_norm" => "attn_k_norm",
        "mlp.gate_proj" => "ffn_gate",
        "mlp.up_proj" => "ffn_up",
        "mlp.down_proj" => "ffn_down",
        _ => return None,
    })
}

fn bert(part: &str) -> Option<&'static str> {
    Some(match part {
        "attention.self.query" => "attn_q",
        "attention.self.key" => "attn_k",
        "attention.self.value" => "attn_v",
        "attention.output.dense" => "attn_output",
        "attention.output.LayerNorm" => "attn_output_norm",
        "intermediate.dense" => "ffn_up",
        "output.dense" => "ffn_down",
        "output.LayerNorm" => "layer_output_norm",
        _ => return None,
    })
}

/// As Nomic's code has them, and those of transformers' that are not a decoder's.
fn nomic(part: &str) -> Option<&'static str> {
    Some(match part {
        "attn.Wqkv" => "attn_qkv",
        "attn.out_proj" => "attn_output",
        "norm1" | "post_attention_layernorm" => "attn_output_norm",
        "norm2" | "post_mlp_layernorm" => "layer_output_norm",
        "mlp.fc11" => "ffn_up",
        "mlp.fc12" => "ffn_gate",
        "mlp.fc2" => "ffn_down",
        _ => return None,
    })
}

/// Tensors that are computed here, belong to others, or scale what stays as it is: activations, keys and values. Of
/// encoders what comes behind the states, too, for tasks that are not embedding's.
pub(super) fn is_ignored(name: &str, encodes: bool) -> bool {
    const ENDINGS: [&str; 7] = [
        ".rotary_emb.inv_freq",
        ".input_scale",
        ".input_global_scale",
        ".k_scale",
        ".v_scale",
        ".output_scale",
        ".q_scale",
    ];
    const HEADS: [&str; 5] = ["pooler.", "cls.", "lm_head.", "embeddings.position_ids", "embeddings.token_type_ids"];
    let inner =
        ["bert.", "roberta.", "nomic_bert."].iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name);
    ENDINGS.iter().any(|ending| name.ends_with(ending)) || encodes && HEADS.iter().any(|head| inner.starts_with(head))
}
