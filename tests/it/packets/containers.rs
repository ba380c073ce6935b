//! What containers send: nothing by themselves, and by their proxy what their file lists and the owner allows.

use super::capture::Packet;
use super::world::{HOUSE, NAMES, SOMEWHERE, SOMEWHERE_V6, World};
use super::*;
use crate::stacks::registry::Registry;
use crate::stacks::{present, write};
use futures_util::TryStreamExt;
use serde_json::{Value, json};
use sovereign::app::App;
use sovereign::config::{Config, Mode};
use sovereign::docker::State;
use sovereign::egress::{Answer, Class, Period, Question};
use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

const SOON: Duration = Duration::from_secs(60);

async fn daemon(folder: &Path, engine: &Engine) -> App {
    let file = folder.join("config.yaml");
    std::fs::write(&file, json!({"docker": {"host": engine.host()}}).to_string()).unwrap();
    let app = App::start(Config::load(Some(&file), Some(folder)).unwrap()).await.unwrap();
    present(&app).await;
    assert!(matches!(*app.docker.state().borrow(), State::Present(_)));
    app
}

/// What the probe is told to try.
fn everything(secret: &str) -> Vec<String> {
    let (v4, v6, names) = (SOMEWHERE.to_string(), SOMEWHERE_V6.to_string(), NAMES.to_string());
    ["everything", &v4, &v6, &names, secret].map(str::to_owned).to_vec()
}

