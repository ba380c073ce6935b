//! The whole of it: `sovereign serve` in the house, with models, stacks and a person at the command line.

use super::capture::{Capture, Packet};
use super::internet::Authority;
use super::world::{HOUSE, NAMES, SOMEWHERE, SOMEWHERE_V6, World};
use super::*;
use crate::daemon::{Daemon, test_model};
use crate::stacks::registry::Registry;
use crate::stacks::{free_port, greeting, write};
use crate::tiny;
use jiff::SignedDuration;
use serde_json::{Value, json};
use std::net::UdpSocket;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const PROGRAM: &str = env!("CARGO_BIN_EXE_sovereign");
const MODEL: &str = "https://models.test/tiny.gguf";
const CLASSES: [&str; 3] = ["model_downloads", "image_pulls", "stacks"];

struct House<'a> {
    world: &'a World,
    engine: &'a Engine,
    daemon: Daemon,
    state: &'a std::path::Path,
    /// Of a browser's session.
    cookie: String,
    /// Where the stack `home` greets.
    port: u16,
}

impl House<'_> {
    /// What a command prints, which succeeds.
    #[track_caller]
    fn done(&self, arguments: &[&str]) -> String {
        let ended = self.daemon.run(arguments);
        let (said, why) = (String::from_utf8_lossy(&ended.stdout), String::from_utf8_lossy(&ended.stderr));
        assert!(ended.status.success(), "sovereign {arguments:?}: {said}{why}\n{}", self.daemon.log());
        said.into_owned()
    }

    /// Why a command fails.
    #[track_caller]
    fn refused(&self, arguments: &[&str]) -> String {
        let ended = self.daemon.run(arguments);
        assert!(!ended.status.success(), "sovereign {arguments:?}: {}", String::from_utf8_lossy(&ended.stdout));
        String::from_utf8_lossy(&ended.stderr).into_owned()
    }

    /// Begins a command.
    fn begin(&self, arguments: &[&str]) -> Child {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).arg("--state").arg(self.state);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    fn set(&self, mode: &str) {
        for class in CLASSES {
            self.done(&["egress", "set", class, mode]);
        }
    }

    /// Answers the next question about a host, and returns what had left before the answer.
    fn answer(&self, host: &str, answer: &str, from: usize) -> Vec<Packet> {
        let begun = Instant::now();
        let question = loop {
            let listed: Value = serde_json::from_str(&self.done(&["egress", "list", "--json"])).unwrap();
            let questions = listed["questions"].as_array().unwrap();
            if let Some(question) = questions.iter().find(|question| question["host"] == host) {
                break question["id"].to_string();
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "nobody asks for {host}: {listed}");
        };
        let before = self.world.left(from);
        self.done(&["egress", answer, &question]);
        before
    }

    fn account(&self, from: usize) -> Account {
        let packets = self.world.left(from);
        account(&packets, &self.done(&["egress", "export"]), &self.world.zone, &HOUSE)
    }

    /// What needs nobody outside: a model's answer, the dashboard, a stack.
    async fn lives(&self) {
        let body = json!({"model": "gemma-3-270m", "max_tokens": 4, "prompt": "The capital of France is"});
        let answer = self.daemon.post("/v1/completions", &body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["usage"]["completion_tokens"].as_u64().is_some_and(|tokens| tokens > 0), "{answer}");
        for page in ["/", "/stacks", "/ledger"] {
            let page = self.daemon.get(page).header("cookie", &self.cookie).header("accept", "text/html");
            assert_eq!(page.send().await.unwrap().status(), 200);
        }
        self.done(&["stack", "up", "home"]);
        assert_eq!(greeting(self.port).await, "home");
        self.done(&["stack", "down", "home"]);
    }

    /// What a service says when it has ended.
    fn said(&self, stack: &str, service: &str) -> String {
        let container = format!("sovereign.{stack}.{service}");
        self.engine.docker(&["wait", &container]);
        let said = self.engine.docker(&["logs", &container]);
        assert!(said.ends_with("that was everything"), "{said}");
        said
    }

    /// Containers that try everything; nothing of it comes through.
    fn spy(&self) {
        self.done(&["stack", "up", "spy"]);
        assert!(!self.said("spy", "spy").contains("AN ANSWER"));
        self.done(&["stack", "rm", "spy"]);
    }

    /// A stack, from its beginning to what its service says.
    fn ask(&self, stack: &str) -> String {
        self.done(&["stack", "up", stack]);
        let said = self.said(stack, "asks");
        self.done(&["stack", "rm", stack]);
        said
    }
}

