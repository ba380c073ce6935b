use super::keys::Keys;
use super::pooling::Pooling;
use super::rope::Rope;
use crate::engine::Error;
use crate::engine::gguf::{Header, Value};
use crate::engine::kernels::cpu::MAX_HEAD;

/// Beyond these a header is not believed: several times what the largest models have.
const MAX_LAYERS: u64 = 1024;
const MAX_HEADS: u64 = 1024;
const MAX_WIDTH: u64 = 1 << 17;
const MAX_HIDDEN: u64 = 1 << 20;
const MAX_VOCABULARY: u64 = 1 << 22;
const MAX_CONTEXT: u64 = 1 << 28;

/// Which forward pass a model needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Architecture {
    /// Llama 2 and 3, Mistral, and who follows them.
    Llama,
    /// Qwen 2 and 2.5.
    Qwen2,
    /// Qwen 3.
    Qwen3,
    /// Gemma 3.
    Gemma3,
    /// BERT, an encoder.
    Bert,
    /// Nomic's BERT, an encoder.
    NomicBert,
}

impl Architecture {
    /// All of them.
    pub const ALL: [Architecture; 6] = [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Qwen3,
        Architecture::Gemma3,
        Architecture::Bert,
        Architecture::NomicBert,
    ];

    /// Its name in model files.
    pub fn name(self) -> &'static str {
        match self {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
            Architecture::Gemma3 => "gemma3",
            Architecture::Bert => "bert",
            Architecture::NomicBert => "nomic-bert",
        }
    }

    /// Whether it sees whole texts at once, back and forth, and remembers nothing of them: it embeds, and cannot answer.
    pub fn is_encoder(self) -> bool {
        matches!(self, Architecture::Bert | Architecture::NomicBert)
    }

    /// The one that a file says it needs.
    ///
    /// # Errors
    /// When it is another, or none.
    pub fn of(header: &Header) -> Result<Architecture, Error> {
        let name: &str = header.metadata().get("general.architecture")?;
        Architecture::ALL.into_iter().find(|architecture| architecture.name() == name).ok_or_else(|| {
            let known = Architecture::ALL.map(Architecture::name).join(", ");
            Error::Unsupported(format!("the architecture {name:?} is not supported; these are: {known}"))
        })
    }
}

/// The figures of a model's shape, checked: none is zero or absurd, and they fit each other.
#[derive(Debug, Clone, PartialEq)]
pub struct Hyper {
    /// The forward pass.
    pub architecture: Architecture,
    /// Tokens that there are.
    pub vocabulary: usize,
    /// Positions that it was trained for.
    pub context: usize,
    /// Length of a token's activations.
    pub width: usize,
    /// Layers.
    pub layers: usize,
    /// Heads of queries.
    pub heads: usize,
    /// Heads of keys and values.
    pub kv_heads: usize,
    /// Dimensions of a head.
    pub head: usize,
    /// Length of the feed-forward network's activations.
    pub hidden: usize,
    /// What norms add to the mean square.
    pub eps: f32,
    /// Positions that a token sees in layers with a sliding window.
    pub window: Option<usize>,
    /// Whether each layer has that window.
    pub windowed: Vec<bool>,
    /// How positions turn queries and keys.
    pub rope: Rope,
    /// The same, in layers with a window.
    pub rope_windowed: Rope,
    /// What attention's scores are multiplied with, besides the gain of the rotation.
    pub attention_scale: f32,
    /// What attention's scores are squashed to.
    pub attention_softcap: Option<f32>,
    /// What logits are squashed to.
    pub logit_softcap: Option<f32>,
    /// Sentences that a text may consist of, where embeddings tell which one a token belongs to; else none.
    pub sentences: usize,
    /// How the vectors of a text's tokens become its own, where that is what the model is for.
    pub pooling: Option<Pooling>,
}

