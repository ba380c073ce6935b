//! The gateway over placement with the double of a runtime: who is answered, what passes, what is recorded.

use crate::tiny;
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};
use sovereign::app::App;
use sovereign::config::{Bytes, Config, Seconds};
use sovereign::egress::{self, Address};
use sovereign::runtime::Runtime;
use sovereign::runtime::fake::{Fake, Script};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tower::ServiceExt;

const SOON: Duration = Duration::from_secs(10);
const LAN: &str = "192.168.7.7:40000";
const HERE: &str = "127.0.0.1:40000";
const NAME: (&str, &str) = ("host", "192.168.7.1:8808");

/// A daemon's parts over the double, and the port that serves them.
struct House {
    app: App,
    fake: Fake,
    router: Router,
    client: egress::Client,
    address: Address,
    _state: tempfile::TempDir,
}

impl House {
    /// With these models, which share room for ten bytes.
    async fn new(models: &[(&str, Script)]) -> Self {
        Self::with(models, |_| {}).await
    }

    async fn with(models: &[(&str, Script)], set: impl FnOnce(&mut Config)) -> Self {
        let state = tempfile::tempdir().unwrap();
        let mut config = Config::default().with_state_dir(state.path());
        config.placement.host_memory = Some(Bytes(10));
        config.docker.host = Some(format!("unix://{}/no-docker.sock", state.path().display()));
        config.models.default = "alpha".into();
        set(&mut config);
        let fake = Fake::default();
        let app = App::with_runtime(config, Runtime::Fake(fake.clone())).await.unwrap();
        for (name, script) in models {
            let file = state.path().join(format!("{name}.gguf"));
            // Other bytes for another name.
            std::fs::write(&file, tiny::model(8, name.bytes().map(u64::from).sum())).unwrap();
            let mut progress = app.models.pull(&file.display().to_string()).unwrap();
            let ended = progress.wait_for(|progress| progress.is_over()).await.unwrap().clone();
            assert_eq!(ended.error, None);
            fake.script(name, Script { pieces: vec![(*name).to_string(), "!".into()], ..script.clone() });
        }
        let router = sovereign::daemon::tcp(&app);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::Tcp(listener.local_addr().unwrap());
        let service = router.clone().into_make_service_with_connect_info::<SocketAddr>();
        tokio::spawn(async move { axum::serve(listener, service).await });
        Self { app, fake, router, client: egress::internal(&address), address, _state: state }
    }

    /// Asks over the port, from this machine.
    fn chat(&self, body: &Value) -> egress::RequestBuilder {
        self.client.post(self.address.url("/v1/chat/completions")).json(body)
    }

    /// Asks as if from `peer`.
    async fn from(&self, peer: &str, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut request = request.body(Body::from(body.to_string())).unwrap();
        request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (head, body) = response.into_parts();
        let body = axum::body::to_bytes(body, usize::MAX).await.unwrap();
        Answer { status: head.status, headers: head.headers, body: String::from_utf8(body.to_vec()).unwrap() }
    }

    /// Returns once placement says so.
    async fn until(&self, what: &str, is: impl Fn(&sovereign::placement::Status) -> bool) {
        let mut status = self.app.placement.status();
        let waited = tokio::time::timeout(SOON, status.wait_for(|status| is(status))).await;
        assert!(waited.is_ok(), "waited for {what}; {:?}", self.app.placement.status().borrow());
    }

    /// What was recorded, oldest first: model, status, tokens of prompt and answer, whether a first token was timed.
    async fn usage(&self) -> Vec<(String, u16, u32, u32, bool)> {
        self.app.usage.flush().await;
        let rows =
            "SELECT model, status, prompt_tokens, completion_tokens, first_token_ms IS NOT NULL FROM usage ORDER BY id";
        sqlx::query_as(rows).fetch_all(self.app.db.reader()).await.unwrap()
    }
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: String,
}

