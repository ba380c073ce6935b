//! What leaves the house, packet by packet: a daemon and a Docker engine in a network of their own, behind a router
//! whose far side is captured.

mod account;
mod capture;
mod containers;
mod dns;
mod internet;
mod namespace;
mod whole;
mod world;

use crate::stacks::engine::Engine;
use account::{Account, account};
use dns::Zone;
use std::collections::HashMap;
use std::net::IpAddr;
use world::World;

/// The image of [`PROBE`].
const IMAGE: &str = "sovereign-test/probe:1";
const PROBE: &str = include_str!("packets/probe.c");
/// A registry of the internet.
const REGISTRY: &str = "registry.test:5000";

/// A world, unless this machine cannot have one. Build servers can: there it is an error.
fn world() -> Option<World> {
    match World::new(zone()) {
        Ok(world) => Some(world),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("NOT TESTED: what leaves the house. Networks of their own cannot be made here: {error}");
            None
        }
        Err(error) => panic!("networks of their own cannot be made here: {error}"),
    }
}

/// What the internet's name server knows.
fn zone() -> Zone {
    let names = [
        ("api.test", "151.101.1.30"),
        ("six.test", "2a0e:77::6"),
        ("other.test", "151.101.1.40"),
        ("lan.test", "192.168.77.2"),
        ("printer.test", "2a0e:5::9"),
        ("registry.test", "151.101.1.20"),
        ("models.test", "151.101.1.10"),
        ("dead.test", "151.101.1.50"),
        ("gone.test", "151.101.1.60"),
    ];
    names.map(|(name, address)| (name, vec![address.parse::<IpAddr>().unwrap()])).into()
}

/// A test whose own threads are in the house.
fn at_home<F: Future<Output = ()>>(world: &World, test: impl FnOnce() -> F + Send) {
    world.at_home(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

/// An engine in the house, with its own firewall.
fn engine(world: &World) -> Engine {
    let inhabit = world.inhabit();
    let engine = Engine::at(move |dockerd| {
        inhabit(dockerd);
        dockerd.args(["--bridge=none", &format!("--insecure-registry={REGISTRY}")]);
    });
    engine.make(PROBE, IMAGE);
    engine
}
