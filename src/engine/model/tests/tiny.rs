//! Small models with random weights, and the plainest way to compute them: straight loops in 64 bits.

use crate::engine::gguf::{Gguf, Writer};
use crate::engine::quant::Format;
use crate::engine::quant::tests::{Random, random_row};
use half::{bf16, f16};
use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

/// A small model. What isn't said is as the architecture has it.
#[derive(Debug, Clone)]
pub struct Tiny {
    pub architecture: &'static str,
    pub format: Format,
    pub vocabulary: usize,
    pub width: usize,
    pub layers: usize,
    pub heads: usize,
    pub kv_heads: usize,
    pub head: usize,
    pub hidden: usize,
    pub window: Option<usize>,
    pub tied: bool,
    /// Factors of the frequencies, as Llama 3.1 has them.
    pub factors: bool,
    /// Positions are divided by this.
    pub linear: Option<f64>,
    pub softcap: Option<f64>,
    pub seed: u64,
}

pub const EPS: f32 = 1e-5;
pub const BASE: f64 = 500.0;
pub const BASE_WINDOWED: f64 = 50.0;

impl Tiny {
    pub fn new(architecture: &'static str) -> Tiny {
        Tiny {
            architecture,
            format: Format::F32,
            vocabulary: 50,
            width: 32,
            layers: if architecture == "gemma3" { 7 } else { 2 },
            heads: 4,
            kv_heads: 2,
            head: if architecture == "gemma3" { 12 } else { 8 },
            hidden: 64,
            window: if architecture == "gemma3" { Some(5) } else { None },
            tied: architecture == "gemma3",
            factors: false,
            linear: None,
            softcap: None,
            seed: 1,
        }
    }