impl Answer {
    fn error(&self) -> Value {
        serde_json::from_str::<Value>(&self.body).unwrap()["error"].clone()
    }
}

/// A file whose header is that of a model. Files of other names have other bytes.
fn big() -> Script {
    Script { ram: 6, load: Duration::from_millis(2), ..Script::default() }
}

fn endless() -> Script {
    Script { pause: Duration::from_secs(3600), ..big() }
}

#[tokio::test]
async fn who_is_answered() {
    let house = House::new(&[("alpha", big())]).await;
    let (key, secret) = house.app.keys.create("laptop").await.unwrap();
    let (_, revoked) = house.app.keys.create("old").await.unwrap();
    house.app.keys.revoke("old").await.unwrap();
    let token = house.app.sessions.setup_token().unwrap();
    let opened = house.app.sessions.set_up(&token, "correct horse".into()).await.unwrap();
    let cookie = opened.cookie.to_str().unwrap().split(';').next().unwrap().to_string();
    let csrf = opened.session.csrf;
    let (bearer, bearer_revoked) = (format!("Bearer {secret}"), format!("Bearer {revoked}"));

    let check = async |peer: &str, headers: &[(&str, &str)], expected: u16| {
        let headers = [headers, &[NAME]].concat();
        let answer = house.from(peer, "POST", "/v1/chat/completions", &headers, "{}").await;
        assert_eq!(answer.status.as_u16(), expected, "{peer} {headers:?}: {}", answer.body);
        if expected == 401 {
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
            assert_eq!(answer.error()["code"], "invalid_api_key");
        }
    };
    // With a key from anywhere, and with none from this machine alone.
    check(LAN, &[("authorization", &bearer)], 200).await;
    check(LAN, &[], 401).await;
    check(HERE, &[], 200).await;
    check("[::1]:40000", &[], 200).await;
    check("[::ffff:127.0.0.1]:40000", &[], 200).await;
    // What SDKs send when they have to send something is no key; a revoked one is a mistake that should show.
    check(HERE, &[("authorization", "Bearer ollama")], 200).await;
    check(LAN, &[("authorization", "Bearer ollama")], 401).await;
    check(LAN, &[("authorization", &bearer_revoked)], 401).await;
    check(HERE, &[("authorization", &bearer_revoked)], 401).await;
    check(LAN, &[("authorization", &format!("Basic {secret}"))], 401).await;
    // A proxy on this machine asks for others.
    check(HERE, &[("x-forwarded-for", "203.0.113.9")], 401).await;
    check(HERE, &[("forwarded", "for=203.0.113.9")], 401).await;
    check(HERE, &[("x-forwarded-for", "203.0.113.9"), ("authorization", &bearer)], 200).await;
    // The dashboard's chat shows its session, and that it is its own page.
    check(LAN, &[("cookie", &cookie), ("x-csrf-token", &csrf)], 200).await;
    check(LAN, &[("cookie", &cookie)], 403).await;
    check(HERE, &[("cookie", &cookie), ("x-csrf-token", "guess")], 403).await;
    check(LAN, &[("cookie", "sovereign_session=guess"), ("x-csrf-token", &csrf)], 401).await;
    // Reading needs no token.
    let answer = house.from(LAN, "GET", "/v1/models", &[("cookie", &cookie), NAME], "").await;
    assert_eq!(answer.status, StatusCode::OK);

    house.app.usage.flush().await;
    let paid: i64 = sqlx::query_scalar("SELECT count(*) FROM usage WHERE api_key_id = ?")
        .bind(key.id)
        .fetch_one(house.app.db.reader())
        .await
        .unwrap();
    assert_eq!(paid, 2);
}

#[tokio::test]
async fn this_machine_can_be_asked_for_a_key_too() {
    let house = House::with(&[], |config| config.gateway.anonymous_loopback = false).await;
    let answer = house.from(HERE, "GET", "/v1/models", &[NAME], "").await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    assert!(answer.body.contains("sovereign key create"), "{}", answer.body);
}