#[test]
fn nothing_of_a_container_leaves_the_house() {
    let Some(world) = world() else { return };
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
        write(folder.path(), "spy", &file);
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

/// The ledger so far, a JSON object a line; what is not written yet is waited for.
async fn exported(app: &App) -> String {
    let ledger = app.egress.ledger().unwrap();
    ledger.append(sovereign::egress::ledger::Event::Online, None).await.unwrap();
    ledger.export().try_collect::<Vec<String>>().await.unwrap().concat()
}

/// What left since `from`, compared with the ledger.
async fn accounted(app: &App, world: &World, from: usize) -> Account {
    let packets = world.left(from);
    account(&packets, &exported(app).await, &world.zone, &HOUSE)
}

/// Waits for a question of the owner's.
async fn question(app: &App, class: Class, host: &str) -> Question {
    let mut changes = app.egress.changes();
    let asked = async {
        loop {
            changes.borrow_and_update();
            let is_it = |question: &Question| question.class == class && question.host == host;
            if let Some(question) = app.egress.questions().into_iter().find(is_it) {
                return question;
            }
            changes.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(SOON, asked).await {
        Ok(question) => question,
        Err(_) => panic!("nobody asks for {host}; {:?}", app.egress.view()),
    }
}

async fn answer(app: &App, class: Class, host: &str, allow: bool) {
    let question = question(app, class, host).await;
    app.egress.answer(question.id, Answer { allow, period: Period::Once }).await.unwrap();
}

/// What a service says once it has ended.
fn said(engine: &Engine, container: &str) -> String {
    engine.docker(&["wait", container]);
    let said = engine.docker(&["logs", container]);
    assert!(said.ends_with("that was everything"), "{said}");
    said
}

/// A stack that asks for these, and is allowed to by its file.
fn asking(targets: &[(&str, &str)]) -> Value {
    let targets: Vec<&str> = targets.iter().flat_map(|(method, target)| [*method, *target]).collect();
    let command = [&["ask"], &targets[..]].concat();
    json!({
        "x-sovereign": {"egress": ["api.test", "api.test:4444", "six.test:4444", "*.test:8443", "lan.test"]},
        "services": {"asks": {"image": IMAGE, "command": command}},
    })
}

#[track_caller]
fn has(said: &str, part: &str) {
    assert!(said.contains(part), "{part:?} is not in:\n{said}");
}

#[test]
fn a_container_leaves_by_its_proxy_as_the_owner_allows() {
    let Some(world) = world() else { return };
    let engine = engine(&world);
    let folder = tempfile::tempdir().unwrap();
    let layer = std::fs::read(engine.layer()).unwrap();
    let pages = HashMap::from([("/page", b"a page of the internet".to_vec())]);
    let authority = internet::Authority::new(folder.path(), &["api.test"]);
    internet::serve(&world.internet, pages, &authority);
    at_home(&world, || async {
        let listener = world.internet.within(|| std::net::TcpListener::bind("151.101.1.20:5000")).unwrap();
        listener.set_nonblocking(true).unwrap();
        let registry = Registry::at(tokio::net::TcpListener::from_std(listener).unwrap(), REGISTRY, layer, "/hello");
        registry.open();
        write(folder.path(), "pulls", &json!({"services": {"a": {"image": registry.image, "command": "wait"}}}));
        let few = [("CONNECT", "api.test:4444"), ("GET", "http://api.test/page"), ("CONNECT", "other.test:443")];
        write(folder.path(), "few", &asking(&few));
        let more = [
            ("CONNECT", "six.test:4444"),
            ("CONNECT", "a.test:8443"),
            ("GET", "http://lan.test/"),
            ("CONNECT", "printer.test:8443"),
            ("CONNECT", "192.168.77.1:53"),
            ("GET", "https://api.test/page"),
            ("GET", "/page"),
        ];
        write(folder.path(), "many", &asking(&[&few[..], &more].concat()));
        let app = daemon(folder.path(), &engine).await;
        let up = async |stack: &str| app.stacks.up(stack).await.unwrap().await;
        let again = async |stack: &str| {
            app.stacks.remove(stack).await.unwrap().await.unwrap();
            app.stacks.up(stack).await.unwrap().await.unwrap();
        };

        // Off: nothing leaves, whoever asks, and it is told why.
        let before = world.outside.count();
        app.egress.set_mode(Class::ImagePull, Mode::Off).await.unwrap();
        up("few").await.unwrap();
        let told = said(&engine, "sovereign.few.asks");
        has(&told, "CONNECT api.test:4444: 403 Sovereign: api.test may not be reached");
        has(&told, "stacks are off");
        has(&told, "CONNECT other.test:443: 403 Sovereign: other.test may not be reached");
        has(&told, "x-sovereign: {egress: [\"other.test:443\"]}");
        let refused = up("pulls").await.unwrap_err().to_string();
        has(&refused, "the image registry.test:5000/hello:1 cannot be pulled: registry.test may not be reached");
        has(&refused, "image_pulls are off");
        assert_eq!(app.stacks.get("pulls").await.unwrap().problem, Some(refused));
        let off = accounted(&app, &world, before).await;
        assert_eq!(off, Account::default());
        let exported = exported(&app).await;
        for host in ["api.test", "other.test", "registry.test"] {
            let refused = "\"kind\":\"refused\"";
            assert!(exported.lines().any(|line| line.contains(refused) && line.contains(host)), "{exported}");
        }
        has(&exported, "{\"stack\":{\"stack\":\"few\",\"service\":\"asks\"}}");

        // Ask: nothing leaves before the answer, and after it what was allowed.
        app.egress.set_mode(Class::ImagePull, Mode::Ask).await.unwrap();
        app.egress.set_mode(Class::Stack, Mode::Ask).await.unwrap();
        again("few").await;
        let asked = question(&app, Class::Stack, "api.test").await;
        assert_eq!((asked.port, world.left(before)), (4444, vec![]));
        answer(&app, Class::Stack, "api.test", false).await;
        answer(&app, Class::Stack, "api.test", true).await;
        let told = said(&engine, "sovereign.few.asks");
        has(&told, "CONNECT api.test:4444: 403 ");
        has(&told, "GET http://api.test/page: 200 a page of the internet");
        let pull = app.stacks.up("pulls").await.unwrap();
        answer(&app, Class::ImagePull, "registry.test", true).await;
        pull.await.unwrap();
        let ask = accounted(&app, &world, before).await;
        assert!(ask.strays.is_empty() && ask.rows >= 3 && ask.packets > 20, "{ask:#?}");
        assert!(world.left(before).iter().all(|packet| packet.ports.is_none_or(|ports| ports.1 != 4444)));
        app.stacks.remove("pulls").await.unwrap().await.unwrap();

        // On: what the file lists, and nothing of the house's own.
        app.egress.set_mode(Class::Stack, Mode::On).await.unwrap();
        let begun = world.outside.count();
        up("many").await.unwrap();
        let told = said(&engine, "sovereign.many.asks");
        has(&told, "CONNECT api.test:4444: 200 it comes back");
        has(&told, "GET http://api.test/page: 200 a page of the internet");
        has(&told, "CONNECT six.test:4444: 200 it comes back");
        has(&told, "CONNECT a.test:8443: 502 Sovereign: the address of a.test cannot be found");
        has(&told, "GET http://lan.test/: 403 Sovereign: lan.test leads to 192.168.77.2, a private address");
        has(&told, "CONNECT printer.test:8443: 403 Sovereign: printer.test leads to 2a0e:5::9");
        has(&told, "CONNECT 192.168.77.1:53: 403 ");
        has(&told, "GET https://api.test/page: 400 ");
        has(&told, "GET /page: 400 Sovereign: this is a proxy");
        let on = accounted(&app, &world, begun).await;
        assert!(on.strays.is_empty() && on.packets > 20, "{on:#?}");
        let all = accounted(&app, &world, before).await;
        assert!(all.strays.is_empty(), "{all:#?}");

        // What nobody wrote down is found, even where something else went the same way.
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"a word", ("151.101.1.30", 4444)).unwrap();
        let strays = accounted(&app, &world, before).await.strays;
        assert!(!strays.is_empty() && strays.iter().all(|packet| packet.payload == b"a word"), "{strays:?}");
        println!("off: {off:?}; ask: {} packets, {} rows; on: {} packets", ask.packets, ask.rows, on.packets);
        for stack in ["few", "many"] {
            app.stacks.remove(stack).await.unwrap().await.unwrap();
        }
        app.close().await;
    });
}
