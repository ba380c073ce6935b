//! A file with all that it includes and extends, its relative paths made whole and its variables' files read.

use super::files::{EnvFile, beside, variables};
use super::{Compose, EnvFiles, Error, Extends, Network, Service, Sovereign, Text, Volume, VolumeSource, parse};
use serde_yaml::Spanned;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A compose file is text that a person wrote.
const LARGEST: u64 = 1 << 20;
/// Files that include or extend each other one below the other.
const DEEPEST: usize = 16;

/// A file: where it is, what its paths are relative to, and what fills in its variables.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Named in errors.
    pub file: PathBuf,
    /// None where the file is no file of this machine.
    pub base: Option<PathBuf>,
    /// By name.
    pub variables: HashMap<String, String>,
}

/// All that a stack's files say together.
#[derive(Debug, Clone, Default)]
pub struct Model {
    /// What the stack is called, and in which line.
    pub name: Option<(String, u64)>,
    /// The services that run, by name.
    pub services: BTreeMap<String, Written>,
    /// The volumes.
    pub volumes: BTreeMap<String, Volume>,
    /// The networks.
    pub networks: BTreeMap<String, Network>,
    /// Texts that services read as files.
    pub secrets: BTreeMap<String, Text>,
    /// The same, less secret.
    pub configs: BTreeMap<String, Text>,
    /// What is ours.
    pub sovereign: Sovereign,
}

/// A service, and where it is written.
#[derive(Debug, Clone)]
pub struct Written {
    /// What is written.
    pub service: Service,
    /// In which file.
    pub file: Arc<Path>,
    /// In which line.
    pub line: u64,
}

/// Understands `text`, which `origin` tells of.
///
/// # Errors
/// The first thing that is not understood, not supported, or not there, with its file and line.
pub fn load(text: &str, origin: &Origin) -> Result<Model, Error> {
    let mut model = gather(text, origin, &mut Vec::new())?;
    let occasions: Vec<&str> = origin.variables.get("COMPOSE_PROFILES").map_or("", |all| all).split(',').collect();
    let runs = |profile: &String| occasions.iter().any(|occasion| *occasion == "*" || *occasion == profile);
    model
        .services
        .retain(|_, Written { service, .. }| service.profiles.is_empty() || service.profiles.iter().any(runs));
    if model.services.is_empty() {
        return Err(Error::new(&origin.file, "no service runs: all wait for a profile; set COMPOSE_PROFILES in .env"));
    }
    Ok(model)
}

/// The text of a file that is not too large to be one that a person wrote.
///
/// # Errors
/// When it cannot be read, or is larger.
pub fn read_text(file: &Path) -> io::Result<String> {
    if file.metadata()?.len() > LARGEST {
        return Err(io::Error::other("it is larger than 1 MiB, too large for a compose file"));
    }
    std::fs::read_to_string(file)
}

fn gather(text: &str, origin: &Origin, above: &mut Vec<PathBuf>) -> Result<Model, Error> {
    let Compose { name, include, services, mut volumes, networks, mut secrets, mut configs, sovereign } =
        parse(text, &origin.file, origin.variables.clone())?;
    enter(&origin.file, above)?;
    let file: Arc<Path> = origin.file.as_path().into();
    let mut written = BTreeMap::new();
    for (service, spanned) in &services {
        let line = spanned.referenced.line();
        let mut whole = extended(service, &services, origin, above)?;
        read_variables(&mut whole, origin)?;
        written.insert(service.clone(), Written { service: whole, file: file.clone(), line });
    }
    for text in secrets.values_mut().chain(configs.values_mut()) {
        if let Some(path) = &mut text.file {
            *path = whole(path, origin, 0)?;
        }
    }
    for volume in volumes.values_mut() {
        // A folder that is mounted under a volume's name.
        if let Some(Some(device)) = volume.driver_opts.0.get_mut("device")
            && device.starts_with('.')
        {
            *device = whole(Path::new(device.as_str()), origin, 0)?.display().to_string();
        }
    }
    let name = name.map(|name| (name.value.clone(), name.referenced.line()));
    let mut model = Model { name, services: written, volumes, networks, secrets, configs, sovereign };
    for included in &include {
        let line = included.referenced.line();
        let origin = included_from(&included.value, origin, line)?;
        let text = read_text(&origin.file);
        let text = text.map_err(|error| Error::at(&origin.file, 0, format!("cannot be read: {error}")))?;
        let below = gather(&text, &origin, above)?;
        model.take(below).map_err(|twice| Error::at(&file, line, twice))?;
    }
    above.pop();
    Ok(model)
}

fn enter(file: &Path, above: &mut Vec<PathBuf>) -> Result<(), Error> {
    if above.iter().any(|one| one == file) {
        return Err(Error::new(file, "the file includes or extends itself, by way of others"));
    }
    if above.len() == DEEPEST {
        return Err(Error::new(file, format!("more than {DEEPEST} files lie one below the other")));
    }
    above.push(file.to_path_buf());
    Ok(())
}

