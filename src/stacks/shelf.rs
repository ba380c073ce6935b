//! Where stacks come from: those that the binary carries, and the owner's folder, whose files win.

use super::compose::{self, Error, Origin, read_text};
use super::spec::{self, Spec};
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};

/// The stacks that the binary carries.
const SHIPPED: &[(&str, &str)] = &[("chroma", include_str!("../../stacks/chroma.yaml"))];
/// The names of a compose file in a folder of its own, the preferred first.
const IN_FOLDER: [&str; 4] = ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"];

/// All stacks by name, each understood or refused.
pub type Shelf = BTreeMap<String, Result<Spec, Error>>;

/// Reads every stack there is. A folder that does not exist holds none.
pub fn read(dir: &Path) -> Shelf {
    let mut shelf = Shelf::new();
    let shared = variables(&dir.join(".env"));
    for (name, text) in SHIPPED {
        let file = PathBuf::from(format!("stacks/{name}.yaml"));
        shelf.insert((*name).into(), one(name, text, &file, None, &shared).1);
    }
    let mut owners = Shelf::new();
    for (stem, file) in files(dir) {
        let base = file.parent().unwrap_or(dir);
        let own = if base == dir { shared.clone() } else { variables(&base.join(".env")) };
        let (name, spec) = match read_text(&file) {
            Ok(text) => one(&stem, &text, &file, Some(base), &own),
            Err(error) => (stem, Err(Error::new(&file, format!("cannot be read: {error}")))),
        };
        match owners.get(&name) {
            None => drop(owners.insert(name, spec)),
            Some(_) => {
                let message = format!("another file is the stack {name} already; rename one of them");
                owners.insert(name, Err(Error::new(&file, message)));
            }
        }
    }
    shelf.extend(owners);
    shelf
}

/// One file's stack, under the name that it gives itself.
fn one(
    stem: &str,
    text: &str,
    file: &Path,
    base: Option<&Path>,
    variables: &HashMap<String, String>,
) -> (String, Result<Spec, Error>) {
    let origin = Origin { file: file.into(), base: base.map(Path::to_path_buf), variables: variables.clone() };
    let model = match compose::load(text, &origin) {
        Ok(model) => model,
        Err(error) => return (stem.into(), Err(error)),
    };
    let (name, line) = model.name.clone().unwrap_or_else(|| (stem.to_owned(), 0));
    if !spec::is_name(&name) {
        let message = format!(
            "{name:?} cannot be a stack's name: lower-case letters, digits, '-' and '_', at most 63; rename the file or set `name:`"
        );
        return (stem.into(), Err(Error::at(file, line, message)));
    }
    let spec = spec::resolve(&name, &model, file, variables);
    (name, spec)
}

/// The compose files of a folder: `NAME.yaml`, and `NAME/compose.yaml`.
fn files(dir: &Path) -> Vec<(String, PathBuf)> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(dir = %dir.display(), %error, "the folder of stacks cannot be read");
            }
            return Vec::new();
        }
    };
    let mut files: Vec<(String, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let path = entry.path();
            let stem = path.file_stem()?.to_str()?.to_owned();
            if stem.starts_with('.') {
                return None;
            }
            if path.is_dir() {
                let name = path.file_name()?.to_str()?.to_owned();
                let file = IN_FOLDER.iter().map(|file| path.join(file)).find(|file| file.is_file())?;
                return Some((name, file));
            }
            let is_yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml");
            (is_yaml && path.is_file()).then_some((stem, path))
        })
        .collect();
    files.sort();
    files
}

/// The variables of a `.env` file; none where there is no such file.
fn variables(file: &Path) -> HashMap<String, String> {
    match read_text(file) {
        Ok(text) => compose::variables(&text).collect(),
        Err(error) => {
            if error.kind() != io::ErrorKind::NotFound {
                tracing::warn!(file = %file.display(), %error, "the variables of stacks cannot be read");
            }
            HashMap::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shipped_file_is_a_stack() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("stacks");
        let shelf = read(Path::new("/nonexistent"));
        for (stem, file) in files(&folder) {
            if stem != "models" {
                assert!(shelf.contains_key(&stem), "{} is not in SHIPPED", file.display());
            }
        }
        for (name, spec) in shelf {
            let spec = spec.unwrap_or_else(|error| panic!("{error}"));
            assert!(!spec.description.is_empty() && spec.title != name, "{name} tells nothing of itself");
            for service in &spec.services {
                assert!(service.container.image.contains(':'), "{name}: {} has no tag", service.container.image);
                assert!(service.container.healthcheck.is_some(), "{name}: {} has no health check", service.name);
            }
        }
    }

    #[test]
    fn the_owners_files_win() {
        let dir = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        write("chroma.yaml", "services: {a: {image: \"mine:${TAG}\"}}");
        write(".env", "TAG=7\n");
        write("sub/compose.yml", "name: other\nservices: {a: {image: \"x:${TAG:-none}\", volumes: [./data:/data]}}");
        write("twice.yaml", "name: other\nservices: {a: {image: x}}");
        write("Bad Name.yaml", "services: {a: {image: x}}");
        write("broken.yaml", "services: {a: {imagine: x}}");
        write("notes.txt", "services: {}");
        let shelf = read(dir.path());
        let image = |name: &str| shelf[name].as_ref().unwrap().services[0].container.image.clone();
        assert_eq!(image("chroma"), "mine:7");
        let error = |name: &str| shelf[name].as_ref().unwrap_err().to_string();
        assert!(error("other").contains("another file is the stack other"), "{}", error("other"));
        assert!(error("Bad Name").contains("cannot be a stack's name"));
        assert!(error("broken").contains("broken.yaml:1: `imagine` is not supported"), "{}", error("broken"));
        assert_eq!(shelf.len(), 4);

        std::fs::remove_file(dir.path().join("twice.yaml")).unwrap();
        let shelf = read(dir.path());
        let other = &shelf["other"].as_ref().unwrap().services[0].container;
        assert_eq!(other.image, "x:none");
        let data = dir.path().join("sub/data");
        assert_eq!(other.mounts[0].source, crate::docker::MountSource::Bind(data));
    }
}
