//! Stacks, in a Docker engine of the test's own.

mod cards;
pub mod engine;
mod homelab;
pub mod registry;

use axum::body::Body;
use axum::http::{Method, Request, StatusCode};
use engine::{Engine, IMAGE};
use futures_util::StreamExt;
use registry::Registry;
use serde_json::{Value, json};
use sovereign::admin;
use sovereign::app::App;
use sovereign::config::Config;
use sovereign::docker::{Logs, State, Status};
use sovereign::stacks::{Error, StackState, StackView};
use std::net::TcpListener;
use std::path::Path;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tower::ServiceExt;

const SOON: Duration = Duration::from_secs(90);

/// A daemon's parts over a state folder, with the owner's stacks in it.
async fn daemon(folder: &Path, docker: &str) -> App {
    let config = json!({"docker": {"host": docker}, "egress": {"image_pulls": "on"}}).to_string();
    let file = folder.join("config.yaml");
    std::fs::write(&file, config).unwrap();
    App::start(Config::load(Some(&file), Some(folder)).unwrap()).await.unwrap()
}

pub fn write(folder: &Path, stack: &str, file: &Value) {
    std::fs::create_dir_all(folder.join("stacks")).unwrap();
    std::fs::write(folder.join(format!("stacks/{stack}.yaml")), file.to_string()).unwrap();
}

/// A request to the admin API: its status, and each line of its answer.
async fn ask(app: &App, method: Method, path: &str) -> (StatusCode, Vec<Value>) {
    let request = Request::builder().method(method).uri(path).body(Body::empty()).unwrap();
    let answer = admin::router().with_state(app.clone()).oneshot(request).await.unwrap();
    let status = answer.status();
    let body = tokio::time::timeout(SOON, axum::body::to_bytes(answer.into_body(), 1 << 20)).await;
    let body = body.expect("the answer has no end").unwrap();
    let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    (status, lines.map(|line| serde_json::from_slice(line).unwrap()).collect())
}

pub async fn present(app: &App) {
    let mut state = app.docker.state();
    let waited = tokio::time::timeout(SOON, state.wait_for(|state| matches!(state, State::Present(_)))).await;
    assert!(waited.is_ok(), "{:?}", app.docker.state().borrow());
}

/// Waits until a stack is so.
async fn until(app: &App, stack: &str, what: &str, is: impl Fn(&StackView) -> bool) -> StackView {
    let mut changes = app.stacks.changes();
    let wait = async {
        loop {
            changes.borrow_and_update();
            let view = app.stacks.get(stack).await.unwrap();
            if is(&view) {
                return view;
            }
            changes.changed().await.unwrap();
        }
    };
    match tokio::time::timeout(SOON, wait).await {
        Ok(view) => view,
        Err(_) => panic!("waited for {what}; {:?}", app.stacks.get(stack).await),
    }
}

fn status(view: &StackView, service: &str) -> Option<Status> {
    view.services.iter().find(|found| found.name == service).map(|found| found.status)
}

fn container(app: &App, service: &str) -> String {
    let containers = app.docker.containers().borrow().clone();
    containers.iter().find(|container| container.service == service).unwrap().id.clone()
}