/// The stacks of the house.
fn stacks(state: &std::path::Path, image: &str, port: u16) {
    let one = |name: &str, egress: &[&str], service: Value| {
        write(state, name, &json!({"x-sovereign": {"egress": egress}, "services": {name_of(name): service}}));
    };
    let home = json!({
        "image": crate::stacks::engine::IMAGE, "environment": {"GREETING": "home"}, "ports": [format!("127.0.0.1:{port}:7777")],
    });
    one("home", &[], home);
    let (v4, v6, names) = (SOMEWHERE.to_string(), SOMEWHERE_V6.to_string(), NAMES.to_string());
    let everything = json!(["everything", v4, v6, names, "secret"]);
    one("spy", &["api.test"], json!({"image": IMAGE, "command": everything}));
    one("pulls", &[], json!({"image": image, "command": "wait"}));
    let asks = ["ask", "CONNECT", "api.test:4444", "GET", "http://api.test/page", "CONNECT", "other.test:443"];
    one("asks", &["api.test", "api.test:4444"], json!({"image": IMAGE, "command": asks}));
    let storm = |target: &str| json!({"image": IMAGE, "command": ["storm", "CONNECT", target, "8"]});
    one("by-name", &["dead.test"], storm("dead.test:443"));
    one("by-address", &["151.101.1.77"], storm("151.101.1.77:443"));
}

fn name_of(stack: &str) -> &str {
    match stack {
        "home" | "spy" | "pulls" => stack,
        _ => "asks",
    }
}

#[track_caller]
fn clean(account: &Account, packets: usize, rows: usize) {
    let Account { strays, .. } = account;
    assert!(strays.is_empty(), "{} strays: {strays:#?}", strays.len());
    assert!(account.packets >= packets && account.rows >= rows, "{} packets, {} rows", account.packets, account.rows);
}

