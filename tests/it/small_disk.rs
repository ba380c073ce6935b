//! What becomes of a disk that is full: a real one of some KiB, which only the process under test sees.

use crate::daemon::Daemon;
use crate::tiny;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

/// Runs a command, to whose words its own are appended, with a disk of so many KiB in the folder `dir`.
pub fn command(dir: &Path, kib: u32) -> Command {
    let mut command = Command::new("unshare");
    // Who is root keeps the rights that he has; who isn't is root in a world of his own.
    command.arg(if rustix::process::geteuid().is_root() { "-m" } else { "-rm" });
    let mount = format!("mount -t tmpfs -o size={kib}k,mode=0700 tmpfs \"$0\" && exec \"$@\"");
    command.args(["sh", "-c", &mount]).arg(dir);
    command
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|said| String::from_utf8_lossy(said)).concat()
}

#[test]
fn a_model_that_does_not_fit_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (from, disk) = (dir.path().join("m.gguf"), dir.path().join("disk"));
    std::fs::write(&from, tiny::model(2000, 1)).unwrap();
    std::fs::create_dir(&disk).unwrap();
    let check = |arguments: &[&str], names: &str| {
        // What is there afterwards is told, as it goes with the process.
        let script = "\"$@\"; code=$?; ls -A \"$0\"; exit $code";
        let mut command = command(&disk, 64);
        command.args(["sh", "-c", script]).arg(&disk).arg(env!("CARGO_BIN_EXE_sovereign"));
        let ended = command.args(["model", "quantize"]).arg(&from).arg(disk.join("q.gguf")).args(arguments).output();
        let ended = ended.unwrap();
        let said = text(&ended);
        assert_eq!((ended.status.code(), ended.stdout.len()), (Some(1), 0), "{said}");
        assert!(said.contains(names) && said.contains("No space left on device"), "{said}");
    };
    check(&["--type", "f16"], &format!("cannot write {}, of 317120 bytes", disk.join("q.gguf").display()));
    check(&["--fit", "200KiB"], &disk.join("q.gguf.predictions").display().to_string());
}

#[tokio::test]
async fn answers_go_on_where_prompts_cannot_be_kept() {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("tiny.gguf");
    std::fs::write(&model, tiny::model(400, 3)).unwrap();
    let (roomy, full) = (dir.path().join("roomy"), dir.path().join("full"));
    let mut answers: Vec<Vec<Value>> = Vec::new();
    for (state, kib) in [(&roomy, 1 << 20), (&full, 4)] {
        let prefixes = state.join("prefixes");
        std::fs::create_dir_all(&prefixes).unwrap();
        let config = json!({"engine": {"prefix_cache": "1GiB"}, "placement": {"keep_alive": 0}});
        let mut command = command(&prefixes, kib);
        command.arg(env!("CARGO_BIN_EXE_sovereign"));
        let daemon = Daemon::by(command, state, &config, &[]);
        assert!(daemon.run(&["model", "pull", model.to_str().unwrap()]).status.success());
        let mut said = Vec::new();
        for first in [3, 90, 200] {
            let prompt: Vec<u64> = (first..first + 60).collect();
            let body = json!({"model": "tiny", "prompt": prompt, "max_tokens": 4, "temperature": 0});
            let answer = daemon.post("/v1/completions", &body).send().await.unwrap();
            said.push(answer.json::<Value>().await.unwrap()["choices"][0].clone());
        }
        answers.push(said);
        // A worker writes what is left when it ends, as here it does when it has answered.
        while daemon.status()["placement"]["tenants"] != json!([]) {}
        let log = daemon.log();
        let told = format!("the prefix cache in {} does not work: cannot write", prefixes.display());
        assert_eq!(log.contains(&told), kib == 4, "{log}");
        assert_eq!(log.contains(" bytes: No space left on device"), kib == 4, "{log}");
        // As the daemon sees it.
        let seen = std::fs::read_dir(daemon.seen(&prefixes)).unwrap();
        let names: Vec<String> = seen.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        assert!(names.iter().all(|name| name.ends_with(".kv")), "{names:?}");
        assert_eq!(names.len() <= 1, kib == 4, "{names:?}");
    }
    assert!(answers[0].iter().all(|answer| answer["finish_reason"] == "length"), "{answers:?}");
    assert_eq!(answers[0], answers[1]);
}
