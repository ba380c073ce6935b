//! What leaves the house, by the program itself: asked, answered, taken offline, verified.

use crate::daemon::{Daemon, refusal, run, stdout};
use crate::models::mirror::{Answer, Mirror};
use crate::tiny;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Output;

const PATH: &str = "/Tiny-F32.gguf";

/// A server that counts as outside, and a daemon that asks before it fetches from there.
async fn house(state: &Path) -> (Mirror, Daemon) {
    let mirror = Mirror::start().await;
    mirror.put(PATH, Answer::file(tiny::model(1000, 1), "a"));
    (mirror, daemon(state))
}

fn daemon(state: &Path) -> Daemon {
    Daemon::with(state, &json!({"egress": {"lan": ["127.0.0.1"]}}), &[])
}

/// `sovereign ...` beside what goes on in this test.
async fn told(daemon: &Daemon, arguments: &[&str]) -> Output {
    let (state, arguments) = (daemon.state().to_owned(), arguments.iter().map(|it| it.to_string()).collect::<Vec<_>>());
    let run = move || run(&state, &arguments.iter().map(String::as_str).collect::<Vec<_>>());
    tokio::task::spawn_blocking(run).await.unwrap()
}

fn listing(daemon: &Daemon) -> Value {
    serde_json::from_str(&stdout(&daemon.run(&["egress", "list", "--json"]))).unwrap()
}

/// The number of the question that waits.
fn question(daemon: &Daemon) -> String {
    loop {
        if let Some(id) = listing(daemon)["questions"][0]["id"].as_u64() {
            return id.to_string();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_asks_and_the_command_line_answers() {
    let dir = tempfile::tempdir().unwrap();
    let (mirror, daemon) = house(dir.path()).await;
    let url = mirror.url(PATH);
    let answer = async |verdict: &str| {
        let id = question(&daemon);
        let asked = listing(&daemon)["questions"][0].clone();
        assert_eq!((&asked["host"], &asked["initiator"]), (&json!("127.0.0.1"), &json!("owner")), "{asked}");
        assert!(mirror.asked().is_empty(), "something left before the answer");
        stdout(&told(&daemon, &["egress", verdict, &id]).await);
    };
    let pull = ["model", "pull", &url];
    let (refused, ()) = tokio::join!(told(&daemon, &pull), answer("deny"));
    let said = refusal(&refused);
    assert!(said.contains("May this leave the house?") && said.contains("you refused it"), "{said}");
    let (pulled, ()) = tokio::join!(told(&daemon, &pull), answer("allow"));
    assert!(stdout(&pulled).contains("tiny-f32 is ready"));

    // Who need not wait for an answer says so.
    stdout(&told(&daemon, &["model", "rm", "tiny-f32"]).await);
    stdout(&told(&daemon, &["model", "pull", &url, "--yes"]).await);
    let lines = listing(&daemon)["lines"].clone();
    let kinds: Vec<&str> = lines.as_array().unwrap().iter().map(|line| line["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, ["opened", "allowed", "opened", "allowed", "refused"]);
    assert!(lines[0]["bytes_in"].as_u64().unwrap() > 300_000, "{lines}");
    let people = stdout(&daemon.run(&["egress", "list"]));
    assert!(people.contains("model_downloads") && people.contains("127.0.0.1"), "{people}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_decided_outlives_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (mirror, first) = house(dir.path()).await;
    let url = mirror.url(PATH);
    stdout(&first.run(&["egress", "allow", "model_downloads", "127.0.0.1", "--always"]));
    let said = stdout(&first.run(&["offline"]));
    assert!(said.contains("`sovereign online`"), "{said}");
    assert_eq!(first.stop().0, Some(0));

    let second = daemon(dir.path());
    let said = refusal(&told(&second, &["model", "pull", &url]).await);
    assert!(said.contains("the house is offline") && mirror.asked().is_empty(), "{said}");
    stdout(&second.run(&["online"]));
    stdout(&told(&second, &["model", "pull", &url]).await);
    assert_eq!(mirror.asked().len(), 1);

    let decision = listing(&second)["consents"][0]["id"].to_string();
    stdout(&second.run(&["egress", "revoke", &decision]));
    assert!(refusal(&second.run(&["egress", "revoke", &decision])).contains("no decision"));
    stdout(&second.run(&["egress", "set", "model_downloads", "off"]));
    stdout(&told(&second, &["model", "rm", "tiny-f32"]).await);
    let said = refusal(&told(&second, &["model", "pull", &url]).await);
    assert!(said.contains("model_downloads are off"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_is_verified_with_and_without_a_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let (mirror, daemon) = house(dir.path()).await;
    stdout(&told(&daemon, &["model", "pull", &mirror.url(PATH), "--yes"]).await);
    let running = stdout(&daemon.run(&["egress", "verify"]));
    assert!(running.contains("Every row is as it was written."), "{running}");
    let export = stdout(&daemon.run(&["egress", "export"]));
    let last: Value = serde_json::from_str(export.lines().last().unwrap()).unwrap();
    assert!(running.contains(last["hash"].as_str().unwrap()), "{running}");
    assert_eq!(daemon.stop().0, Some(0));
    assert_eq!(stdout(&run(dir.path(), &["egress", "verify"])), running);

    // One letter of one row, by whoever can write the file.
    let file = dir.path().join("egress.db");
    let bytes = std::fs::read(&file).unwrap();
    let at = bytes.windows(11).position(|window| window == b"\"127.0.0.1\"").unwrap() + 9;
    let mut changed = bytes.clone();
    changed[at] = b'2';
    std::fs::write(&file, &changed).unwrap();
    let said = refusal(&run(dir.path(), &["egress", "verify"]));
    assert!(said.contains("CHANGED"), "{said}");

    // A daemon that finds its ledger shorter than it was runs, and lets nothing out.
    std::fs::write(&file, bytes).unwrap();
    std::fs::write(dir.path().join("egress.head"), format!("{:020} {}\n", 99, "ab".repeat(32))).unwrap();
    let daemon = self::daemon(dir.path());
    mirror.asked();
    let said = refusal(&told(&daemon, &["model", "pull", &mirror.url("/other.gguf"), "--yes"]).await);
    assert!(said.contains("was changed") && mirror.asked().is_empty(), "{said}");
}
