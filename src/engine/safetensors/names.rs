//! What tensors are called here and in GGUF.

/// A tensor's name in GGUF without its `weight` or `bias`, for its name without that in a folder. `None`: it is not known.
pub(super) fn gguf(name: &str, architecture: &str) -> Option<String> {
    let name = ["model.language_model.", "language_model.model.", "model.", "language_model."]
        .iter()
        .find_map(|prefix| name.strip_prefix(prefix))
        .unwrap_or(name);
    let Some(rest) = name.strip_prefix("layers.") else {
        return match name {
            "embed_tokens" => Some("token_embd".into()),
            "norm" => Some("output_norm".into()),
            "lm_head" => Some("output".into()),
            _ => None,
        };
    };
    let (layer, part) = rest.split_once('.')?;
    let layer: u32 = layer.parse().ok()?;
    let part = match part {
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
    };
    Some(format!("blk.{layer}.{part}"))
}

/// Tensors that are computed here, belong to others, or scale what stays as it is: activations, keys and values.
pub(super) fn is_ignored(name: &str) -> bool {
    const ENDINGS: [&str; 7] = [
        ".rotary_emb.inv_freq",
        ".input_scale",
        ".input_global_scale",
        ".k_scale",
        ".v_scale",
        ".output_scale",
        ".q_scale",
    ];
    ENDINGS.iter().any(|ending| name.ends_with(ending))
}
