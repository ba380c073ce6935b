//! Who holds a card: its processes, named and summed up as the owner knows them.

use super::{Process, Snapshot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What processes and containers are called by those who know them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// Services, by the identifier of their container.
    pub services: BTreeMap<String, Service>,
    /// Models, by the process that serves them.
    pub models: BTreeMap<u32, String>,
}

/// A service that runs in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// The stack that it belongs to.
    pub stack: String,
    /// Its name there.
    pub service: String,
    /// The model that it serves for us.
    pub model: Option<String>,
}

impl Owners {
    /// Names the processes of `cards`.
    pub(super) fn name(&self, cards: &mut [Snapshot]) {
        for process in cards.iter_mut().flat_map(|card| &mut card.processes) {
            if let Some(model) = self.models.get(&process.pid) {
                process.model = Some(model.clone());
            }
            let Some(container) = &mut process.container else { continue };
            // A container within one of ours is known to the engine in it, and to nobody else.
            let ids = std::iter::once(&container.id).chain(&container.within);
            let known = ids.into_iter().find_map(|id| Some((id.clone(), self.services.get(id)?)));
            if let Some((id, service)) = known {
                container.id = id;
                container.stack = Some(service.stack.clone());
                container.service = Some(service.service.clone());
                if service.model.is_some() {
                    process.model.clone_from(&service.model);
                }
            }
        }
    }
}

/// What occupies a card's memory under one name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The card, by its UUID.
    pub card: String,
    /// What it is.
    pub kind: HolderKind,
    /// What it is called: a model, `stack/service`, a container's short identifier, or a program.
    pub name: String,
    /// Its processes.
    pub pids: Vec<u32>,
    /// Bytes that they occupy together; none where the driver does not say.
    pub bytes: Option<u64>,
}

/// What occupies a card's memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HolderKind {
    /// A model that we serve.
    Model,
    /// A service of one of our stacks.
    Service,
    /// A container that is not ours.
    Container,
    /// A program of the host.
    Host,
    /// What is in use and no process's: the driver's own, contexts, and what the driver does not show.
    Rest,
}

impl Process {
    /// Whose it is.
    fn holder(&self) -> (HolderKind, String) {
        if let Some(model) = &self.model {
            return (HolderKind::Model, model.clone());
        }
        match &self.container {
            Some(container) => match (&container.stack, &container.service) {
                (Some(stack), Some(service)) => (HolderKind::Service, format!("{stack}/{service}")),
                _ => (HolderKind::Container, container.id.chars().take(12).collect()),
            },
            None => (HolderKind::Host, self.name.clone().unwrap_or_else(|| format!("process {}", self.pid))),
        }
    }
}

impl Holder {
    /// Who holds `card`, the largest first; what is nobody's last.
    pub fn of(card: &Snapshot) -> Vec<Self> {
        let mut holders: Vec<Self> = Vec::new();
        for process in &card.processes {
            let (kind, name) = process.holder();
            match holders.iter_mut().find(|holder| holder.kind == kind && holder.name == name) {
                Some(holder) => {
                    holder.pids.push(process.pid);
                    holder.bytes = holder.bytes.zip(process.bytes).map(|(a, b)| a.saturating_add(b));
                }
                None => holders.push(Self {
                    card: card.uuid.clone(),
                    kind,
                    name,
                    pids: vec![process.pid],
                    bytes: process.bytes,
                }),
            }
        }
        holders.sort_by_key(|holder| std::cmp::Reverse(holder.bytes));
        let named = holders.iter().filter_map(|holder| holder.bytes).fold(0, u64::saturating_add);
        let rest = card.memory.map_or(0, |memory| memory.used.saturating_sub(named));
        if rest > 0 {
            let (card, name) = (card.uuid.clone(), String::new());
            holders.push(Self { card, kind: HolderKind::Rest, name, pids: Vec::new(), bytes: Some(rest) });
        }
        holders
    }

    /// What it is called, for people.
    pub fn label(&self) -> String {
        let name = &self.name;
        match self.kind {
            HolderKind::Model | HolderKind::Service => name.clone(),
            HolderKind::Container => format!("container {name}"),
            HolderKind::Host => format!("host: {name}"),
            HolderKind::Rest => "driver and others".into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gpu::{Container, Memory};

    fn process(pid: u32, bytes: u64, container: Option<&[&str]>) -> Process {
        let container = container.map(|ids| Container {
            id: ids[0].into(),
            within: ids[1..].iter().map(|id| (*id).into()).collect(),
            ..Container::default()
        });
        Process { pid, name: Some("python3".into()), bytes: Some(bytes), container, model: None }
    }

    fn service(service: &str, model: Option<&str>) -> Service {
        Service { stack: "vllm".into(), service: service.into(), model: model.map(Into::into) }
    }

    #[test]
    fn processes_are_summed_up_under_the_names_that_the_owner_knows() {
        let owners = Owners {
            services: [
                ("aaaa".into(), service("server", Some("qwen3"))),
                ("bbbb".into(), service("trainer", None)),
                ("outer".into(), service("builder", None)),
            ]
            .into(),
            models: [(10, "gemma-3".into())].into(),
        };
        let mut card = Snapshot {
            uuid: "GPU-1".into(),
            memory: Some(Memory { total: 100, used: 90, free: 10 }),
            processes: vec![
                process(10, 5, None),
                process(11, 7, Some(&["aaaa"])),
                process(12, 30, Some(&["aaaa"])),
                process(13, 3, Some(&["bbbb"])),
                process(14, 2, Some(&["inner", "outer"])),
                process(15, 20, Some(&["0123456789abcdef"])),
                process(16, 1, None),
            ],
            ..Snapshot::default()
        };
        owners.name(std::slice::from_mut(&mut card));
        let holders = Holder::of(&card);
        let found: Vec<_> =
            holders.iter().map(|holder| (holder.label(), holder.pids.len(), holder.bytes.unwrap())).collect();
        let expected = [
            ("qwen3", 2, 37),
            ("container 0123456789ab", 1, 20),
            ("gemma-3", 1, 5),
            ("vllm/trainer", 1, 3),
            ("vllm/builder", 1, 2),
            ("host: python3", 1, 1),
            ("driver and others", 0, 22),
        ];
        assert_eq!(found, expected.map(|(name, pids, bytes)| (name.to_owned(), pids, bytes)));
        assert_eq!(holders[0].kind, HolderKind::Model);
        // What it was called is forgotten by nobody: names are given anew at each reading.
        assert_eq!(card.processes[4].container.as_ref().unwrap().id, "outer");
    }

    #[test]
    fn what_the_driver_does_not_say_is_not_zero() {
        let unknown = Process { bytes: None, ..process(1, 0, None) };
        let card = Snapshot { processes: vec![unknown, process(2, 4, None)], ..Snapshot::default() };
        assert_eq!(Holder::of(&card).iter().map(|holder| holder.bytes).collect::<Vec<_>>(), [None]);
        assert_eq!(Holder::of(&Snapshot::default()), []);
    }
}
