use super::Resolver;
use crate::docker::{Mount, MountSource, Text};
use crate::stacks::compose::{self, Error, Service, TextUse, VolumeKey, VolumeSource};
use crate::stacks::spec::volume_name;
use serde_yaml::Spanned;
use std::collections::BTreeMap;

impl Resolver<'_> {
    /// Folders in memory, and what else is mounted.
    pub(super) fn mounts(&mut self, written: &Service) -> Result<(BTreeMap<String, String>, Vec<Mount>), Error> {
        let mut tmpfs: BTreeMap<String, String> = written.tmpfs.0.iter().map(|text| self::tmpfs(text)).collect();
        let mut mounts = Vec::new();
        for spanned in &written.volumes {
            let line = spanned.referenced.line();
            let VolumeKey { source, target, read_only, options } = spanned.value.clone();
            let source = match source {
                VolumeSource::Named(volume) => match self.model.volumes.get(&volume) {
                    Some(keys) => MountSource::Volume(volume_name(self.name, &volume, keys)),
                    None => {
                        let message = format!("the volume {volume} is not among the file's `volumes`");
                        return Err(Error::at(self.file, line, message));
                    }
                },
                VolumeSource::Path(path) => {
                    self.permits.mounts(&path, line)?;
                    MountSource::Bind(path)
                }
                VolumeSource::Anonymous => MountSource::Anonymous,
                VolumeSource::Memory(options) => {
                    let read_only = read_only.then(|| "ro".to_owned());
                    let options: Vec<String> =
                        read_only.into_iter().chain([options]).filter(|one| !one.is_empty()).collect();
                    tmpfs.insert(target, options.join(","));
                    continue;
                }
            };
            mounts.push(Mount { source, target, read_only, options });
        }
        Ok((tmpfs, mounts))
    }

    /// Texts as files, where the container sees them.
    pub(super) fn texts(
        &self,
        what: &str,
        folder: &str,
        texts: &BTreeMap<String, compose::Text>,
        used: Option<&Spanned<Vec<TextUse>>>,
    ) -> Result<Vec<Mount>, Error> {
        let Some(used) = used else { return Ok(Vec::new()) };
        let refuse = |message: String| Error::at(self.file, used.referenced.line(), message);
        let mount = |TextUse { source, target }: &TextUse| {
            let text = texts.get(source);
            let text = text.ok_or_else(|| refuse(format!("the {what} {source} is not among the file's `{what}s`")))?;
            let compose::Text { file, environment, content } = text;
            let from = match (file, environment, content) {
                (Some(file), None, None) => MountSource::Bind(file.clone()),
                (None, Some(variable), None) => {
                    let value = self.variables.get(variable);
                    let missing = || refuse(format!("the {what} {source}: the variable {variable} is not set in .env"));
                    MountSource::Text(Text(value.ok_or_else(missing)?.clone()))
                }
                (None, None, Some(content)) => MountSource::Text(Text(content.clone())),
                _ => {
                    return Err(refuse(format!(
                        "the {what} {source} says not one of `file`, `environment`, `content`"
                    )));
                }
            };
            let target = target.as_ref().unwrap_or(source);
            let target = if target.starts_with('/') { target.clone() } else { format!("{folder}{target}") };
            Ok(Mount { source: from, target, read_only: true, options: Vec::new() })
        };
        used.value.iter().map(mount).collect()
    }
}

fn tmpfs(text: &str) -> (String, String) {
    let (path, options) = text.split_once(':').unwrap_or((text, ""));
    (path.into(), options.into())
}