#[test]
fn every_packet_of_the_house_is_in_its_ledger() {
    let Some(world) = world() else { return };
    let engine = engine(&world);
    let folder = tempfile::tempdir().unwrap();
    let state = folder.path().join("state");
    let layer = std::fs::read(engine.layer()).unwrap();
    let authority = Authority::new(folder.path(), &["models.test"]);
    let pages = HashMap::from([("/page", b"a page".to_vec()), ("/tiny.gguf", tiny::model(400, 3))]);
    internet::serve(&world.internet, pages, &authority);
    at_home(&world, || async {
        let listener = world.internet.within(|| std::net::TcpListener::bind("151.101.1.20:5000")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let registry = Registry::at(tokio::net::TcpListener::from_std(listener).unwrap(), REGISTRY, layer, "/hello");
        registry.open();
        let port = free_port();
        stacks(&state, &registry.image, port);
        let mut serve = Command::new(PROGRAM);
        world.inhabit()(&mut serve);
        let config = json!({"docker": {"host": engine.host()}});
        let certificates = [("SSL_CERT_FILE", authority.certificate.to_str().unwrap())];
        let before = world.outside.count();
        let daemon = Daemon::by(serve, &state, &config, &certificates);
        let cookie = daemon.sign_in().await;
        let house = House { world: &world, engine: &engine, daemon, state: &state, cookie, port };
        house.done(&["model", "pull", test_model("gemma-3-270m").to_str().unwrap()]);
        let pull = ["model", "pull", MODEL];

        // Off, and offline with everything on: the house lives, and not one packet leaves it.
        for mode in ["off", "offline"] {
            if mode == "off" {
                house.set("off");
            } else {
                house.set("on");
                house.done(&["offline"]);
            }
            house.lives().await;
            house.spy();
            let why = house.refused(&pull);
            assert!(why.contains(mode), "{why}");
            let why = house.refused(&["stack", "up", "pulls"]);
            assert!(why.contains(mode), "{why}");
            let said = house.ask("asks");
            assert_eq!(said.matches(": 403 Sovereign: ").count(), 3, "{said}");
            assert_eq!(house.account(before), Account::default(), "{mode}");
        }
        assert_eq!(world.stub.asked(), Vec::<String>::new());

        // Ask: what was allowed, and not before.
        house.done(&["online"]);
        house.set("ask");
        let mut pulling = house.begin(&pull);
        assert_eq!(house.answer("models.test", "allow", before), []);
        assert!(pulling.wait().unwrap().success(), "{}", house.daemon.log());
        let models = world.outside.count();
        clean(&house.account(before), 20, 2);
        let mut bringing = house.begin(&["stack", "up", "pulls"]);
        assert_eq!(house.answer("registry.test", "allow", models), []);
        assert!(bringing.wait().unwrap().success(), "{}", house.daemon.log());
        house.done(&["stack", "rm", "pulls"]);
        let images = world.outside.count();
        house.done(&["stack", "up", "asks"]);
        assert_eq!(house.answer("api.test", "deny", images), []);
        assert_eq!(house.answer("api.test", "allow", images), []);
        let said = house.said("asks", "asks");
        assert!(said.contains("CONNECT api.test:4444: 403") && said.contains("page: 200 a page"), "{said}");
        house.done(&["stack", "rm", "asks"]);
        house.spy();
        house.lives().await;
        let ask = house.account(before);
        clean(&ask, 60, 5);

        // On: all of it is written down.
        house.set("on");
        let begun = world.outside.count();
        house.done(&["model", "rm", "tiny"]);
        house.done(&pull);
        let said = house.ask("asks");
        assert!(
            said.contains("CONNECT api.test:4444: 200 it comes back") && said.contains("other.test:443: 403"),
            "{said}"
        );
        house.spy();
        house.lives().await;
        let on = house.account(begun);
        clean(&on, 40, 6);

        // What nobody wrote down is found.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"a word", ("151.101.1.30", 4444)).unwrap();
        let strays = house.account(before).strays;
        assert!(!strays.is_empty() && strays.iter().all(|packet| packet.payload == b"a word"), "{strays:#?}");

        // Unplugged: the house lives, and nobody tries again and again.
        world.router.ip("link set wan down");
        let inside = Capture::start(&world.router, "lan");
        house.done(&["stack", "up", "by-name"]);
        house.done(&["stack", "up", "by-address"]);
        for _ in 0..4 {
            house.refused(&["model", "pull", "https://gone.test/gone.gguf"]);
        }
        house.lives().await;
        for stack in ["by-name", "by-address"] {
            let said = house.said(stack, "asks");
            let tries = said.lines().rev().nth(1).and_then(|line| line.split(' ').next()).unwrap();
            assert!(tries.parse::<u32>().unwrap() > 50, "{said}");
        }
        let tried = attempts(&inside);
        let hosts: Vec<&str> = tried.iter().map(|(host, _)| host.as_str()).collect();
        assert_eq!(hosts, ["151.101.1.77", "dead.test", "gone.test"]);
        assert!(tried.iter().all(|(_, attempts)| *attempts == 1), "{tried:?}");
        println!(
            "off and offline: 0 packets; ask: {} packets, {} rows; on: {} packets, {} rows; unplugged: {tried:?}",
            ask.packets, ask.rows, on.packets, on.rows
        );
        house.done(&["egress", "verify"]);
        for stack in ["by-name", "by-address", "home"] {
            house.done(&["stack", "rm", stack]);
        }
    });
}

/// How often somebody in the house tried to reach each host: what is asked within two seconds is one attempt.
fn attempts(inside: &Capture) -> Vec<(String, usize)> {
    let mut seen: HashMap<String, Vec<jiff::Timestamp>> = HashMap::new();
    for packet in inside.all() {
        let ours =
            ["192.168.77.2", "fd77::2", "2a0e:5::2"].map(|own| own.parse::<IpAddr>().unwrap()).contains(&packet.from);
        let host = match &packet.name {
            Some(name) => name.clone(),
            None => packet.to.to_string(),
        };
        if ours {
            seen.entry(host).or_default().push(packet.at);
        }
    }
    let count = |times: &[jiff::Timestamp]| {
        let mut attempts: Vec<jiff::Timestamp> = Vec::new();
        for at in times {
            if attempts.last().is_none_or(|last| *at > *last + SignedDuration::from_secs(2)) {
                attempts.push(*at);
            }
        }
        attempts.len()
    };
    let mut attempts: Vec<(String, usize)> = seen.iter().map(|(host, times)| (host.clone(), count(times))).collect();
    attempts.sort();
    attempts
}