    /// The file, as it would be on disk.
    pub fn writer(&self) -> Writer<'static> {
        let mut w = Writer::new();
        let key = |name: &str| format!("{}.{name}", self.architecture);
        w.set("general.architecture", self.architecture);
        w.set(&key("context_length"), 128_u32);
        w.set(&key("embedding_length"), self.width as u32);
        w.set(&key("block_count"), self.layers as u32);
        w.set(&key("feed_forward_length"), self.hidden as u32);
        w.set(&key("attention.head_count"), self.heads as u32);
        w.set(&key("attention.head_count_kv"), self.kv_heads as u32);
        w.set(&key("attention.key_length"), self.head as u32);
        w.set(&key("attention.value_length"), self.head as u32);
        w.set(&key("attention.layer_norm_rms_epsilon"), EPS);
        w.set(&key("rope.freq_base"), BASE as f32);
        if self.architecture == "gemma3" {
            w.set(&key("rope.freq_base_swa"), BASE_WINDOWED as f32);
        }
        if let Some(window) = self.window {
            w.set(&key("attention.sliding_window"), window as u32);
        }
        if let Some(factor) = self.linear {
            w.set(&key("rope.scaling.type"), "linear");
            w.set(&key("rope.scaling.factor"), factor as f32);
        }
        if let Some(cap) = self.softcap {
            w.set(&key("final_logit_softcapping"), cap as f32);
            w.set(&key("attn_logit_softcapping"), cap as f32);
        }
        let mut random = Random(self.seed);
        for (name, dims) in self.tensors() {
            let dims_u64: Vec<u64> = dims.iter().map(|&dim| dim as u64).collect();
            if let [cols, rows] = dims[..] {
                let row = |_| {
                    match self.format {
                        // Of a size that keeps activations near one.
                        Format::F32 => floats(cols, &mut random, |x| x.to_le_bytes().to_vec()),
                        Format::F16 => floats(cols, &mut random, |x| f16::from_f32(x).to_le_bytes().to_vec()),
                        Format::BF16 => floats(cols, &mut random, |x| bf16::from_f32(x).to_le_bytes().to_vec()),
                        format => random_row(format, cols, random.next()),
                    }
                };
                let bytes: Vec<u8> = (0..rows).flat_map(row).collect();
                w.tensor(&name, &dims_u64, self.format.kind(), bytes);
            } else {
                let offset = if name.ends_with("bias") { 0.0 } else { 1.5 };
                let values: Vec<f32> = random.floats(dims[0]).iter().map(|x| x + offset).collect();
                w.tensor_f32(&name, &dims_u64, &values);
            }
        }
        w
    }

    /// Mapped from a file that vanishes with the mapping.
    pub fn gguf(&self) -> Arc<Gguf> {
        open(&self.writer())
    }

    /// Names and dimensions of all tensors, the innermost first.
    pub fn tensors(&self) -> Vec<(String, Vec<usize>)> {
        let (width, q, kv) = (self.width, self.heads * self.head, self.kv_heads * self.head);
        let mut tensors = vec![
            ("token_embd.weight".to_string(), vec![width, self.vocabulary]),
            ("output_norm.weight".to_string(), vec![width]),
        ];
        if !self.tied {
            tensors.push(("output.weight".to_string(), vec![width, self.vocabulary]));
        }
        if self.factors {
            tensors.push(("rope_freqs.weight".to_string(), vec![self.head / 2]));
        }
        for layer in 0..self.layers {
            let mut add = |name: &str, dims: &[usize]| tensors.push((format!("blk.{layer}.{name}"), dims.to_vec()));
            add("attn_norm.weight", &[width]);
            add("attn_q.weight", &[width, q]);
            add("attn_k.weight", &[width, kv]);
            add("attn_v.weight", &[width, kv]);
            add("attn_output.weight", &[q, width]);
            add("ffn_norm.weight", &[width]);
            add("ffn_gate.weight", &[width, self.hidden]);
            add("ffn_up.weight", &[width, self.hidden]);
            add("ffn_down.weight", &[self.hidden, width]);
            match self.architecture {
                "qwen2" => {
                    add("attn_q.bias", &[q]);
                    add("attn_k.bias", &[kv]);
                    add("attn_v.bias", &[kv]);
                }
                "qwen3" => {
                    add("attn_q_norm.weight", &[self.head]);
                    add("attn_k_norm.weight", &[self.head]);
                }
                "gemma3" => {
                    add("attn_q_norm.weight", &[self.head]);
                    add("attn_k_norm.weight", &[self.head]);
                    add("post_attention_norm.weight", &[width]);
                    add("post_ffw_norm.weight", &[width]);
                }
                _ => {}
            }
        }
        tensors
    }

    /// The logits after each of `tokens`, computed from the file's weights.
    pub fn reference(&self, gguf: &Gguf, tokens: &[u32]) -> Vec<Vec<f64>> {
        let gemma = self.architecture == "gemma3";
        let weights: HashMap<&str, Vec<f64>> = gguf
            .tensors()
            .iter()
            .map(|tensor| {
                let mut numbers = vec![0.0_f32; tensor.elements() as usize];
                Format::of(tensor.kind).unwrap().dequantise(&gguf.bytes(tensor), &mut numbers);
                (tensor.name.as_str(), numbers.iter().map(|&x| f64::from(x)).collect())
            })
            .collect();
        let get = |layer: usize, name: &str| &weights[format!("blk.{layer}.{name}").as_str()];
        let embedding = |token: u32| {
            let row = &weights["token_embd.weight"][token as usize * self.width..][..self.width];
            row.iter().map(|x| if gemma { x * (self.width as f64).sqrt() } else { *x }).collect::<Vec<f64>>()
        };
        let mut xs: Vec<Vec<f64>> = tokens.iter().map(|&token| embedding(token)).collect();
        for layer in 0..self.layers {
            let windowed = self.window.is_some() && (!gemma || layer % 6 < 5);
            let base = if gemma && windowed { BASE_WINDOWED } else { BASE };
            let rotate = |x: &mut [f64], position: usize| {
                for i in 0..self.head / 2 {
                    let factor = if self.factors { weights["rope_freqs.weight"][i] } else { 1.0 };
                    let stretch = if gemma && windowed { 1.0 } else { self.linear.unwrap_or(1.0) };
                    let angle = position as f64 / stretch / factor * base.powf(-(2.0 * i as f64) / self.head as f64);
                    let (a, b) = if self.architecture == "llama" { (2 * i, 2 * i + 1) } else { (i, i + self.head / 2) };
                    let (p, q) = (x[a], x[b]);
                    x[a] = p * angle.cos() - q * angle.sin();
                    x[b] = p * angle.sin() + q * angle.cos();
                }
            };
            let (mut qs, mut ks, mut vs) = (Vec::new(), Vec::new(), Vec::new());
            for (position, x) in xs.iter().enumerate() {
                let h = norm(x, get(layer, "attn_norm.weight"));
                let project = |name: &str| {
                    let mut y = product(get(layer, &format!("{name}.weight")), &h);
                    if self.architecture == "qwen2" {
                        add(&mut y, get(layer, &format!("{name}.bias")));
                    }
                    y
                };
                let heads = |mut y: Vec<f64>, norm_name: &str| {
                    for head in y.chunks_exact_mut(self.head) {
                        if gemma || self.architecture == "qwen3" {
                            let normed = norm(head, get(layer, norm_name));
                            head.copy_from_slice(&normed);
                        }
                        rotate(head, position);
                    }
                    y
                };
                qs.push(heads(project("attn_q"), "attn_q_norm.weight"));
                ks.push(halves(heads(project("attn_k"), "attn_k_norm.weight")));
                vs.push(halves(project("attn_v")));
            }
            for position in 0..xs.len() {
                let first = if windowed { (position + 1).saturating_sub(self.window.unwrap()) } else { 0 };
                let mut a = Vec::new();
                for head in 0..self.heads {
                    let kv = head / (self.heads / self.kv_heads) * self.head;
                    let q = &qs[position][head * self.head..][..self.head];
                    let scores: Vec<f64> = (first..=position)
                        .map(|at| {
                            let score = dot(q, &ks[at][kv..][..self.head]) / (self.head as f64).sqrt();
                            cap(score, self.softcap).exp()
                        })
                        .collect();
                    let total: f64 = scores.iter().sum();
                    for i in 0..self.head {
                        a.push((first..=position).map(|at| scores[at - first] / total * vs[at][kv + i]).sum());
                    }
                }
                let mut y = product(get(layer, "attn_output.weight"), &a);
                if gemma {
                    y = norm(&y, get(layer, "post_attention_norm.weight"));
                }
                let x = &mut xs[position];
                add(x, &y);
                let h = norm(x, get(layer, "ffn_norm.weight"));
                let gate = product(get(layer, "ffn_gate.weight"), &h);
                let up = product(get(layer, "ffn_up.weight"), &h);
                let act = |x: f64| match gemma {
                    true => 0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh()),
                    false => x / (1.0 + (-x).exp()),
                };
                let gated: Vec<f64> = gate.iter().zip(&up).map(|(&gate, up)| act(gate) * up).collect();
                let mut y = product(get(layer, "ffn_down.weight"), &gated);
                if gemma {
                    y = norm(&y, get(layer, "post_ffw_norm.weight"));
                }
                add(x, &y);
            }
        }
        let output = &weights[if self.tied { "token_embd.weight" } else { "output.weight" }];
        let logits = |x: &Vec<f64>| {
            let logits = product(output, &norm(x, &weights["output_norm.weight"]));
            logits.into_iter().map(|logit| cap(logit, self.softcap)).collect()
        };
        xs.iter().map(logits).collect()
    }
}

