use super::Size;
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{self, Deserializer, IgnoredAny, MapAccess, Visitor};
use std::fmt;
use std::path::PathBuf;

/// One of a service's `volumes`: `[SOURCE:]TARGET[:MODES]`, or the same as a mapping.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeKey {
    /// What is mounted.
    pub source: VolumeSource,
    /// The path in the container.
    pub target: String,
    /// Whether it may not be written.
    pub read_only: bool,
    /// Further options, such as `z` or `rslave`.
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VolumeSource {
    /// A volume that the file declares.
    Named(String),
    /// A volume of the container's own.
    Anonymous,
    /// A path of this machine; a relative one begins with a dot and is relative to the file.
    Path(PathBuf),
    /// A folder in memory, with the options of its mount.
    Memory(String),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Long {
    r#type: String,
    source: Option<String>,
    target: String,
    #[serde(default)]
    read_only: bool,
    bind: Option<Bind>,
    tmpfs: Option<Tmpfs>,
    /// How soon writes are seen: at once, on Linux.
    #[serde(default)]
    consistency: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Bind {
    propagation: Option<String>,
    selinux: Option<String>,
    /// It is made where it is missing; only that is supported.
    create_host_path: Option<bool>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tmpfs {
    size: Option<Size>,
    mode: Option<u32>,
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
                long(Long::deserialize(MapAccessDeserializer::new(map))?).map_err(de::Error::custom)
            }
        }
        deserializer.deserialize_any(Mount)
    }
}

fn long(long: Long) -> Result<VolumeKey, String> {
    let Long { target, read_only, bind, tmpfs, .. } = long;
    let _ = long.consistency;
    let source = match (long.r#type.as_str(), long.source) {
        ("volume", Some(name)) => VolumeSource::Named(name),
        ("volume", None) => VolumeSource::Anonymous,
        ("bind", Some(path)) => VolumeSource::Path(path.into()),
        ("bind", None) => return Err(format!("the mount at {target} has no `source`")),
        ("tmpfs", None) => {
            let size = tmpfs.as_ref().and_then(|tmpfs| tmpfs.size).map(|Size(bytes)| format!("size={bytes}"));
            let mode = tmpfs.as_ref().and_then(|tmpfs| tmpfs.mode).map(|mode| format!("mode={mode:o}"));
            let options: Vec<String> = size.into_iter().chain(mode).collect();
            VolumeSource::Memory(options.join(","))
        }
        ("tmpfs", Some(_)) => return Err(format!("the mount at {target} is in memory and has no `source`")),
        (other, _) => return Err(format!("a mount of type `{other}` is not supported; volume, bind and tmpfs are")),
    };
    let mut options = Vec::new();
    if let Some(Bind { propagation, selinux, create_host_path }) = bind {
        if create_host_path == Some(false) {
            return Err("`create_host_path: false` is not supported: Docker makes a folder that is missing".into());
        }
        for option in propagation.into_iter().chain(selinux) {
            options.push(option_of(&option)?);
        }
    }
    checked(VolumeKey { source, target, read_only, options })
}

fn short(text: &str) -> Result<VolumeKey, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, modes) = match parts[..] {
        [target] => (None, target, ""),
        [source, target] => (Some(source), target, ""),
        [source, target, modes] => (Some(source), target, modes),
        _ => return Err(format!("{text:?} is not a mount; write SOURCE:TARGET or SOURCE:TARGET:ro")),
    };
    let (mut read_only, mut options) = (false, Vec::new());
    for mode in modes.split(',').filter(|mode| !mode.is_empty()) {
        match mode {
            "ro" => read_only = true,
            // Usual, or of other systems than Linux.
            "rw" | "cached" | "delegated" | "consistent" => {}
            other => options.push(option_of(other).map_err(|error| format!("{text:?}: {error}"))?),
        }
    }
    let source = match source {
        None => VolumeSource::Anonymous,
        Some(path) if path.starts_with(['/', '.', '~']) => VolumeSource::Path(path.into()),
        Some(name) => VolumeSource::Named(name.into()),
    };
    checked(VolumeKey { source, target: target.into(), read_only, options })
}

fn option_of(option: &str) -> Result<String, String> {
    const KNOWN: [&str; 9] = ["z", "Z", "nocopy", "shared", "rshared", "slave", "rslave", "private", "rprivate"];
    match KNOWN.contains(&option) {
        true => Ok(option.to_owned()),
        false => Err(format!("the mode `{option}` is not supported; ro, rw, {} are", KNOWN.join(", "))),
    }
}

fn checked(mut key: VolumeKey) -> Result<VolumeKey, String> {
    // One place has one name, so that a service that is like another can mount something else there.
    let end = key.target.trim_end_matches('/').len().max(1);
    key.target.truncate(end);
    if !key.target.starts_with('/') {
        return Err(format!("the mount's target {:?} is not an absolute path in the container", key.target));
    }
    let VolumeSource::Path(path) = &key.source else { return Ok(key) };
    if path.starts_with("~") {
        return Err(format!("{path:?}: whose home that is, is not clear; write the whole path"));
    }
    // Docker takes a mount as text with colons between its parts.
    if path.to_string_lossy().contains(':') || key.target.contains(':') {
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
            let options = Vec::new();
            assert_eq!(short(text), Ok(VolumeKey { source, target: target.into(), read_only, options }));
        };
        check("data:/data", VolumeSource::Named("data".into()), "/data", false);
        check("./a:/b:ro", VolumeSource::Path("./a".into()), "/b", true);
        check("/a:/b:rw", VolumeSource::Path("/a".into()), "/b", false);
        check("/data", VolumeSource::Anonymous, "/data", false);
        let labelled = short("/a:/b:ro,Z,rslave").unwrap();
        assert!(labelled.read_only && labelled.options == ["Z", "rslave"]);
        for (wrong, why) in
            [("data:data", "absolute"), ("a:/b:y", "mode `y`"), ("~/a:/b", "whose home"), ("a:b:c:d", "not a mount")]
        {
            let error = short(wrong).unwrap_err();
            assert!(error.contains(why), "{wrong}: {error}");
        }
    }
}