impl Hyper {
    /// The figures that a file's header tells.
    ///
    /// # Errors
    /// When the architecture isn't known, or a figure is missing, impossible or asks for what isn't supported.
    pub fn of(header: &Header) -> Result<Hyper, Error> {
        let architecture = Architecture::of(header)?;
        let keys = Keys { metadata: header.metadata(), architecture: architecture.name() };
        if keys.find("expert_count")?.unwrap_or(0_u64) > 0 {
            return Err(Error::Unsupported("mixtures of experts are not supported".into()));
        }
        let context = keys.count("context_length", None, MAX_CONTEXT)?;
        let width = keys.count("embedding_length", None, MAX_WIDTH)?;
        let layers = keys.count("block_count", None, MAX_LAYERS)?;
        let heads = keys.count("attention.head_count", None, MAX_HEADS)?;
        let kv_heads = keys.count("attention.head_count_kv", Some(heads), MAX_HEADS)?;
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("{heads} heads of queries cannot share {kv_heads} heads of keys evenly");
            return Err(Error::Inconsistent(problem));
        }
        let encodes = architecture.is_encoder();
        if encodes && kv_heads != heads {
            return Err(Error::Unsupported(format!("{kv_heads} heads of keys for {heads} of queries in an encoder")));
        }
        if keys.find("attention.causal")?.unwrap_or(!encodes) == encodes {
            let sees = if encodes { "only what is before it" } else { "what is after it, too" };
            return Err(Error::Unsupported(format!("a {} that sees {sees} is not supported", architecture.name())));
        }
        let head = head(&keys, width, heads)?;
        let gemma = architecture == Architecture::Gemma3;
        let window = match architecture {
            Architecture::Llama | Architecture::Gemma3 => keys.find("attention.sliding_window")?,
            _ => None,
        };
        let window = window.filter(|&window: &u32| window > 0);
        let rope = Rope::of(&keys, context)?;
        if encodes && rope.is_far(usize::MAX) {
            return Err(Error::Unsupported(
                "rope scaling of the type \"longrope\" in an encoder is not supported".into(),
            ));
        }
        let scale = match architecture {
            // The 27B model alone scales by the width that a head would have if heads were as wide as the model.
            Architecture::Gemma3 if layers == 62 => (width as f32 / heads as f32).sqrt().recip(),
            _ => (head as f32).sqrt().recip(),
        };
        Ok(Hyper {
            architecture,
            vocabulary: vocabulary(header)?,
            context,
            width,
            layers,
            heads,
            kv_heads,
            head,
            hidden: keys.count("feed_forward_length", None, MAX_HIDDEN)?,
            eps: match encodes {
                true => keys.number("attention.layer_norm_epsilon", None, 0.0..=1.0)?,
                false => keys.number("attention.layer_norm_rms_epsilon", None, 0.0..=1.0)?,
            },
            window: window.map(|window| window as usize),
            windowed: windowed(&keys, layers, gemma, window.is_some())?,
            // Only what sees far is stretched in Gemma.
            rope_windowed: if gemma { Rope::plain(&keys, "rope.freq_base_swa")? } else { rope.clone() },
            rope,
            // Zero stands for none.
            attention_scale: match keys.number("attention.scale", Some(0.0), 0.0..=1e6)? {
                0.0 => scale,
                told => told,
            },
            attention_softcap: keys.softcap("attn_logit_softcapping")?,
            logit_softcap: keys.softcap("final_logit_softcapping")?,
            sentences: header.tensor("token_types.weight").map_or(0, |table| table.rows().min(MAX_HEADS) as usize),
            pooling: match Pooling::of(&keys)? {
                None if encodes => Some(Pooling::Mean),
                // A decoder that keeps a vector a token says so of its states, and is there to answer.
                Some(Pooling::Tokens) if !encodes => None,
                pooling => pooling,
            },
        })
    }

    /// Length of all heads' queries.
    pub fn queries(&self) -> usize {
        self.heads * self.head
    }

    /// Length of all heads' keys, and of their values.
    pub fn keys(&self) -> usize {
        self.kv_heads * self.head
    }

    /// Bytes that the keys and values of one token take in all layers; an encoder keeps none.
    pub fn kv_bytes(&self) -> u64 {
        if self.architecture.is_encoder() {
            return 0;
        }
        // Keys and values in halves.
        2 * 2 * self.layers as u64 * self.keys() as u64
    }
}

fn head(keys: &Keys, width: usize, heads: usize) -> Result<usize, Error> {
    let default = width.is_multiple_of(heads).then_some(width / heads);
    let head = keys.count("attention.key_length", default, MAX_HEAD as u64)?;
    let value = keys.count("attention.value_length", Some(head), MAX_HEAD as u64)?;
    if value != head {
        return Err(Error::Unsupported(format!("keys of {head} and values of {value} dimensions are not supported")));
    }
    let rotated = keys.count("rope.dimension_count", Some(head), MAX_HEAD as u64)?;
    if rotated != head {
        return Err(Error::Unsupported(format!("rotating {rotated} of a head's {head} dimensions is not supported")));
    }
    if !head.is_multiple_of(2) {
        return Err(Error::Inconsistent(format!("a head of {head} dimensions cannot be rotated in pairs")));
    }
    Ok(head)
}

/// The rows of the table of embeddings; the tokenizer may know fewer tokens, not more.
fn vocabulary(header: &Header) -> Result<usize, Error> {
    let Some(table) = header.tensor("token_embd.weight") else {
        return Err(Error::Inconsistent("the tensor token_embd.weight is missing".into()));
    };
    let rows = table.rows();
    if rows > MAX_VOCABULARY {
        return Err(Error::Inconsistent(format!("token_embd.weight has {rows} rows, more than {MAX_VOCABULARY}")));
    }
    if let Some(Value::Array(tokens)) = header.metadata().value("tokenizer.ggml.tokens")
        && tokens.len > rows
    {
        let problem = format!("the tokenizer has {} tokens, and token_embd.weight {rows} rows", tokens.len);
        return Err(Error::Inconsistent(problem));
    }
    Ok(rows as usize)
}

/// Which layers have a sliding window: the header tells one by one or by period; Gemma's default is five of six.
fn windowed(keys: &Keys, layers: usize, gemma: bool, window: bool) -> Result<Vec<bool>, Error> {
    const KEY: &str = "attention.sliding_window_pattern";
    if !window {
        return Ok(vec![false; layers]);
    }
    let key = keys.key(KEY);
    if let Some(Value::Array(_)) = keys.metadata.value(&key) {
        let pattern: Vec<bool> = keys.metadata.integers(&key)?.map(|windowed| windowed != 0).collect();
        if pattern.len() < layers {
            return Err(Error::Inconsistent(format!("{key:?} tells of {} layers, of {layers}", pattern.len())));
        }
        return Ok(pattern[..layers].to_vec());
    }
    let period = keys.find(KEY)?.unwrap_or(if gemma { 6_u32 } else { 0 }) as usize;
    Ok((0..layers).map(|layer| period == 0 || layer % period < period - 1).collect())
}