#[tokio::test]
async fn under_which_names_and_from_which_pages() {
    let house = House::with(&[], |config| config.server.hosts = vec!["ai.example.org".into()]).await;
    let check = async |path: &str, headers: &[(&str, &str)], expected: u16| {
        let answer = house.from(HERE, "GET", path, headers, "").await;
        assert_eq!(answer.status.as_u16(), expected, "{path} {headers:?}: {}", answer.body);
        answer
    };
    check("/v1/models", &[("host", "localhost:8808")], 200).await;
    check("/v1/models", &[("host", "ai.example.org")], 200).await;
    check("/v1/models", &[NAME, ("origin", "http://192.168.7.1:8808")], 200).await;
    let refused = check("/v1/models", &[("host", "evil.example:8808")], 403).await;
    assert!(refused.error()["message"].as_str().unwrap().contains("server.hosts"), "{}", refused.body);
    check("/v1/models", &[NAME, ("origin", "http://evil.example")], 403).await;
    check("/v1/models", &[NAME, ("origin", "null")], 403).await;
    check("/v1/models", &[], 403).await;
    let refused = check("/login", &[("host", "evil.example")], 403).await;
    assert!(refused.body.contains("evil.example") && !refused.body.contains("<html"), "{}", refused.body);
    // Programs look for this answer; browsers get the dashboard.
    assert_eq!(check("/", &[NAME], 200).await.body, "Ollama is running");
    assert_eq!(check("/", &[("host", "evil.example")], 403).await.status, StatusCode::FORBIDDEN);
    let page = house.from(HERE, "GET", "/", &[NAME, ("accept", "text/html,*/*")], "").await;
    assert_ne!(page.body, "Ollama is running");
}

#[tokio::test]
async fn our_own_api_is_behind_the_session() {
    let house = House::new(&[]).await;
    let token = house.app.sessions.setup_token().unwrap();
    let opened = house.app.sessions.set_up(&token, "correct horse".into()).await.unwrap();
    let cookie = opened.cookie.to_str().unwrap().split(';').next().unwrap().to_string();
    let (_, secret) = house.app.keys.create("laptop").await.unwrap();
    let json = ("content-type", "application/json");
    let new = r#"{"name":"editor"}"#;
    let check = async |method: &str, path: &str, headers: &[(&str, &str)], body: &str, expected: u16| {
        let headers = [headers, &[NAME, json]].concat();
        let answer = house.from(HERE, method, path, &headers, body).await;
        assert_eq!(answer.status.as_u16(), expected, "{method} {path} {headers:?}: {}", answer.body);
        if expected >= 400 {
            assert_eq!(answer.headers["content-type"], "application/problem+json", "{}", answer.body);
        }
    };
    let csrf = ("x-csrf-token", opened.session.csrf.as_str());
    check("GET", "/admin/v1/status", &[], "", 401).await;
    check("GET", "/admin/v1/nothing", &[], "", 401).await;
    check("GET", "/admin/v1/status", &[("authorization", &format!("Bearer {secret}"))], "", 401).await;
    check("GET", "/admin/v1/status", &[("cookie", &cookie)], "", 200).await;
    check("POST", "/admin/v1/keys", &[("cookie", &cookie)], new, 403).await;
    check("POST", "/admin/v1/keys", &[("cookie", &cookie), csrf], new, 201).await;
    check("POST", "/admin/v1/keys", &[("cookie", &cookie), csrf], new, 409).await;
    check("POST", "/admin/v1/keys", &[("cookie", &cookie), csrf], "{", 400).await;
    check("DELETE", "/admin/v1/keys/editor", &[("cookie", &cookie), csrf], "", 204).await;
    check("DELETE", "/admin/v1/keys/editor", &[("cookie", &cookie), csrf], "", 404).await;
    check("GET", "/admin/v1/nothing", &[("cookie", &cookie)], "", 404).await;
}

