use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use std::fmt;

/// One of a service's `volumes`: `SOURCE:TARGET[:ro|rw]`, or the same as a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeKey {
    /// What is mounted.
    pub source: VolumeSource,
    /// The path in the container.
    pub target: String,
    /// Whether it may not be written.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A volume that the file declares.
    Named(String),
    /// A path of this machine; a relative one begins with a dot and is relative to the file.
    Path(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    r#type: String,
    source: String,
    target: String,
    #[serde(default)]
    read_only: bool,
}

impl<'de> Deserialize<'de> for VolumeKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Mount;
        impl<'de> Visitor<'de> for Mount {
            type Value = VolumeKey;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mount as in \"data:/data\" or \"./config:/config:ro\"")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<VolumeKey, E> {
                short(text).map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<VolumeKey, A::Error> {
                let long = Long::deserialize(MapAccessDeserializer::new(map))?;
                let source = match long.r#type.as_str() {
                    "volume" => VolumeSource::Named(long.source),
                    "bind" => VolumeSource::Path(long.source),
                    other => {
                        return Err(de::Error::custom(format!(
                            "a mount of type `{other}` is not supported; `volume` and `bind` are, and the key `tmpfs`"
                        )));
                    }
                };
                checked(VolumeKey { source, target: long.target, read_only: long.read_only }).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Mount)
    }
}

fn short(text: &str) -> Result<VolumeKey, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, read_only) = match parts[..] {
        [source, target] | [source, target, "rw"] => (source, target, false),
        [source, target, "ro"] => (source, target, true),
        [_, _, mode] => return Err(format!("{text:?}: the mode `{mode}` is not supported; `ro` and `rw` are")),
        _ => return Err(format!("{text:?} is not a mount; write SOURCE:TARGET or SOURCE:TARGET:ro")),
    };
    let source = if source.starts_with(['/', '.', '~']) {
        VolumeSource::Path(source.into())
    } else {
        VolumeSource::Named(source.into())
    };
    checked(VolumeKey { source, target: target.into(), read_only })
}

fn checked(key: VolumeKey) -> Result<VolumeKey, String> {
    if !key.target.starts_with('/') {
        return Err(format!("the mount's target {:?} is not an absolute path in the container", key.target));
    }
    let VolumeSource::Path(path) = &key.source else { return Ok(key) };
    if path.starts_with('~') {
        return Err(format!("{path:?}: whose home that is, is not clear; write the whole path"));
    }
    // Docker takes a mount as text with colons between its parts.
    if path.contains(':') || key.target.contains(':') {
        return Err(format!("{path:?}: a path with a colon cannot be mounted"));
    }
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_in_short() {
        let check = |text, source, target: &str, read_only| {
            assert_eq!(short(text), Ok(VolumeKey { source, target: target.into(), read_only }));
        };
        check("data:/data", VolumeSource::Named("data".into()), "/data", false);
        check("./a:/b:ro", VolumeSource::Path("./a".into()), "/b", true);
        check("/a:/b:rw", VolumeSource::Path("/a".into()), "/b", false);
        for (wrong, why) in [
            ("/data", "not a mount"),
            ("data:data", "absolute"),
            ("a:/b:z", "mode `z`"),
            ("~/a:/b", "whose home"),
            ("a:b:c:d", "not a mount"),
        ] {
            let error = short(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
