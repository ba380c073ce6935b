//! What leaves the house, packet by packet: a daemon and a Docker engine in a network of their own, behind a router
//! whose far side is captured.

mod capture;
mod dns;
mod namespace;
mod world;

use crate::stacks::engine::Engine;
use capture::Packet;
use dns::Zone;
use serde_json::json;
use sovereign::app::App;
use sovereign::config::Config;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use world::{NAMES, SOMEWHERE, SOMEWHERE_V6, World};

/// The image of [`PROBE`].
const IMAGE: &str = "sovereign-test/probe:1";
const PROBE: &str = include_str!("packets/probe.c");

/// A world, unless this machine cannot have one. Build servers can: there it is an error.
fn world(zone: Zone) -> Option<World> {
    match World::new(zone) {
        Ok(world) => Some(world),
        Err(error) if std::env::var_os("CI").is_none() => {
            eprintln!("NOT TESTED: what leaves the house. Networks of their own cannot be made here: {error}");
            None
        }
        Err(error) => panic!("networks of their own cannot be made here: {error}"),
    }
}

/// A test whose own threads are in the house, with time to wait.
fn at_home<F: Future<Output = ()>>(world: &World, test: impl FnOnce() -> F + Send) {
    world.house.within(|| {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(test());
    });
}

async fn daemon(folder: &Path, engine: &Engine) -> App {
    let file = folder.join("config.yaml");
    std::fs::write(&file, json!({"docker": {"host": engine.host()}}).to_string()).unwrap();
    let app = App::start(Config::load(Some(&file), Some(folder)).unwrap()).await.unwrap();
    crate::stacks::present(&app).await;
    app
}

fn engine(world: &World) -> Engine {
    let inhabit = world.inhabit();
    let engine = Engine::at(move |dockerd| {
        inhabit(dockerd);
        dockerd.arg("--bridge=none");
    });
    engine.make(PROBE, IMAGE);
    engine
}

/// What containers tell the probe to try, as a command of a compose file.
fn everything(secret: &str) -> Vec<String> {
    let (v4, v6, names) = (SOMEWHERE.to_string(), SOMEWHERE_V6.to_string(), NAMES.to_string());
    ["everything", &v4, &v6, &names, secret].map(str::to_owned).to_vec()
}

#[test]
fn nothing_of_a_container_leaves_the_house() {
    let Some(world) = world(Zone::new()) else { return };
    let engine = engine(&world);
    let folder = tempfile::tempdir().unwrap();
    at_home(&world, || async {
        let service = |secret: &str| json!({"image": IMAGE, "command": everything(secret)});
        let mut strong = service("strong");
        // What the file's owner may give, all the same.
        strong["cap_add"] = json!(["NET_ADMIN", "NET_RAW"]);
        let done = json!({"condition": "service_completed_successfully"});
        let after = json!({"image": IMAGE, "command": "wait", "depends_on": {"plain": done, "strong": done}});
        let file = json!({"services": {"plain": service("plain"), "strong": strong, "after": after}});
        crate::stacks::write(folder.path(), "spy", &file);
        let app = daemon(folder.path(), &engine).await;
        let before = world.outside.count();
        app.stacks.up("spy").await.unwrap().await.unwrap();

        for service in ["plain", "strong"] {
            let told = engine.docker(&["logs", &format!("sovereign.spy.{service}")]);
            assert!(told.ends_with("that was everything"), "{told}");
            assert!(service == "plain" || told.contains("a route: it is there"), "{told}");
            assert!(told.lines().count() > 15 && !told.contains("AN ANSWER"), "{told}");
        }
        let left = world.left(before);
        assert!(left.is_empty(), "{left:#?}");
        assert_eq!(world.stub.asked(), Vec::<String>::new(), "this machine's resolver was asked");

        // One word of anybody in the house would have been seen.
        UdpSocket::bind("0.0.0.0:0").unwrap().send_to(b"a word", (SOMEWHERE, 1234)).unwrap();
        let is_word = |packet: &Packet| packet.to == IpAddr::from(SOMEWHERE) && packet.payload == b"a word";
        assert!(world.left(before).iter().any(is_word), "{:?}", world.left(before));
        app.stacks.remove("spy").await.unwrap().await.unwrap();
        app.close().await;

        // Nor does a name stay in the house where the engine passes it on: as old ones do, unless we tell them.
        let version = engine.docker(&["version", "--format", "{{.Server.Version}}"]);
        if version.split('.').next().is_some_and(|major| major.parse::<u32>().is_ok_and(|major| major < 25)) {
            engine.docker(&["network", "create", "--internal", "open"]);
            let command = everything("open");
            let mut run = vec!["run", "--rm", "--network", "open", IMAGE];
            run.extend(command.iter().map(String::as_str));
            engine.docker(&run);
            let is_tunnel = |packet: &Packet| packet.name.as_deref() == Some("open.tunnel.test");
            assert!(world.left(before).iter().any(is_tunnel), "{:?}", world.left(before));
            engine.docker(&["network", "rm", "open"]);
        }
    });
}