#[tokio::test]
async fn models_are_listed_and_missed_by_name() {
    let house = House::new(&[("alpha", big()), ("alphabet", big())]).await;
    let list = house.from(HERE, "GET", "/v1/models", &[NAME], "").await;
    let list: Value = serde_json::from_str(&list.body).unwrap();
    let names: Vec<_> = list["data"].as_array().unwrap().iter().map(|model| model["id"].as_str().unwrap()).collect();
    assert_eq!((list["object"].as_str(), names), (Some("list"), vec!["alpha", "alphabet"]));
    let one = house.from(HERE, "GET", "/v1/models/alpha", &[NAME], "").await;
    assert_eq!(serde_json::from_str::<Value>(&one.body).unwrap(), list["data"][0]);

    let check = |answer: Answer| {
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        let error = answer.error();
        assert_eq!((error["code"].as_str(), error["param"].as_str()), (Some("model_not_found"), Some("model")));
        assert!(error["message"].as_str().unwrap().contains("alphabet"), "{error}");
    };
    check(house.from(HERE, "GET", "/v1/models/alphabeth", &[NAME], "").await);
    check(house.from(HERE, "POST", "/v1/chat/completions", &[NAME], r#"{"model":"alphabeth"}"#).await);
}

#[tokio::test]
async fn what_cannot_be_answered_says_why_at_once() {
    let house = House::new(&[("alpha", big())]).await;
    let check = async |method: &str, path: &str, body: &str, status: u16, code: Value, words: &str| {
        let begun = Instant::now();
        let answer = house.from(HERE, method, path, &[NAME], body).await;
        let took = begun.elapsed();
        assert_eq!((answer.status.as_u16(), &answer.error()["code"]), (status, &code), "{}", answer.body);
        assert!(answer.error()["message"].as_str().unwrap().contains(words), "{}", answer.body);
        took
    };
    let chat = "/v1/chat/completions";
    check("POST", chat, "", 400, json!("invalid_json"), "not JSON").await;
    check("POST", chat, "{\"model\":", 400, json!("invalid_json"), "not JSON").await;
    check("POST", chat, "[]", 400, Value::Null, "object").await;
    check("POST", chat, r#"{"model":5}"#, 400, Value::Null, "model must be a string").await;
    check("POST", "/v1/completions", r#"{"stream":1}"#, 400, Value::Null, "stream must be a boolean").await;
    check("POST", "/v1/embeddings", "{}", 400, json!("unsupported_model"), "for /v1/chat/completions").await;
    check("POST", "/v1/embeddings", r#"{"model":"bert"}"#, 404, json!("model_not_found"), "bert").await;
    check("POST", "/v1/nothing", "{}", 404, json!("unknown_url"), "/v1/nothing").await;
    check("GET", chat, "", 405, json!("method_not_supported"), chat).await;
    // The best of several, since other tests want the processor too.
    let nonsense = "[".repeat(100_000);
    let mut best = Duration::MAX;
    for _ in 0..10 {
        best = best.min(check("POST", chat, &nonsense, 400, json!("invalid_json"), "not JSON").await);
    }
    assert!(best < Duration::from_millis(10), "{best:?}");
    assert_eq!(house.fake.journal().requests, 0);
    assert_eq!(house.usage().await, []);
}

#[tokio::test]
async fn models_for_embeddings_embed_and_nothing_else() {
    let house = House::new(&[("alpha", big())]).await;
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/architectures/bert.gguf");
    let mut progress = house.app.models.pull(file).unwrap();
    let ended = progress.wait_for(|progress| progress.is_over()).await.unwrap().clone();
    assert_eq!(ended.error, None);
    let ask = async |path: &str| house.from(HERE, "POST", path, &[NAME], r#"{"model":"bert","input":"a"}"#).await;
    for path in ["/v1/chat/completions", "/v1/completions"] {
        let answer = ask(path).await;
        assert_eq!((answer.status.as_u16(), &answer.error()["param"]), (400, &json!("model")), "{}", answer.body);
        assert!(answer.error()["message"].as_str().unwrap().contains("for /v1/embeddings"), "{}", answer.body);
    }
    assert_eq!(house.fake.journal().requests, 0);
    // The runtime is asked what it alone can tell.
    let answer = ask("/v1/embeddings").await;
    assert_eq!((answer.status.as_u16(), house.fake.journal().requests), (200, 1), "{}", answer.body);
}

#[tokio::test]
async fn answers_pass_as_they_are() {
    let house = House::new(&[("alpha", big())]).await;
    // A request that names no model gets the default one.
    let whole = house.chat(&json!({"messages": []})).send().await.unwrap();
    let headers = whole.headers().clone();
    let context = house.app.config.engine.context.to_string();
    for (name, value) in [("runtime", "fake"), ("model", "alpha"), ("quant", "F32"), ("context", &context)] {
        assert_eq!(headers[format!("x-sovereign-{name}")], value);
    }
    let whole: Value = serde_json::from_slice(&whole.bytes().await.unwrap()).unwrap();
    assert_eq!(whole["choices"][0]["message"]["content"], "alpha!");

    // Who did not ask for usage gets none, and it is recorded all the same.
    let stream = house.chat(&json!({"model": "Alpha:latest", "stream": true})).send().await.unwrap();
    assert_eq!(stream.headers()["content-type"], "text/event-stream");
    assert_eq!(stream.headers()["x-accel-buffering"], "no");
    let text = stream.text().await.unwrap();
    assert!(text.contains("alpha") && text.ends_with("data: [DONE]\n\n") && !text.contains("usage"), "{text}");
    let ask = json!({"model": "alpha", "stream": true, "stream_options": {"include_usage": true}});
    let text = house.chat(&ask).send().await.unwrap().text().await.unwrap();
    assert!(text.contains("\"completion_tokens\":2"), "{text}");

    let row = |timed| ("alpha".to_string(), 200, 3, 2, timed);
    assert_eq!(house.usage().await, [row(false), row(true), row(true)]);
}

#[tokio::test]
async fn pieces_arrive_one_by_one() {
    let script = Script { pause: Duration::from_millis(200), ..big() };
    let house = House::new(&[("alpha", script)]).await;
    let mut answer = house.chat(&json!({"stream": true})).send().await.unwrap();
    let first = answer.chunk().await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&first);
    assert!(text.contains("alpha") && !text.contains('!'), "the first piece came with the second: {text}");
}

#[tokio::test]
async fn a_caller_that_leaves_takes_its_request_along() {
    let house = House::new(&[("alpha", endless()), ("beta", big())]).await;
    // While the answer streams; the caller has the beginning already.
    let answer = house.chat(&json!({"stream": true})).send().await.unwrap();
    assert_eq!(house.fake.journal().answering, 1);
    // While another waits for the room that the first one has.
    let waits = tokio::spawn(house.chat(&json!({"model": "beta"})).send());
    house.until("beta to wait", |status| !status.waiting.is_empty()).await;
    waits.abort();
    house.until("beta to be forgotten", |status| status.waiting.is_empty()).await;

    drop(answer);
    tokio::time::timeout(SOON, house.fake.until(|journal| journal.answering == 0)).await.unwrap();
    house.until("the lease to be back", |status| status.tenants.iter().all(|tenant| tenant.leases == 0)).await;
    assert_eq!(house.usage().await, [("alpha".to_string(), 499, 0, 0, false)]);
    // The room is free.
    assert_eq!(house.chat(&json!({"model": "beta"})).send().await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_stream_that_breaks_ends_with_an_error() {
    let house = House::new(&[("alpha", endless())]).await;
    let answer = house.chat(&json!({"stream": true})).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    house.fake.crash("alpha");
    let text = answer.text().await.unwrap();
    let event = text.strip_prefix("data: ").and_then(|text| text.strip_suffix("\n\n")).unwrap();
    let error = serde_json::from_str::<Value>(event).unwrap()["error"].clone();
    assert_eq!((error["type"].as_str(), error["code"].as_str()), (Some("server_error"), Some("runtime_ended")));
    assert!(error["message"].as_str().unwrap().contains("the script says crash"), "{error}");
    assert_eq!(house.usage().await, [("alpha".to_string(), 503, 0, 0, false)]);

    // One that came whole is an error with a status.
    let answer = tokio::spawn(house.chat(&json!({})).send());
    tokio::time::timeout(SOON, house.fake.until(|journal| journal.answering == 1)).await.unwrap();
    house.fake.crash("alpha");
    let answer = answer.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
}

#[tokio::test]
async fn refusals_tell_the_numbers() {
    let broken = Script { failure: Some("tensor blk.3.attn_q.weight is missing".into()), ..big() };
    let models = [("alpha", endless()), ("beta", big()), ("huge", Script { ram: 11, ..big() }), ("broken", broken)];
    let house = House::with(&models, |config| {
        config.placement.max_queue = 1;
        config.placement.max_wait = Seconds(1);
    })
    .await;
    let check = async |model: &str, status: u16, code: &str, retry: (&str, &str), words: &[&str]| {
        let answer = house.chat(&json!({"model": model})).send().await.unwrap();
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(answer.headers()[retry.0], retry.1);
        let error: Value = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap();
        assert_eq!(error["error"]["code"], code);
        let message = error["error"]["message"].as_str().unwrap();
        assert!(words.iter().all(|word| message.contains(word)), "{message}");
    };
    let never = ("x-should-retry", "false");
    check("huge", 503, "model_too_large", never, &["huge", "11 B", "10 B"]).await;
    check("broken", 503, "model_failed", never, &["blk.3.attn_q.weight"]).await;

    let _holds = house.chat(&json!({"stream": true})).send().await.unwrap();
    let waits = tokio::spawn(house.chat(&json!({"model": "beta"})).send());
    house.until("beta to wait", |status| !status.waiting.is_empty()).await;
    check("beta", 429, "queue_full", ("retry-after", "1"), &["1 requests wait already"]).await;
    let waited = waits.await.unwrap().unwrap();
    assert_eq!((waited.status().as_u16(), &waited.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    let text = waited.text().await.unwrap();
    assert!(text.contains("within 1 s") && text.contains("6 B") && text.contains("4 B"), "{text}");
}

#[tokio::test]
async fn two_models_swap_in_room_for_one_under_concurrent_requests() {
    let house = Arc::new(House::new(&[("alpha", big()), ("beta", big())]).await);
    let mut callers = JoinSet::new();
    for caller in 0..8_u32 {
        let house = house.clone();
        callers.spawn(async move {
            // A caller's choices are its own, and the same in every run.
            let mut seed = caller;
            for round in 0..12 {
                seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                let model = if seed >> 31 == 0 { "alpha" } else { "beta" };
                let stream = round % 2 == 0;
                let answer = house.chat(&json!({"model": model, "stream": stream})).send().await.unwrap();
                assert_eq!(
                    (answer.status().as_u16(), &answer.headers()["x-sovereign-model"]),
                    (200, &model.parse().unwrap())
                );
                let text = answer.text().await.unwrap();
                assert!(text.contains(model), "{text}");
            }
        });
    }
    while let Some(done) = callers.join_next().await {
        done.unwrap();
    }
    let journal = house.fake.journal();
    assert_eq!(journal.requests, 96);
    assert!(journal.peak_ram <= 10, "{} of 10 held", journal.peak_ram);
    assert!(journal.starts.len() > 2, "both were swapped in: {:?}", journal.starts);
    house.until("all leases to be back", |status| status.tenants.iter().all(|tenant| tenant.leases == 0)).await;
    let rows = house.usage().await;
    assert_eq!(rows.len(), 96);
    assert!(rows.iter().all(|(_, status, prompt, answer, _)| (*status, *prompt, *answer) == (200, 3, 2)));
}
