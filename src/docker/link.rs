//! Keeping in touch with the engine: connect, list, follow its events, and again.

use super::error::{said, status, unreachable};
use super::{Container, Engine, STACK, State};
use bollard::errors::Error;
use bollard::models::EventMessage;
use bollard::query_parameters::{EventsOptionsBuilder, ListContainersOptionsBuilder};
use futures_util::{Stream, StreamExt};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const DEFAULT_HOST: &str = "unix:///var/run/docker.sock";
/// How long an engine may take to introduce itself.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause before the first attempt to connect again; it doubles up to the longest.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// A connection over TCP can die without a word: how often the engine is asked for its list although nothing happened.
const ASSURANCE: Duration = Duration::from_secs(60);

/// The events after which a container is looked at again. Health checks make three others each time they run.
const EVENTS: [&str; 13] = [
    "create",
    "start",
    "die",
    "stop",
    "kill",
    "oom",
    "pause",
    "unpause",
    "restart",
    "rename",
    "update",
    "destroy",
    "health_status",
];

/// Where the engine is: what the configuration says, or the environment, or Docker's default.
pub(super) fn host(configured: Option<&str>, environment: Option<&str>) -> String {
    configured.or(environment.filter(|host| !host.is_empty())).unwrap_or(DEFAULT_HOST).to_owned()
}

/// The task that owns what is known of the engine.
pub(super) struct Link {
    pub host: String,
    pub states: watch::Sender<State>,
    pub lists: watch::Sender<Arc<Vec<Container>>>,
    pub clients: watch::Sender<Option<bollard::Docker>>,
}

impl Link {
    pub async fn run(self, shutdown: CancellationToken) {
        let mut pause = FIRST_PAUSE;
        let mut told = false;
        loop {
            let ended = tokio::select! {
                () = shutdown.cancelled() => return,
                ended = self.session() => ended,
            };
            if self.states.borrow().engine().is_some() {
                pause = FIRST_PAUSE;
                told = false;
            }
            // How it is absent may change with each attempt; that it is, is told once.
            if !told {
                tracing::warn!(reason = ended, "no Docker engine; everything else works without it");
                told = true;
            }
            self.absent(ended);
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// From one connection to its end, which is told.
    async fn session(&self) -> String {
        let (client, engine, since) = match tokio::time::timeout(PATIENCE, connect(&self.host)).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return unreachable(&self.host, &error),
            Err(_) => return format!("the Docker engine at {} does not answer", self.host),
        };
        // Events are told from a moment before the list was made, so that none falls between the two.
        let filters = HashMap::from([("type", vec!["container"]), ("label", vec![STACK]), ("event", EVENTS.to_vec())]);
        let events = client.events(Some(EventsOptionsBuilder::new().since(&since).filters(&filters).build()));
        match self.follow(&client, engine, events).await {
            Ok(()) => format!("the Docker engine at {} has closed the connection", self.host),
            Err(error) => format!("the Docker engine at {} has gone away: {}", self.host, said(&error)),
        }
    }

    /// Lists our containers, and keeps the list by the events until they end.
    async fn follow(
        &self,
        client: &bollard::Docker,
        engine: Engine,
        events: impl Stream<Item = Result<EventMessage, Error>>,
    ) -> Result<(), Error> {
        let mut containers = list(client).await?;
        self.publish(&containers);
        self.present(client.clone(), engine);
        tokio::pin!(events);
        loop {
            match tokio::time::timeout(ASSURANCE, events.next()).await {
                Ok(None) => return Ok(()),
                Ok(Some(event)) => {
                    let Some(id) = event?.actor.and_then(|actor| actor.id) else { continue };
                    match inspect(client, &id).await? {
                        Some(container) => containers.insert(id, container),
                        None => containers.remove(&id),
                    };
                }
                Err(_) => {
                    let listed = tokio::time::timeout(PATIENCE, list(client)).await;
                    containers = listed.map_err(|_| Error::RequestTimeoutError)??;
                }
            }
            self.publish(&containers);
        }
    }

    fn publish(&self, containers: &BTreeMap<String, Container>) {
        let mut list: Vec<Container> = containers.values().cloned().collect();
        list.sort_by(|a, b| (&a.stack, &a.service, &a.id).cmp(&(&b.stack, &b.service, &b.id)));
        self.lists.send_if_modified(|last| {
            let changed = **last != list;
            if changed {
                *last = Arc::new(list);
            }
            changed
        });
    }

    fn present(&self, client: bollard::Docker, engine: Engine) {
        tracing::info!(host = self.host, version = engine.version, api = engine.api, "the Docker engine answers");
        self.clients.send_replace(Some(client));
        self.states.send_replace(State::Present(engine));
    }

    fn absent(&self, reason: String) {
        self.clients.send_replace(None);
        let state = State::Absent { reason };
        self.states.send_if_modified(|last| {
            let changed = *last != state;
            *last = state;
            changed
        });
        // What is not known is not shown.
        self.publish(&BTreeMap::new());
    }
}

/// Connects and asks who answers, and what time it is there.
async fn connect(host: &str) -> Result<(bollard::Docker, Engine, String), Error> {
    let client = bollard::Docker::connect_with_host(host)?.negotiate_version().await?;
    let info = client.info().await?;
    let unknown = || "unknown".to_owned();
    let engine = Engine {
        version: info.server_version.unwrap_or_else(unknown),
        api: client.client_version().to_string(),
        os: info.operating_system.unwrap_or_else(unknown),
        architecture: info.architecture.unwrap_or_else(unknown),
        root_dir: info.docker_root_dir.unwrap_or_default(),
    };
    // The engine's own clock: it need not be ours.
    let now = info.system_time.and_then(|time| time.parse().ok()).unwrap_or_else(jiff::Timestamp::now);
    let since = format!("{}.{:09}", now.as_second(), now.subsec_nanosecond());
    Ok((client, engine, since))
}

/// Our containers, by identifier.
async fn list(client: &bollard::Docker) -> Result<BTreeMap<String, Container>, Error> {
    list_labelled(client, STACK).await
}

/// The containers with a label, by identifier.
pub(super) async fn list_labelled(client: &bollard::Docker, label: &str) -> Result<BTreeMap<String, Container>, Error> {
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let mut containers = BTreeMap::new();
    for summary in client.list_containers(Some(options)).await? {
        let Some(id) = summary.id else { continue };
        // The list tells neither restarts nor, in older engines, health.
        if let Some(container) = inspect(client, &id).await? {
            containers.insert(id, container);
        }
    }
    Ok(containers)
}

/// One container; none when it is gone or not ours.
async fn inspect(client: &bollard::Docker, id: &str) -> Result<Option<Container>, Error> {
    match client.inspect_container(id, None).await {
        Ok(inspected) => Ok(Container::read(inspected)),
        Err(error) if status(&error) == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_wins_over_the_environment() {
        let check = |configured, environment, expected| assert_eq!(host(configured, environment), expected);
        check(Some("unix:///a"), Some("unix:///b"), "unix:///a");
        check(None, Some("unix:///b"), "unix:///b");
        check(None, Some(""), DEFAULT_HOST);
        check(None, None, DEFAULT_HOST);
    }
}
