//! The dashboard over HTTP: who gets in, what is refused, and which headers guard the pages.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use sovereign::app::App;
use sovereign::config::Config;
use sovereign::runtime::Runtime;
use sovereign::runtime::fake::Fake;
use std::net::SocketAddr;
use tower::ServiceExt;

const PAGES: [&str; 6] = ["/", "/chat", "/models", "/stacks", "/ledger", "/keys"];
const STREAMS: [&str; 4] = ["/live", "/live/history", "/models/live", "/stacks/live"];
const PASSWORD: &str = "correct horse battery";
const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml");

struct House {
    app: App,
    router: Router,
    _state: tempfile::TempDir,
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

impl House {
    async fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::default().with_state_dir(state.path());
        config.docker.host = Some(format!("unix://{}/no-docker.sock", state.path().display()));
        let app = App::with_runtime(config, Runtime::Fake(Fake::default())).await.unwrap();
        Self { router: sovereign::daemon::tcp(&app), app, _state: state }
    }

    async fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path).header("host", "192.168.7.1:8808");
        if method == "POST" {
            request = request.header("content-type", "application/x-www-form-urlencoded");
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(form.to_string())).unwrap();
        request.extensions_mut().insert(ConnectInfo(SocketAddr::from(([192, 168, 7, 7], 40_000))));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let body = to_bytes(body, 1 << 22).await.unwrap();
        Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Answer {
        self.ask("GET", path, headers, "").await
    }

    /// Sets the password as a browser does; the cookie and the CSRF token of its session.
    async fn set_up(&self) -> (String, String) {
        let token = self.app.sessions.setup_token().unwrap();
        let form = format!("token={token}&password={PASSWORD}&repeated={PASSWORD}").replace(' ', "+");
        let answer = self.ask("POST", "/setup", &[HTML], &form).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/"));
        self.session_of(&answer).await
    }

    async fn session_of(&self, answer: &Answer) -> (String, String) {
        let cookie = answer.header("set-cookie").split(';').next().unwrap().to_string();
        let page = self.get("/keys", &[HTML, ("cookie", &cookie)]).await;
        let csrf = page.body.split("name=\"csrf-token\" content=\"").nth(1).unwrap().split('"').next().unwrap();
        (cookie, csrf.to_string())
    }
}

#[tokio::test]
async fn nobody_gets_in_before_the_owner() {
    let house = House::new().await;
    for path in PAGES {
        let answer = house.get(path, &[HTML]).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/setup"), "{path}");
    }
    assert_eq!(house.get("/login", &[HTML]).await.header("location"), "/setup");
    assert_eq!(house.get("/setup?token=guess", &[HTML]).await.status, StatusCode::FORBIDDEN);

    let (cookie, _) = house.set_up().await;
    for path in PAGES {
        let answer = house.get(path, &[HTML]).await;
        assert_eq!((answer.status, answer.header("location")), (StatusCode::SEE_OTHER, "/login"), "{path}");
        assert_eq!(house.get(path, &[HTML, ("cookie", &cookie)]).await.status, StatusCode::OK, "{path}");
    }
    for path in STREAMS {
        assert_eq!(house.get(path, &[]).await.status, StatusCode::UNAUTHORIZED, "{path}");
        let answer = house.get(path, &[("hx-request", "true")]).await;
        assert_eq!(answer.header("hx-redirect"), "/login", "{path}");
    }
    // The link is spent.
    let answer = house.ask("POST", "/setup", &[HTML], "token=x&password=another+one&repeated=another+one").await;
    assert_eq!((answer.status, answer.header("set-cookie")), (StatusCode::FORBIDDEN, ""));
}

