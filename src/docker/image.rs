//! Images: what is here, and pulling what is not.

use super::error::status;
use super::{Docker, Error};
use crate::config::Bytes;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;

impl Docker {
    /// Whether an image is here.
    ///
    /// # Errors
    /// When no engine answers, or it fails.
    pub async fn has_image(&self, image: &str) -> Result<bool, Error> {
        match self.client()?.inspect_image(image).await {
            Ok(_) => Ok(true),
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(Error::of(format!("look for the image {image}"))(error)),
        }
    }

    /// Has the engine pull an image. `progress` is told how far it is. Dropping the future gives the pull up; the engine
    /// keeps the layers that had arrived.
    ///
    /// # Errors
    /// When no engine answers, or it cannot pull the image.
    pub async fn pull_image(&self, image: &str, mut progress: impl FnMut(&Pulled)) -> Result<(), Error> {
        let client = self.client()?;
        let image = tagged(image);
        let options = CreateImageOptionsBuilder::new().from_image(&image).build();
        let mut lines = client.create_image(Some(options), None, None);
        let mut pulled = Pulled::default();
        while let Some(line) = lines.next().await {
            pulled.note(line.map_err(Error::of(format!("pull the image {image}")))?);
            progress(&pulled);
        }
        Ok(())
    }
}

impl Docker {
    /// The identifier of an image that is here: the digest of all that it is.
    ///
    /// # Errors
    /// When no engine answers, or the image is not here.
    pub async fn image_id(&self, image: &str) -> Result<String, Error> {
        let found = self.client()?.inspect_image(image).await;
        let found = found.map_err(Error::of(format!("look for the image {image}")))?;
        Ok(found.id.unwrap_or_default())
    }
}

/// An image's name with its tag: without one, the engine would pull all there are.
fn tagged(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains(':') || image.contains('@') { image.to_owned() } else { format!("{image}:latest") }
}

/// Where an image comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registry {
    /// The host that is asked.
    pub host: String,
    /// The port there.
    pub port: u16,
}

impl Registry {
    /// The registry that an image's name says, or Docker's own.
    pub fn of(image: &str) -> Self {
        let named = image.split_once('/').map(|(first, _)| first);
        let named = named.filter(|first| first.contains(['.', ':']) || *first == "localhost");
        match named {
            None | Some("docker.io" | "index.docker.io") => Self { host: "registry-1.docker.io".into(), port: 443 },
            Some(named) => {
                let (host, port) = match named.rsplit_once(':') {
                    Some((host, port)) if !port.ends_with(']') => (host, port.parse().unwrap_or(443)),
                    _ => (named, 443),
                };
                Self { host: host.into(), port }
            }
        }
    }
}

/// How far a pull is, as the engine tells it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pulled {
    /// Bytes of the layers that are downloaded, by layer: those that arrived, and all.
    layers: HashMap<String, (u64, u64)>,
    /// The image's digest, once it is told.
    pub digest: Option<String>,
}

impl Pulled {
    fn note(&mut self, line: CreateImageInfo) {
        if let Some(digest) = line.status.as_deref().and_then(|status| status.strip_prefix("Digest: ")) {
            self.digest = Some(digest.to_owned());
        }
        let Some(id) = line.id else { return };
        let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        match line.status.as_deref() {
            Some("Downloading") => {
                let detail = line.progress_detail.unwrap_or_default();
                if let (Some(current), Some(total)) = (bytes(detail.current), bytes(detail.total)) {
                    self.layers.insert(id, (current, total));
                }
            }
            Some("Download complete" | "Pull complete") => {
                if let Some(layer) = self.layers.get_mut(&id) {
                    layer.0 = layer.1;
                }
            }
            _ => {}
        }
    }

    /// Bytes of layers that arrived.
    pub fn bytes(&self) -> u64 {
        self.layers.values().map(|layer| layer.0).sum()
    }

    /// How far the download is, for people; none before its first byte.
    pub fn far(&self) -> Option<String> {
        let total = self.layers.values().map(|layer| layer.1).sum();
        (total > 0).then(|| format!("{} of {}", Bytes(self.bytes()), Bytes(total)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard::models::ProgressDetail;

    #[test]
    fn an_image_is_pulled_by_one_tag() {
        let check = |image, expected| assert_eq!(tagged(image), expected);
        check("chromadb/chroma", "chromadb/chroma:latest");
        check("chromadb/chroma:1.5.9", "chromadb/chroma:1.5.9");
        check("localhost:5000/chroma", "localhost:5000/chroma:latest");
        check("localhost:5000/chroma:1", "localhost:5000/chroma:1");
        check("chroma@sha256:00", "chroma@sha256:00");
    }

    #[test]
    fn an_image_says_its_registry() {
        let check = |image, host: &str, port| assert_eq!(Registry::of(image), Registry { host: host.into(), port });
        check("chroma", "registry-1.docker.io", 443);
        check("chromadb/chroma:1.5.9", "registry-1.docker.io", 443);
        check("docker.io/chromadb/chroma", "registry-1.docker.io", 443);
        check("ghcr.io/a/b@sha256:00", "ghcr.io", 443);
        check("localhost/a", "localhost", 443);
        check("127.0.0.1:5000/a:1", "127.0.0.1", 5000);
        check("[2a0e::1]:5000/a", "[2a0e::1]", 5000);
        check("[2a0e::1]/a", "[2a0e::1]", 443);
    }

    #[test]
    fn progress_is_the_sum_over_layers() {
        let mut layers = Pulled::default();
        assert_eq!(layers.far(), None);
        let mut note = |id: &str, status: &str, current: Option<i64>| {
            let detail = current.map(|current| ProgressDetail { current: Some(current), total: Some(4 << 20) });
            layers.note(CreateImageInfo {
                id: Some(id.into()),
                status: Some(status.into()),
                progress_detail: detail,
                error_detail: None,
            });
            layers.far()
        };
        assert_eq!(note("a", "Pulling fs layer", None), None);
        assert_eq!(note("a", "Downloading", Some(1 << 20)).unwrap(), "1 MiB of 4 MiB");
        assert_eq!(note("b", "Downloading", Some(1 << 20)).unwrap(), "2 MiB of 8 MiB");
        assert_eq!(note("b", "Download complete", None).unwrap(), "5 MiB of 8 MiB");
        // Extracting counts bytes of its own.
        assert_eq!(note("b", "Extracting", Some(1)).unwrap(), "5 MiB of 8 MiB");
        assert_eq!(note("a", "Downloading", Some(-1)).unwrap(), "5 MiB of 8 MiB");
    }
}
