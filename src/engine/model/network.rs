use super::gemma::Gemma3;
use super::layers::Ends;
use super::llama::Llama;
use super::qwen2::Qwen2;
use super::qwen3::Qwen3;
use super::source::Source;
use super::{Architecture, Hyper, Workspace};
use crate::engine::Error;
use crate::engine::kernels::{Kernels, Step};

/// The weights of one of the architectures.
pub(super) enum Network<M, V> {
    Llama(Llama<M, V>),
    Qwen2(Qwen2<M, V>),
    Qwen3(Qwen3<M, V>),
    Gemma3(Gemma3<M, V>),
}

impl<M, V> Network<M, V> {
    /// Takes all weights from `source`; none where the model is no decoder.
    ///
    /// # Errors
    /// When a tensor is missing or unfit.
    pub(super) fn load<S>(source: &mut S, hyper: &Hyper) -> Result<Option<Self>, Error>
    where
        S: Source<Matrix = M, Vector = V>,
    {
        Ok(Some(match hyper.architecture {
            Architecture::Llama => Network::Llama(Llama::load(source, hyper)?),
            Architecture::Qwen2 => Network::Qwen2(Qwen2::load(source, hyper)?),
            Architecture::Qwen3 => Network::Qwen3(Qwen3::load(source, hyper)?),
            Architecture::Gemma3 => Network::Gemma3(Gemma3::load(source, hyper)?),
            Architecture::Bert | Architecture::NomicBert => return Ok(None),
        }))
    }

    pub(super) fn forward<K>(&self, k: &K, hyper: &Hyper, step: &Step, cache: &mut K::Cache, w: &mut Workspace<K>)
    where
        K: Kernels<Matrix = M, Buffer = V>,
    {
        match self {
            Network::Llama(llama) => llama.forward(k, hyper, step, cache, w),
            Network::Qwen2(qwen) => qwen.forward(k, hyper, step, cache, w),
            Network::Qwen3(qwen) => qwen.forward(k, hyper, step, cache, w),
            Network::Gemma3(gemma) => gemma.forward(k, hyper, step, cache, w),
        }
    }

    pub(super) fn ends(&self) -> &Ends<M, V> {
        match self {
            Network::Llama(llama) => llama.ends(),
            Network::Qwen2(qwen) => qwen.ends(),
            Network::Qwen3(qwen) => qwen.ends(),
            Network::Gemma3(gemma) => gemma.ends(),
        }
    }
}
