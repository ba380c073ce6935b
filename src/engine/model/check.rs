//! What a header tells before a weight is read.

use super::encoder::Encoder;
use super::network::Network;
use super::source::{self, Checker};
use super::{Architecture, Hyper};
use crate::engine::Error;
use crate::engine::footprint::OnCard;
use crate::engine::gguf::Header;
use crate::engine::kernels::KvKind;
use crate::engine::kernels::cuda::need::Needs;
use crate::engine::lora::Lora;

/// That the keys and values of a model can be stored so.
///
/// # Errors
/// They cannot.
pub(in crate::engine) fn check_kind(hyper: &Hyper, kind: KvKind) -> Result<(), Error> {
    let (head, architecture) = (hyper.head, hyper.architecture);
    if !kind.fits(head) {
        let problem = format!("heads of {head} dimensions cannot be stored as {}; take f16 or fp8", kind.name());
        return Err(Error::Unsupported(problem));
    }
    // Measured: a divergence of 6, where a Gemma's is 0.2.
    if (kind, architecture) == (KvKind::Q4, Architecture::Qwen2) {
        let problem = "the keys of a qwen2 stand out too far for four bits, as they have biases; take f16 or fp8";
        return Err(Error::Unsupported(problem.into()));
    }
    Ok(())
}

/// What a header was found to tell of.
pub(in crate::engine) struct Checked {
    /// The model's shape.
    pub hyper: Hyper,
    /// The number of floats in its vectors.
    pub floats: u64,
    /// Whether a card can serve it.
    pub on_card: OnCard,
}

/// The shape of a model, all of whose tensors are there, and no others, as are those that its adapters add to.
///
/// # Errors
/// When not; the key or tensor is named.
pub(in crate::engine) fn checked(header: &Header, adapters: &[Lora]) -> Result<Checked, Error> {
    let hyper = Hyper::of(header)?;
    let mut checker = Checker::new(header, adapters);
    Network::load(&mut checker, &hyper)?;
    Encoder::load(&mut checker, &hyper)?;
    checker.finish()?;
    let Checker { floats, needs, mut problem, .. } = checker;
    if hyper.architecture.is_encoder() {
        problem = Some(format!("{} models run on the processor", hyper.architecture.name()));
    }
    if !adapters.is_empty() {
        problem = Some(source::NOT_HERE.into());
    }
    let on_card = match problem {
        Some(problem) => OnCard::No(problem),
        None => OnCard::Yes(Needs {
            width: hyper.width,
            queries: hyper.queries(),
            keys: hyper.keys(),
            hidden: hyper.hidden,
            head: hyper.head,
            kv_heads: hyper.kv_heads,
            layers: hyper.layers,
            vocabulary: hyper.vocabulary,
            ..needs
        }),
    };
    Ok(Checked { hyper, floats, on_card })
}
