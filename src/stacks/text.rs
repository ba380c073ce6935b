//! Texts that containers read as files: the secrets and configs whose text a compose file has, or a variable.

use super::error::Error;
use crate::docker::{ContainerSpec, Mount, MountSource, Text};
use std::borrow::Cow;
use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The same container, each text a file in `folder` that it mounts.
///
/// # Errors
/// When a file cannot be written.
pub(super) fn written<'a>(
    folder: &Path,
    stack: &str,
    container: &'a ContainerSpec,
) -> Result<Cow<'a, ContainerSpec>, Error> {
    if !container.mounts.iter().any(|mount| matches!(mount.source, MountSource::Text(_))) {
        return Ok(Cow::Borrowed(container));
    }
    let mut container = container.clone();
    for Mount { source, target, .. } in &mut container.mounts {
        if let MountSource::Text(text) = source {
            let file = write(&folder.join(stack), text);
            let file = file.map_err(|error| Error::Service(format!("{target} cannot be written: {error}")))?;
            *source = MountSource::Bind(file);
        }
    }
    Ok(Cow::Owned(container))
}

/// The stack's texts go when it does.
pub(super) fn forget(folder: &Path, stack: &str) {
    match std::fs::remove_dir_all(folder.join(stack)) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(stack, %error, "the texts of its secrets and configs are left behind");
        }
        _ => {}
    }
}

/// The file of a text. Containers read it as whatever user they are; of this machine, only root comes through the folder.
fn write(folder: &Path, text: &Text) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let file = folder.join(text.digest());
    if file.exists() {
        return Ok(file);
    }
    let partial = folder.join(format!("{}.partial", text.digest()));
    let _ = std::fs::remove_file(&partial);
    let mut to = OpenOptions::new().write(true).create_new(true).mode(0o444).open(&partial)?;
    to.write_all(text.0.as_bytes())?;
    to.sync_all()?;
    std::fs::rename(&partial, &file)?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_text_is_a_file_that_no_user_of_this_machine_reaches() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        let texts = dir.path().join("texts");
        let mount = |text: &str| Mount {
            source: MountSource::Text(Text(text.into())),
            target: "/run/secrets/a".into(),
            read_only: true,
            options: Vec::new(),
        };
        let spec = ContainerSpec { mounts: vec![mount("hush")], ..ContainerSpec::default() };
        let shown = format!("{spec:?} {}", serde_json::to_string(&spec).unwrap());
        assert!(!shown.contains("hush"), "{shown}");
        let made = written(&texts, "s", &spec).unwrap();
        let MountSource::Bind(file) = &made.mounts[0].source else { panic!("{made:?}") };
        assert_eq!(std::fs::read_to_string(file).unwrap(), "hush");
        assert_eq!((mode(file), mode(&texts.join("s")), mode(&texts)), (0o444, 0o700, 0o700));
        assert_eq!(written(&texts, "s", &spec).unwrap(), made);
        forget(&texts, "s");
        assert!(!file.exists());
    }
}
