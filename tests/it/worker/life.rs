//! How a worker begins and ends.

use super::*;

#[tokio::test]
async fn ends_with_whoever_started_it() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("worker.sock");
    let mut worker = Worker::start_at(&model("gemma-3-270m"), &format!("unix:{}", socket.display()), &["--ctx", "64"]);
    assert_eq!(worker.address, Address::Unix(socket.clone()));
    worker.stdin.as_mut().unwrap().write_all(b"means nothing\n").unwrap();
    assert_eq!(worker.get("/health").await.status(), 200);
    // In the middle of an answer.
    let body = json!({"prompt": "Once", "max_tokens": 60, "stream": true});
    let mut stream = worker.post("/v1/completions", &body).await;
    stream.chunk().await.unwrap();
    worker.stdin = None;
    assert!(worker.wait().success());
    assert!(!socket.exists());
}

#[test]
fn ends_with_its_parent_though_the_pipe_is_held_open() {
    let worker = command(&model("gemma-3-270m"), "tcp:127.0.0.1:0");
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "exec 3<&0; \"$@\" <&3 & wait", "sh"])
        .arg(worker.get_program())
        .args(worker.get_args())
        .arg("--tied");
    let mut shell = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // Ours, and open to the end of the test.
    let _stdin = shell.stdin.take().unwrap();
    let mut stdout = BufReader::new(shell.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    assert!(line.starts_with("ready "), "{line:?}");
    shell.kill().unwrap();
    shell.wait().unwrap();
    // With the shell gone, the worker alone holds the other end.
    let (ended, end) = std::sync::mpsc::channel();
    std::thread::spawn(move || ended.send(stdout.read_to_end(&mut Vec::new()).is_ok()));
    assert_eq!(end.recv_timeout(SOON), Ok(true), "the worker outlives its parent");
}

#[tokio::test]
async fn ends_on_a_signal() {
    let mut worker = Worker::start(&model("gemma-3-270m"), &["--ctx", "64"]);
    let pid = rustix::process::Pid::from_child(&worker.child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(worker.wait().success());
}

#[test]
fn a_bad_model_is_told_in_one_line() {
    let dir = tempfile::tempdir().unwrap();
    let check = |name: &str, bytes: Option<&[u8]>, says: &str| {
        let file = dir.path().join(name);
        if let Some(bytes) = bytes {
            std::fs::write(&file, bytes).unwrap();
        }
        let output = command(&file, "tcp:127.0.0.1:0").output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert_eq!((output.stdout.as_slice(), stderr.lines().count()), (&b""[..], 1), "{stderr}");
        assert!(stderr.contains(name) && stderr.contains(says), "{stderr}");
    };
    check("missing.gguf", None, "No such file");
    check("text.gguf", Some(b"This is not a model."), "GGUF");
    let mut begun = Vec::new();
    std::fs::File::open(model("gemma-3-270m")).unwrap().take(1 << 20).read_to_end(&mut begun).unwrap();
    check("truncated.gguf", Some(&begun), "");
}
