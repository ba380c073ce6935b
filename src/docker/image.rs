//! Images: what is here, and pulling what is not.

use super::error::status;
use super::{Docker, Error};
use crate::config::Bytes;
use bollard::models::CreateImageInfo;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::StreamExt;
use std::collections::HashMap;

impl Docker {
    /// Makes sure that an image is here: one that is, is not asked for again. `progress` is told how far a pull is.
    /// Dropping the future gives a pull up; the engine keeps the layers that had arrived.
    ///
    /// # Errors
    /// When no engine answers, or it cannot pull the image.
    pub async fn ensure_image(&self, image: &str, mut progress: impl FnMut(String)) -> Result<(), Error> {
        let client = self.client()?;
        match client.inspect_image(image).await {
            Ok(_) => return Ok(()),
            Err(error) if status(&error) == Some(404) => {}
            Err(error) => return Err(Error::of(format!("look for the image {image}"))(error)),
        }
        let image = tagged(image);
        progress(format!("pulling {image}"));
        let options = CreateImageOptionsBuilder::new().from_image(&image).build();
        let mut lines = client.create_image(Some(options), None, None);
        let mut layers = Layers::default();
        while let Some(line) = lines.next().await {
            layers.note(line.map_err(Error::of(format!("pull the image {image}")))?);
            if let Some(far) = layers.far() {
                progress(format!("pulling {image}: {far}"));
            }
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

/// Bytes of the layers that are downloaded, by layer: those that arrived, and all.
#[derive(Debug, Default)]
struct Layers(HashMap<String, (u64, u64)>);

impl Layers {
    fn note(&mut self, line: CreateImageInfo) {
        let Some(id) = line.id else { return };
        let bytes = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok());
        match line.status.as_deref() {
            Some("Downloading") => {
                let detail = line.progress_detail.unwrap_or_default();
                if let (Some(current), Some(total)) = (bytes(detail.current), bytes(detail.total)) {
                    self.0.insert(id, (current, total));
                }
            }
            Some("Download complete" | "Pull complete") => {
                if let Some(layer) = self.0.get_mut(&id) {
                    layer.0 = layer.1;
                }
            }
            _ => {}
        }
    }

    /// How far the download is, for people; none before its first byte.
    fn far(&self) -> Option<String> {
        let (current, total) = self.0.values().fold((0, 0), |sum, layer| (sum.0 + layer.0, sum.1 + layer.1));
        (total > 0).then(|| format!("{} of {}", Bytes(current), Bytes(total)))
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
    fn progress_is_the_sum_over_layers() {
        let mut layers = Layers::default();
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
