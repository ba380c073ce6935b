//! Images that are not here: pulled once that is allowed, and written down.

use super::Stacks;
use super::error::Error;
use super::spec::Spec;
use crate::docker::{Pulled, Registry};
use crate::egress::{self, Class, Initiator, Wish};
use tokio_util::sync::CancellationToken;

/// Makes sure that an image is here: one that is, is not asked for again. The engine is told to pull once the owner's
/// policy lets it; how much came, and what, goes into the ledger.
pub(super) async fn ensure(
    stacks: &Stacks,
    stack: &str,
    spec: Option<&Spec>,
    image: &str,
    cancel: &CancellationToken,
    progress: &impl Fn(String),
) -> Result<(), Error> {
    let (docker, egress) = (&stacks.0.docker, &stacks.0.egress);
    if docker.has_image(image).await? {
        return Ok(());
    }
    let service = spec.into_iter().flat_map(|spec| &spec.services).find(|service| service.container.image == image);
    let service = service.map(|service| service.name.clone()).unwrap_or_default();
    let initiator = Initiator::Stack { stack: stack.into(), service };
    let Registry { host, port } = Registry::of(image);
    let wish = Wish::new(Class::ImagePull, initiator, &host, port, format!("the image {image}"));
    let refused = |why: String| Error::Egress(format!("the image {image} cannot be pulled: {why}"));
    let wish = wish.map_err(refused)?;
    progress(format!("asking whether {image} may be pulled from {host}: the Ledger page tells"));
    let admitted = async { egress.entrust(egress.admit(wish).await?).await };
    let entrusted = tokio::select! {
        admitted = admitted => admitted.map_err(|error: egress::Error| refused(error.to_string()))?,
        () = cancel.cancelled() => return Err(Error::Superseded),
    };
    progress(format!("pulling {image}"));
    let mut last = Pulled::default();
    let pull = docker.pull_image(image, |pulled| {
        last.clone_from(pulled);
        if let Some(far) = pulled.far() {
            progress(format!("pulling {image}: {far}"));
        }
    });
    let done = tokio::select! {
        pulled = pull => pulled.map_err(Error::from),
        cut = entrusted.cut() => Err(Error::Egress(format!("the pull of {image} was {cut}"))),
        () = cancel.cancelled() => Err(Error::Superseded),
    };
    let how = match (&done, &last.digest) {
        (Ok(()), Some(digest)) => format!("pulled {digest}"),
        (Ok(()), None) => "pulled".into(),
        (Err(error), _) => error.to_string(),
    };
    entrusted.close(last.bytes(), how);
    done
}