fn included_from(include: &super::Include, origin: &Origin, line: u64) -> Result<Origin, Error> {
    let file = whole(&include.path, origin, line)?;
    let base = match &include.project_directory {
        Some(folder) => whole(folder, origin, line)?,
        None => file.parent().map_or_else(PathBuf::new, Path::to_path_buf),
    };
    let env_file = match &include.env_file {
        Some(file) => whole(file, origin, line)?,
        None => base.join(".env"),
    };
    // The variables of who includes it count more.
    let mut all: HashMap<String, String> = match read_text(&env_file) {
        Ok(text) => variables(&text).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && include.env_file.is_none() => HashMap::new(),
        Err(error) => return Err(Error::new(&env_file, format!("cannot be read: {error}"))),
    };
    all.extend(origin.variables.clone());
    Ok(Origin { file, base: Some(base), variables: all })
}

impl Model {
    /// Takes in what another file says.
    fn take(&mut self, other: Model) -> Result<(), String> {
        let Model { services, volumes, networks, secrets, configs, .. } = other;
        join("service", &mut self.services, services)?;
        join("volume", &mut self.volumes, volumes)?;
        join("network", &mut self.networks, networks)?;
        join("secret", &mut self.secrets, secrets)?;
        join("config", &mut self.configs, configs)
    }
}

fn join<T>(what: &str, all: &mut BTreeMap<String, T>, more: BTreeMap<String, T>) -> Result<(), String> {
    for (name, one) in more {
        if all.contains_key(&name) {
            return Err(format!("the {what} {name} is in the file that is included, too; rename one of them"));
        }
        all.insert(name, one);
    }
    Ok(())
}

/// A service with all that it is like.
fn extended(
    name: &str,
    services: &BTreeMap<String, Spanned<Service>>,
    origin: &Origin,
    above: &mut Vec<PathBuf>,
) -> Result<Service, Error> {
    let mut like = vec![name.to_owned()];
    let mut chain = Vec::new();
    let mut next = Some(name.to_owned());
    let mut elsewhere = None;
    while let Some(name) = next.take() {
        let Some(spanned) = services.get(&name) else {
            return Err(Error::new(&origin.file, format!("a service extends {name}, which is not in the file")));
        };
        let mut service = spanned.value.clone();
        anchor(&mut service, origin, spanned.referenced.line())?;
        if let Some(extends) = service.extends.take() {
            let (Extends { service: base, file }, line) = (extends.value, extends.referenced.line());
            match file {
                Some(file) => elsewhere = Some((base, file, line)),
                None if like.contains(&base) => {
                    return Err(Error::at(
                        &origin.file,
                        line,
                        format!("the service {name} extends itself, by way of others"),
                    ));
                }
                None => {
                    like.push(base.clone());
                    next = Some(base);
                }
            }
        }
        chain.push(service);
    }
    let mut whole = match elsewhere {
        Some((base, file, line)) => extended_from(&base, &file, line, origin, above)?,
        None => chain.pop().unwrap_or_default(),
    };
    while let Some(service) = chain.pop() {
        whole = service.over(whole);
    }
    Ok(whole)
}

fn extended_from(
    base: &str,
    file: &str,
    line: u64,
    origin: &Origin,
    above: &mut Vec<PathBuf>,
) -> Result<Service, Error> {
    let path = whole(Path::new(file), origin, line)?;
    let text = read_text(&path);
    let text =
        text.map_err(|error| Error::at(&origin.file, line, format!("{} cannot be read: {error}", path.display())))?;
    let folder = path.parent().map(Path::to_path_buf);
    let there = Origin { file: path, base: folder, variables: origin.variables.clone() };
    let compose = parse(&text, &there.file, there.variables.clone())?;
    enter(&there.file, above)?;
    let service = extended(base, &compose.services, &there, above)?;
    above.pop();
    Ok(service)
}

/// Makes the relative paths of a service whole.
fn anchor(service: &mut Service, origin: &Origin, line: u64) -> Result<(), Error> {
    for volume in &mut service.volumes {
        let line = volume.referenced.line();
        if let VolumeSource::Path(path) = &mut volume.value.source {
            *path = whole(path, origin, line)?;
        }
    }
    for EnvFile { path, .. } in service.env_file.iter_mut().flat_map(|files| &mut files.value.0) {
        *path = whole(path, origin, line)?;
    }
    Ok(())
}

fn whole(path: &Path, origin: &Origin, line: u64) -> Result<PathBuf, Error> {
    match &origin.base {
        _ if path.is_absolute() => Ok(path.to_path_buf()),
        Some(base) => Ok(beside(base, path)),
        None => {
            let message =
                format!("{:?} is relative to a file that is no file of this machine", path.display().to_string());
            Err(Error::at(&origin.file, line, message))
        }
    }
}

/// Reads the files of variables of a service into its environment, which counts more than they do.
fn read_variables(service: &mut Service, origin: &Origin) -> Result<(), Error> {
    let Some(files) = service.env_file.take() else { return Ok(()) };
    let line = files.referenced.line();
    let EnvFiles(files) = files.value;
    let mut all = BTreeMap::new();
    for EnvFile { path, required } in files {
        match read_text(&path) {
            Ok(text) => all.extend(variables(&text).map(|(name, value)| (name, Some(value)))),
            Err(error) if error.kind() == io::ErrorKind::NotFound && !required => {}
            Err(error) => {
                let message = format!("the variables of {} cannot be read: {error}", path.display());
                return Err(Error::at(&origin.file, line, message));
            }
        }
    }
    all.append(&mut service.environment.0);
    service.environment.0 = all;
    Ok(())
}
