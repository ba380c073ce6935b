use super::Error;
use super::gguf::Gguf;
use super::kernels::cuda::Image;
use super::lora::Lora;
use super::model::{Model, Options};
use super::tokenizer::Tokenizer;
use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;

/// A model and its tokenizer, made ready side by side.
///
/// # Errors
/// When the file asks for what isn't supported, or contradicts itself: the tensor or key is named.
pub fn load(gguf: &Arc<Gguf>, options: Options) -> Result<(Tokenizer, Model), Error> {
    load_adapted(gguf, &[], options)
}

/// The same with adapters.
///
/// # Errors
/// As [`load`], and when an adapter does not fit the model or the device.
pub fn load_adapted(gguf: &Arc<Gguf>, adapters: &[Lora], options: Options) -> Result<(Tokenizer, Model), Error> {
    load_kept(gguf, adapters, options, None)
}

/// The same with weights that are kept in an image.
///
/// # Errors
/// As [`load_adapted`].
pub fn load_kept(
    gguf: &Arc<Gguf>,
    adapters: &[Lora],
    options: Options,
    image: Option<Image>,
) -> Result<(Tokenizer, Model), Error> {
    thread::scope(|scope| {
        let tokenizer = scope.spawn(|| Tokenizer::from_gguf(gguf));
        let model = Model::load_kept(gguf.clone(), adapters, options, image);
        let tokenizer = tokenizer.join().unwrap_or_else(|panic| resume_unwind(panic));
        Ok((tokenizer?, model?))
    })
}