/// What the service behind a port greets with, once it has echoed.
pub async fn greeting(port: u16) -> String {
    // While the service starts again, or the engine does, nobody may be behind the port.
    let talk = async {
        loop {
            if let Ok(greeting) = try_greeting(port).await {
                return greeting;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, talk).await.expect("nobody greets")
}

async fn try_greeting(port: u16) -> std::io::Result<String> {
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
    let mut line = String::new();
    stream.read_line(&mut line).await?;
    stream.get_mut().write_all(b"echo").await?;
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await?;
    assert_eq!(&echo, b"echo");
    Ok(line.trim().to_owned())
}

/// The next line of a log.
async fn next(log: &mut Logs) -> String {
    let line = tokio::time::timeout(SOON, log.next()).await.expect("the log says nothing");
    line.expect("the log has ended").unwrap().to_string()
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// A server with a health check and a volume, a job before it, and a service that Docker does not start again.
fn hello(port: u16, greeting: &str) -> Value {
    json!({
        "x-sovereign": {"title": "Hello", "description": "Greets."},
        "services": {
            "web": {
                "image": IMAGE,
                "environment": {"GREETING": greeting},
                "restart": "always",
                "depends_on": {"init": {"condition": "service_completed_successfully"}},
                "ports": [format!("127.0.0.1:{port}:7777")],
                "volumes": ["data:/data"],
                "healthcheck": {"test": ["CMD", "/hello", "check"], "interval": "1s", "timeout": "5s", "retries": 5},
            },
            "init": {"image": IMAGE, "command": "once"},
            "plain": {"image": IMAGE, "command": "wait"},
        },
        "volumes": {"data": {}},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stack_lives_through_crashes_and_restarts() {
    let mut engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    write(folder.path(), "hello", &hello(port, "hello"));
    let app = daemon(folder.path(), &engine.host()).await;
    present(&app).await;
    let view = app.stacks.get("hello").await.unwrap();
    assert_eq!((view.state, view.up, view.removable, view.services.len()), (StackState::Stopped, false, false, 0));

    // Up, by the API, which tells how it goes.
    let (code, lines) = ask(&app, Method::POST, "/admin/v1/stacks/hello/up").await;
    assert_eq!(code, StatusCode::OK);
    let last = lines.last().unwrap();
    assert_eq!((&last["over"], &last["error"]), (&json!(true), &Value::Null), "{last}");
    let view = app.stacks.get("hello").await.unwrap();
    assert_eq!((view.state, view.up, view.title.as_str()), (StackState::Running, true, "Hello"));
    assert_eq!(status(&view, "web"), Some(Status::Healthy));
    assert_eq!(status(&view, "init"), Some(Status::Exited(0)));
    assert_eq!(status(&view, "plain"), Some(Status::Running));

    // Its network leads nowhere, its processes may do little, and its port is served all the same.
    let inspect =
        |what: &str, format: &str| engine.docker(&[what, "inspect", "--format", format, "sovereign.hello.web"]);
    let network = ["network", "inspect", "--format", "{{.Internal}}", "sovereign.hello.default"];
    assert_eq!(engine.docker(&network), "true");
    let held = "{{.HostConfig.CapDrop}} {{.HostConfig.SecurityOpt}} {{.HostConfig.PidsLimit}}";
    assert_eq!(inspect("container", held), "[ALL] [no-new-privileges:true] 1024");
    assert_eq!(greeting(port).await, "hello");
    let (code, log) = raw(&app, "/admin/v1/stacks/hello/logs").await;
    assert_eq!(code, StatusCode::OK);
    assert!(log.contains("web | hello from a container\n") && log.contains("init | done\n"), "{log}");

    // What is as it is wanted stays.
    let first = container(&app, "web");
    app.stacks.up("hello").await.unwrap().await.unwrap();
    assert_eq!(container(&app, "web"), first);

    // A crash is counted, the port leads to the new process, and the log goes on.
    let mut log = app.stacks.logs("hello", true).await.unwrap();
    let mut lines = vec![next(&mut log).await, next(&mut log).await];
    lines.sort();
    assert_eq!(lines, ["init | done", "web | hello from a container"]);
    engine.crash("sovereign.hello.web");
    assert_eq!(next(&mut log).await, "web | hello from a container");
    let recovered = |view: &StackView| {
        view.services.iter().any(|service| service.restarts == 1 && service.status == Status::Healthy)
    };
    until(&app, "hello", "the restart", recovered).await;
    assert_eq!(greeting(port).await, "hello");

    // The engine goes and comes back.
    engine.stop();
    until(&app, "hello", "Docker to be gone", |view| view.state == StackState::Unknown).await;
    assert!(app.docker.containers().borrow().is_empty());
    engine.resume();
    // `plain` is none that Docker would start again.
    until(&app, "hello", "the stack to be back", |view| {
        view.state == StackState::Running && status(view, "plain") == Some(Status::Running)
    })
    .await;
    assert_eq!(container(&app, "web"), first);
    assert_eq!(greeting(port).await, "hello");

    // The daemon goes and comes back; meanwhile the stack ran on, and its file was edited.
    app.close().await;
    write(folder.path(), "hello", &hello(port, "good day"));
    let app = daemon(folder.path(), &engine.host()).await;
    until(&app, "hello", "the edited stack", |view| {
        view.state == StackState::Running && view.progress.is_none() && view.up
    })
    .await;
    let mut containers = app.docker.containers();
    let renewed = containers.wait_for(|all| all.iter().any(|found| found.service == "web" && found.id != first));
    tokio::time::timeout(SOON, renewed).await.unwrap().unwrap();
    assert_eq!(greeting(port).await, "good day");

    // Down: containers and network go, data stays; removed, that goes too.
    let (code, lines) = ask(&app, Method::POST, "/admin/v1/stacks/hello/down").await;
    assert_eq!((code, &lines.last().unwrap()["error"]), (StatusCode::OK, &Value::Null));
    let left = |what: &[&str]| engine.docker(&[what, &["--filter", "label=sovereign.stack"]].concat());
    assert_eq!(left(&["ps", "--all", "--quiet"]), "");
    assert_eq!(left(&["network", "ls", "--quiet"]), "");
    assert_eq!(left(&["volume", "ls", "--quiet"]), "sovereign.hello.data");
    let view = until(&app, "hello", "its end", |view| view.services.is_empty()).await;
    assert_eq!((view.state, view.up, view.removable), (StackState::Stopped, false, true));
    // The forwarder follows the engine's word, as this does.
    let closed = async {
        while TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, closed).await.expect("the port is still served");
    let (code, _) = ask(&app, Method::DELETE, "/admin/v1/stacks/hello").await;
    assert_eq!(code, StatusCode::OK);
    assert_eq!(left(&["volume", "ls", "--quiet"]), "");
    assert!(!app.stacks.get("hello").await.unwrap().removable);
    app.close().await;
}

async fn raw(app: &App, path: &str) -> (StatusCode, String) {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let answer = admin::router().with_state(app.clone()).oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    (status, String::from_utf8(body.to_vec()).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_wrong_is_told_and_leaves_nothing_half_done() {
    let engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let one = |service: Value| json!({"services": {"a": service}});
    write(folder.path(), "missing", &one(json!({"image": "registry.invalid/nothing:1"})));
    write(folder.path(), "failing", &one(json!({"image": IMAGE, "command": "fail"})));
    let waits = json!({"image": IMAGE, "depends_on": {"a": {"condition": "service_completed_successfully"}}});
    let waiting = json!({"services": {"a": {"image": IMAGE, "command": "fail"}, "b": waits}});
    write(folder.path(), "waiting", &waiting);
    write(folder.path(), "broken", &one(json!({"image": IMAGE, "imagine": true})));
    let never = json!({"test": ["CMD", "/hello", "check"], "interval": "1s", "start_period": "1h"});
    write(folder.path(), "slow", &one(json!({"image": IMAGE, "command": "wait", "healthcheck": never})));
    write(
        folder.path(),
        "port",
        &one(json!({
            "image": IMAGE, "environment": ["GREETING=hi"], "ports": [format!("127.0.0.1:{port}:7777")],
        })),
    );
    let app = daemon(folder.path(), &engine.host()).await;
    present(&app).await;

    // An image that cannot be had: nothing was made for it.
    let error = app.stacks.up("missing").await.unwrap().await.unwrap_err().to_string();
    assert!(error.contains("registry.invalid/nothing:1"), "{error}");
    let view = app.stacks.get("missing").await.unwrap();
    assert_eq!((view.state, view.problem), (StackState::Failing, Some(error)));
    assert_eq!(engine.docker(&["network", "ls", "--quiet", "--filter", "label=sovereign.stack"]), "");

    // A service that fails is named with its exit code, and its words are kept.
    drop(app.stacks.up("failing").await.unwrap());
    let failed = Some("a has ended with exit code 3".to_owned());
    let view = until(&app, "failing", "its end", |view| view.problem == failed && view.progress.is_none()).await;
    assert_eq!((view.state, status(&view, "a")), (StackState::Failing, Some(Status::Exited(3))));
    assert_eq!(raw(&app, "/admin/v1/stacks/failing/logs").await.1, "a | it fails\n");
    // What waits for it is not started.
    let (code, lines) = ask(&app, Method::POST, "/admin/v1/stacks/waiting/up").await;
    assert_eq!((code, lines.last().unwrap()["error"].as_str()), (StatusCode::OK, failed.as_deref()));
    assert_eq!(status(&app.stacks.get("waiting").await.unwrap(), "b"), None);

    // A file that is not understood is not brought up.
    let (code, lines) = ask(&app, Method::POST, "/admin/v1/stacks/broken/up").await;
    assert_eq!(code, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(lines[0]["detail"].as_str().unwrap().contains("broken.yaml:1: `imagine` is not supported"), "{lines:?}");

    // The newest wish wins: what waits for health is given up for a stop.
    let rising = app.stacks.up("slow").await.unwrap();
    until(&app, "slow", "it to wait", |view| view.progress.as_deref() == Some("waiting for a")).await;
    app.stacks.down("slow").await.unwrap().await.unwrap();
    assert!(matches!(rising.await, Err(Error::Superseded)));
    assert_eq!(engine.docker(&["ps", "-aq", "--filter", "label=sovereign.stack=slow"]), "");

    // A port that is taken is told, and served when it is free.
    app.stacks.up("port").await.unwrap().await.unwrap();
    let in_the_way = format!("127.0.0.1:{port} cannot be served");
    until(&app, "port", "the port's problem", |view| {
        view.problem.as_ref().is_some_and(|problem| problem.contains(&in_the_way))
    })
    .await;
    drop(taken);
    until(&app, "port", "the port to be free", |view| view.problem.is_none()).await;
    assert_eq!(greeting(port).await, "hi");

    // Wishes are carried out in their order.
    let down = app.stacks.down("port").await.unwrap();
    let up = app.stacks.up("port").await.unwrap();
    up.await.unwrap();
    down.await.unwrap();
    assert_eq!(status(&app.stacks.get("port").await.unwrap(), "a"), Some(Status::Running));

    // A log is followed from one container to its successor.
    let mut log = app.stacks.logs("port", true).await.unwrap();
    assert_eq!(next(&mut log).await, "a | hi from a container");
    write(folder.path(), "port", &one(json!({"image": IMAGE, "environment": ["GREETING=ho"]})));
    app.stacks.up("port").await.unwrap().await.unwrap();
    assert_eq!(next(&mut log).await, "a | ho from a container");
    for stack in ["port", "failing", "waiting", "missing"] {
        app.stacks.remove(stack).await.unwrap().await.unwrap();
    }
    assert_eq!(engine.docker(&["ps", "-aq"]), "");
    app.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_is_pulled_once() {
    let engine = Engine::start();
    let folder = tempfile::tempdir().unwrap();
    let registry = Registry::serve(std::fs::read(engine.layer()).unwrap(), "/hello").await;
    write(folder.path(), "pulled", &json!({"services": {"a": {"image": registry.image, "command": "wait"}}}));
    let app = daemon(folder.path(), &engine.host()).await;
    present(&app).await;

    let up = app.stacks.up("pulled").await.unwrap();
    let pulling = format!("pulling {}", registry.image);
    let is_pulling = |view: &StackView| view.progress.as_ref().is_some_and(|progress| progress.starts_with(&pulling));
    assert_eq!(until(&app, "pulled", "the pull", is_pulling).await.state, StackState::Starting);
    // A stop gives a pull up.
    app.stacks.down("pulled").await.unwrap().await.unwrap();
    assert!(matches!(up.await, Err(Error::Superseded)));

    registry.open();
    app.stacks.up("pulled").await.unwrap().await.unwrap();
    assert_eq!(status(&app.stacks.get("pulled").await.unwrap(), "a"), Some(Status::Running));
    app.stacks.down("pulled").await.unwrap().await.unwrap();
    // What is here is not asked for again.
    drop(registry);
    app.stacks.up("pulled").await.unwrap().await.unwrap();
    app.stacks.remove("pulled").await.unwrap().await.unwrap();
    app.close().await;
}

#[tokio::test]
async fn without_docker_everything_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("docker.sock");
    let app = daemon(folder.path(), &format!("unix://{}", socket.display())).await;
    let mut state = app.docker.state();
    let told = state.wait_for(|state| state.absent().is_some_and(|reason| reason.contains("is Docker installed")));
    tokio::time::timeout(SOON, told).await.unwrap().unwrap();

    let (code, answer) = ask(&app, Method::GET, "/admin/v1/stacks").await;
    assert_eq!((code, &answer[0]["docker"]), (StatusCode::OK, &Value::Null));
    assert!(answer[0]["absent"].as_str().unwrap().contains(&socket.display().to_string()), "{answer:?}");
    let chroma = &answer[0]["stacks"][0];
    assert_eq!((&chroma["name"], &chroma["state"]), (&json!("chroma"), &json!("unknown")));

    for (method, path) in [
        (Method::POST, "/admin/v1/stacks/chroma/up"),
        (Method::DELETE, "/admin/v1/stacks/chroma"),
        (Method::GET, "/admin/v1/stacks/chroma/logs"),
    ] {
        let (code, answer) = ask(&app, method, path).await;
        assert_eq!(code, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        assert!(answer[0]["detail"].as_str().unwrap().starts_with("Docker is not reachable: "), "{answer:?}");
    }
    let view = app.stacks.get("chroma").await.unwrap();
    assert_eq!((view.up, view.removable), (false, false), "a start that was refused is not kept");
    let (code, answer) = ask(&app, Method::POST, "/admin/v1/stacks/chrome/up").await;
    assert_eq!(code, StatusCode::NOT_FOUND);
    assert_eq!(answer[0]["detail"], "there is no stack \"chrome\"; did you mean chroma?");
    app.close().await;
}