#[tokio::test]
async fn log_in_and_out() {
    let house = House::new().await;
    house.set_up().await;
    let wrong = house.ask("POST", "/login", &[HTML], "password=guess").await;
    assert_eq!((wrong.status, wrong.header("set-cookie")), (StatusCode::UNAUTHORIZED, ""));
    assert!(wrong.body.contains("not the password"));

    let form = format!("password={PASSWORD}").replace(' ', "+");
    let answer = house.ask("POST", "/login", &[HTML], &form).await;
    let (cookie, csrf) = house.session_of(&answer).await;
    let out = house.ask("POST", "/logout", &[HTML, ("cookie", &cookie)], &format!("csrf={csrf}")).await;
    assert_eq!((out.status, out.header("location")), (StatusCode::SEE_OTHER, "/login"));
    assert!(out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(house.get("/live/history", &[("cookie", &cookie)]).await.status, StatusCode::UNAUTHORIZED);
}

/// What the forms of a page post to.
fn actions(page: &str) -> Vec<String> {
    let after = page.split("action=\"").skip(1);
    after.map(|rest| rest.split('"').next().unwrap_or_default().to_string()).collect()
}

#[tokio::test]
async fn every_form_needs_its_token() {
    let house = House::new().await;
    let (cookie, csrf) = house.set_up().await;
    house.ask("POST", "/keys", &[HTML, ("cookie", &cookie)], &format!("csrf={csrf}&name=a")).await;
    let mut seen = 0;
    for path in PAGES {
        let page = house.get(path, &[HTML, ("cookie", &cookie)]).await;
        for action in actions(&page.body) {
            seen += 1;
            let form = "name=a&source=a&model=a";
            let answer = house.ask("POST", &action, &[("cookie", &cookie)], form).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{action} on {path}");
            let answer = house.ask("POST", &action, &[("cookie", &cookie)], &format!("{form}&csrf=guess")).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{action} on {path}");
            let answer = house.ask("POST", &action, &[], &format!("{form}&csrf={csrf}")).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{action} on {path}");
        }
    }
    assert!(seen > 15, "only {seen} forms were found");
    let answer = house.ask("POST", "/chat/render", &[("cookie", &cookie)], "hello").await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn forms_work_with_htmx_and_without() {
    let house = House::new().await;
    let (cookie, csrf) = house.set_up().await;
    let cookie = ("cookie", cookie.as_str());

    let made = house.ask("POST", "/keys", &[HTML, cookie], &format!("csrf={csrf}&name=by+hand")).await;
    assert!(made.body.contains("<html") && made.body.contains("sk-sov-"), "{}", made.body);
    let htmx = [cookie, ("hx-request", "true"), ("x-csrf-token", csrf.as_str())];
    let made = house.ask("POST", "/keys", &htmx, "name=by+htmx").await;
    assert!(!made.body.contains("<html") && made.body.contains("sk-sov-"), "{}", made.body);
    let taken = house.ask("POST", "/keys", &htmx, "name=by+htmx").await;
    assert_eq!(taken.status, StatusCode::CONFLICT);
    assert!(taken.body.contains("by htmx") && taken.body.contains("role=\"alert\""), "{}", taken.body);
    assert_eq!(house.app.keys.list().await.unwrap().len(), 2);

    let refused = house.ask("POST", "/models/remove", &htmx, "model=nothing").await;
    assert_eq!((refused.status, refused.header("hx-retarget")), (StatusCode::NOT_FOUND, "#notices"));
    assert!(refused.body.contains("nothing"), "{}", refused.body);
    let refused = house.ask("POST", "/models/remove", &[HTML, cookie], &format!("csrf={csrf}&model=nothing")).await;
    assert!(refused.body.contains("<html") && refused.body.contains("nothing"), "{}", refused.body);
    let gone = house.ask("POST", "/models/unload", &[HTML, cookie], &format!("csrf={csrf}&model=nothing")).await;
    assert_eq!((gone.status, gone.header("location")), (StatusCode::SEE_OTHER, "/"));
    let absent = house.ask("POST", "/stacks/chroma/up", &htmx, "").await;
    assert_eq!(absent.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(absent.body.contains("Docker is not reachable"), "{}", absent.body);
    let unknown = house.ask("POST", "/stacks/krhoma/up", &htmx, "").await;
    assert_eq!(unknown.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn headers_guard_every_page() {
    let house = House::new().await;
    let (cookie, _) = house.set_up().await;
    for path in PAGES.iter().chain(&["/login", "/setup", "/nothing"]) {
        let answer = house.get(path, &[HTML, ("cookie", &cookie)]).await;
        let policy = answer.header("content-security-policy");
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{path}: {policy}");
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(answer.header("x-content-type-options"), "nosniff", "{path}");
        assert_eq!(answer.header("referrer-policy"), "same-origin", "{path}");
        assert_eq!(answer.header("cache-control"), "no-store", "{path}");
        for file in answer.body.split(['"', '\'']).filter(|text| text.starts_with("/assets/")) {
            let asset = house.get(file, &[]).await;
            assert_eq!(asset.status, StatusCode::OK, "{file} on {path}");
            assert!(asset.header("cache-control").contains("immutable"), "{file} on {path}");
        }
    }
}

#[tokio::test]
async fn programs_get_plain_answers() {
    let house = House::new().await;
    let nothing = house.get("/nothing", &[]).await;
    assert_eq!((nothing.status, nothing.body.as_str()), (StatusCode::NOT_FOUND, "There is no such page."));
}

#[tokio::test]
async fn the_history_has_a_column_for_each_label() {
    let house = House::new().await;
    let (cookie, _) = house.set_up().await;
    let mut samples = house.app.gpu.samples();
    samples.changed().await.unwrap();
    let answer = house.get("/live/history", &[("cookie", &cookie)]).await;
    let chart: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
    let labels = chart["labels"].as_array().unwrap().len();
    let seconds = chart["at"].as_array().unwrap().len();
    assert!(labels >= 2 && seconds >= 1, "{chart}");
    let columns = chart["values"].as_array().unwrap();
    assert!(columns.len() == labels && columns.iter().all(|column| column.as_array().unwrap().len() == seconds));
}
