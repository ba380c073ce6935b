//! Whether containers still see their cards. One loses them when the driver is loaded anew, or when systemd resets the
//! devices of its control group: its programs then run on without a card, or fail. It is made anew.

use super::Stacks;
use super::seat::Sitter;
use super::station::Work;
use super::wanted::Wanted;
use crate::docker::{Docker, Error, Ran};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long one look may take: a driver that hangs makes its tools hang.
const WITHIN: Duration = Duration::from_secs(30);
/// A look that shows nothing is repeated once, so that a moment's trouble is not taken for a loss.
const AGAIN: Duration = Duration::from_secs(1);
/// A container that was made anew and still sees nothing is not made anew again so soon: that does not help it.
const AT_MOST_EVERY: Duration = Duration::from_secs(600);

/// NVIDIA's tool, which the container toolkit puts into containers; it says what is wrong.
const TOOL: &[&str] = &["nvidia-smi", "-L"];
/// Where there is no such tool: whether the driver's device may be opened at all.
const OPEN: &[&str] = &["sh", "-c", ": < /dev/nvidiactl"];

/// Looks into each container that has a card, every so often, until the daemon stops.
pub(super) async fn watch(stacks: Stacks, every: Duration) {
    let mut renewed: HashMap<(String, String), Instant> = HashMap::new();
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stacks.0.shutdown.cancelled() => return,
        }
        let sitters: Vec<Sitter> = stacks.seated().values().cloned().collect();
        for sitter in sitters {
            let Some(reason) = blind(&stacks.0.docker, &sitter.container).await else { continue };
            let key = (sitter.stack.clone(), sitter.service.clone());
            let again = renewed.get(&key).is_some_and(|at| at.elapsed() < AT_MOST_EVERY);
            stacks.lost_sight(&sitter, &reason, again);
            renewed.insert(key, Instant::now());
        }
    }
}

impl Stacks {
    /// A container does not see its card any more.
    fn lost_sight(&self, sitter: &Sitter, reason: &str, again: bool) {
        let Sitter { stack, service, container, .. } = sitter;
        tracing::warn!(stack, service, reason, again, "a container does not see its card any more");
        let renew = {
            let mut stations = self.stations();
            let Some(station) = stations.get_mut(stack) else { return };
            // Nothing is done to what is not wanted, nor while something is being done.
            let renew = !again && station.wanted == Some(Wanted::Up) && station.operation.is_none();
            if renew {
                station.blind.insert(container.clone());
            } else {
                station.problem = Some(format!("{service} does not see its card: {reason}"));
            }
            renew
        };
        if renew {
            drop(self.begin(stack, Work::Up));
        }
        self.changed();
    }
}

/// Why a container does not see its card; none when it does, or when nothing can be told.
async fn blind(docker: &Docker, container: &str) -> Option<String> {
    look(docker, container).await?;
    tokio::time::sleep(AGAIN).await;
    look(docker, container).await
}

async fn look(docker: &Docker, container: &str) -> Option<String> {
    for command in [TOOL, OPEN] {
        match tokio::time::timeout(WITHIN, docker.exec(container, command)).await {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(ran))) => return failed(&ran),
            // It does not run just now, or there is no engine: that is seen elsewhere.
            Ok(Err(Error::Refused { .. } | Error::Absent { .. })) => return None,
            Err(_) => return Some(format!("{} did not end within {} s", command[0], WITHIN.as_secs())),
        }
    }
    None
}

fn failed(ran: &Ran) -> Option<String> {
    let said = ran.said.lines().next().unwrap_or("not a word");
    (ran.code != 0).then(|| format!("{said} (exit code {})", ran.code))
}