/// Maps what `writer` writes.
pub fn open(writer: &Writer) -> Arc<Gguf> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&writer.to_vec()).unwrap();
    Arc::new(Gguf::open(file.path()).unwrap())
}

fn floats(count: usize, random: &mut Random, bytes: impl Fn(f32) -> Vec<u8>) -> Vec<u8> {
    (0..count).flat_map(|_| bytes(random.float() * 2.0 / (count as f32).sqrt())).collect()
}

/// As the cache keeps it.
fn halves(x: Vec<f64>) -> Vec<f64> {
    x.into_iter().map(|x| f16::from_f64(x).to_f64()).collect()
}

fn cap(x: f64, cap: Option<f64>) -> f64 {
    cap.map_or(x, |cap| cap * (x / cap).tanh())
}

fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

fn product(matrix: &[f64], x: &[f64]) -> Vec<f64> {
    matrix.chunks_exact(x.len()).map(|row| dot(row, x)).collect()
}

fn add(x: &mut [f64], y: &[f64]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}

fn norm(x: &[f64], weight: &[f64]) -> Vec<f64> {
    let scale = (dot(x, x) / x.len() as f64 + f64::from(EPS)).sqrt().recip();
    x.iter().zip(weight).map(|(x, weight)| x * scale * weight).collect()
}
