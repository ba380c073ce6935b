//! What passes the gateway to real workers, and what stops them.

use super::*;

const GEMMA: &str = "gemma-3-270m";
const CODER: &str = "qwen2.5-coder-1.5b-instruct";
const SOON: Duration = Duration::from_secs(30);

impl Daemon {
    async fn ask(&self, path: &str, body: &Value) -> Value {
        let response = self.post(path, body).send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        assert_eq!(status, 200, "{body}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The data of a stream's events but the last, which says that it is done.
    async fn stream(&self, path: &str, body: &Value) -> Vec<Value> {
        let mut body = body.clone();
        body["stream"] = true.into();
        let response = self.post(path, &body).send().await.unwrap();
        assert_eq!(response.status(), 200);
        let text = response.text().await.unwrap();
        let mut data: Vec<&str> = text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).collect();
        assert_eq!(data.pop(), Some("[DONE]"), "{text}");
        data.iter().map(|data| serde_json::from_str(data).unwrap()).collect()
    }

    /// What the first worker tells of itself.
    async fn metric(&self, name: &str) -> f64 {
        let address = Address::Unix(self.state.join("run/0.sock"));
        let text = egress::internal(&address).get(address.url("/metrics")).send().await.unwrap().text().await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("{name} is not in\n{text}")).parse().unwrap()
    }

    /// The number of a token, as the key of a bias.
    async fn token(&self, text: &str) -> String {
        let address = Address::Unix(self.state.join("run/0.sock"));
        let request = egress::internal(&address).post(address.url("/tokenize")).json(&json!({ "content": text }));
        let tokens = request.send().await.unwrap().json::<Value>().await.unwrap()["tokens"].clone();
        assert_eq!(tokens.as_array().map(Vec::len), Some(1), "{tokens}");
        tokens[0].to_string()
    }

    async fn until(&self, name: &str, expected: f64) {
        let begun = Instant::now();
        while self.metric(name).await != expected {
            assert!(begun.elapsed() < SOON, "{name} is not {expected}");
        }
    }
}

#[tokio::test]
async fn who_finds_the_queue_full_is_told_when_to_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"engine": {"slots": 1, "context": 4096}, "placement": {"max_queue": 1}});
    let daemon = Daemon::with(dir.path(), &config, &[]);
    daemon.adopt(GEMMA);
    // More answers of one request than the worker's own queue takes: its refusal passes as it is.
    let many = json!({"model": GEMMA, "prompt": vec!["a"; 32], "n": 8, "max_tokens": 1});
    let refused = daemon.post("/v1/completions", &many).send().await.unwrap();
    let check = async |refused: egress::Response, message: &str| {
        assert_eq!(refused.status(), 429);
        let seconds = refused.headers()["retry-after"].to_str().unwrap().parse::<u32>().unwrap();
        assert!((1..120).contains(&seconds), "{seconds}");
        let error = refused.json::<Value>().await.unwrap()["error"].clone();
        assert_eq!(error["type"], "rate_limit_error", "{error}");
        assert!(error["message"].as_str().unwrap().contains(message), "{error}");
    };
    assert_eq!(refused.headers()["x-sovereign-model"], GEMMA);
    check(refused, "answers wait already").await;

    // One runs, one may wait, and of two more one is too many.
    let mut runs = daemon.post("/v1/completions", &endless()).send().await.unwrap();
    runs.chunk().await.unwrap().unwrap();
    let [one, other] = [(); 2].map(|()| Box::pin(daemon.post("/v1/completions", &endless()).send()));
    let (refused, waits) = match futures_util::future::select(one, other).await {
        futures_util::future::Either::Left((refused, waits)) => (refused, waits),
        futures_util::future::Either::Right((refused, waits)) => (refused, waits),
    };
    check(refused.unwrap(), "").await;
    // Who waited is served when the other has left.
    drop(runs);
    assert_eq!(waits.await.unwrap().status(), 200);
}

/// With a model whose passes take longer than two sockets take to tell of an end.
#[tokio::test]
async fn who_leaves_stops_the_worker_within_a_step() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(dir.path());
    daemon.adopt(CODER);
    // Loads it.
    daemon.ask("/v1/completions", &json!({"model": CODER, "prompt": "a", "max_tokens": 1})).await;
    let mut left = 0.0;
    // Leaves when so many tokens were counted; up to `pass` of them are computed at once.
    let mut check = async |prompt: &str, stream: bool, counted: &str, pass: f64| {
        let metric = async |name: &str| daemon.metric(&format!("sovereign_worker_{name}")).await;
        let ends = json!({"151643": -100, "151645": -100});
        let body = json!({"model": CODER, "prompt": prompt, "max_tokens": 2000, "stream": stream, "logit_bias": ends});
        let (at, unheard) = (metric(counted).await, metric("unheard_tokens_total").await);
        let before = tokio::select! {
            answer = async { daemon.post("/v1/completions", &body).send().await?.text().await } => panic!("{answer:?}"),
            before = async {
                while metric(counted).await < at + 8.0 {}
                metric("step_seconds_count").await
            } => before,
        };
        left += 1.0;
        daemon.until("sovereign_worker_abandoned_total", left).await;
        let after = metric("step_seconds_count").await;
        // The pass that ran, and where it ended just then the next.
        assert!(after - before <= 2.0, "{} passes", after - before);
        let unheard = metric("unheard_tokens_total").await - unheard;
        assert!(unheard <= pass, "{unheard} tokens were computed after the worker knew");
        assert_eq!((metric("slots_busy").await, metric("step_seconds_count").await), (0.0, after));
    };
    let long = "One, two, three. ".repeat(600);
    for _ in 0..3 {
        check("One, two,", true, "generated_tokens_total", 8.0).await;
        // Where nothing is written that could fail: an answer that is sent whole, and prompts that are read.
        check("One, two,", false, "generated_tokens_total", 8.0).await;
        for stream in [true, false] {
            check(&long, stream, "prompt_tokens_total", 256.0).await;
        }
    }
}

#[tokio::test]
async fn tools_and_gaps_pass() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::with(dir.path(), &json!({"engine": {"context": 1024}}), &[]);
    daemon.adopt(CODER);
    let parameters = |city: Value| {
        json!({"type": "object", "properties": {"city": city, "unit": {"enum": ["C", "F"]}},
            "required": ["city", "unit"], "additionalProperties": false})
    };
    let tool = |strict: bool, parameters: Value| {
        json!({"type": "function", "function": {"name": "get_weather", "description": "The weather of a city.",
            "strict": strict, "parameters": parameters}})
    };
    let body = |tool: Value, more: Value| {
        let mut body = json!({"model": CODER, "temperature": 0, "max_tokens": 80, "tools": [tool],
            "messages": [{"role": "user", "content": "What is the weather in Paris?"}]});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    let path = "/v1/chat/completions";
    let forced = json!({"tool_choice": {"type": "function", "function": {"name": "get_weather"}}});
    let forced = body(tool(false, parameters(json!({"type": "string", "maxLength": 40}))), forced);
    let whole = daemon.ask(path, &forced).await;
    let call = |answer: &Value| {
        assert_eq!(answer["choices"][0]["finish_reason"], "tool_calls", "{answer}");
        let call = answer["choices"][0]["message"]["tool_calls"][0].clone();
        assert!(call["id"].as_str().unwrap().starts_with("call_"), "{call}");
        assert_eq!((&call["type"], &call["function"]["name"]), (&json!("function"), &json!("get_weather")));
        serde_json::from_str::<Value>(call["function"]["arguments"].as_str().unwrap()).unwrap()
    };
    let arguments = call(&whole);
    assert!(arguments["city"].as_str().unwrap().contains("Paris"), "{arguments}");
    assert!(arguments["unit"] == "C" || arguments["unit"] == "F", "{arguments}");

    let pieces = daemon.stream(path, &forced).await;
    let deltas: Vec<&Value> = pieces.iter().map(|piece| &piece["choices"][0]["delta"]["tool_calls"][0]).collect();
    let names: Vec<&str> = deltas.iter().filter_map(|delta| delta["function"]["name"].as_str()).collect();
    let streamed: String = deltas.iter().filter_map(|delta| delta["function"]["arguments"].as_str()).collect();
    assert_eq!((names, serde_json::from_str::<Value>(&streamed).unwrap()), (vec!["get_weather"], arguments));
    assert!(deltas.iter().filter(|delta| delta["function"]["arguments"].is_string()).count() > 3, "{pieces:?}");
    assert_eq!(pieces.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");

    // Of its own accord, once the model has begun a call, which the bias makes it do: what it says then follows a schema that
    // it would not think of.
    let token = daemon.token("<tool_call>").await;
    let auto = json!({"tool_choice": "auto", "parallel_tool_calls": false, "logit_bias": {(token): 100}});
    let odd = parameters(json!({"const": "Zug-7"}));
    for strict in [true, false] {
        let answer = daemon.ask(path, &body(tool(strict, odd.clone()), auto.clone())).await;
        assert_eq!(call(&answer)["city"], "Zug-7", "{answer}");
    }
    // What cannot be followed is refused for strict tools alone.
    let unsupported = parameters(json!({"type": "array", "uniqueItems": true}));
    let refused = daemon.post(path, &body(tool(true, unsupported.clone()), json!({}))).send().await.unwrap();
    assert_eq!(refused.status(), 400);
    assert_eq!(refused.json::<Value>().await.unwrap()["error"]["param"], "tools");
    daemon.ask(path, &body(tool(false, unsupported), json!({}))).await;

    let gap = json!({"model": CODER, "temperature": 0, "max_tokens": 32, "suffix": "\n\nprint(fibonacci(10))\n",
        "prompt": "def fibonacci(n):\n    if n < 2:\n        return n\n    return "});
    let gap = daemon.ask("/v1/completions", &gap).await;
    let text = gap["choices"][0]["text"].as_str().unwrap();
    assert_eq!(text.replace(' ', "").trim_end(), "fibonacci(n-1)+fibonacci(n-2)", "{gap}");
}

#[tokio::test]
async fn prompts_outlive_the_daemon_where_that_is_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let config = json!({"engine": {"context": 1024, "prefix_cache": "64MiB"}});
    let prompt = format!("{} The capital of Italy is", "Paris is in France, Rome is in Italy.".repeat(12));
    let body = json!({"model": GEMMA, "prompt": prompt, "temperature": 0, "max_tokens": 8});
    let mut answers = Vec::new();
    for _ in 0..2 {
        let daemon = Daemon::with(dir.path(), &config, &[]);
        if answers.is_empty() {
            daemon.adopt(GEMMA);
        }
        answers.push(daemon.ask("/v1/completions", &body).await);
        assert_eq!(daemon.stop().0, Some(0));
    }
    assert_eq!(answers[0]["choices"][0]["text"], answers[1]["choices"][0]["text"]);
    let usage = &answers[1]["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    assert!(cached > 64 && cached + 32 >= usage["prompt_tokens"].as_u64().unwrap(), "{usage}");
}

#[tokio::test]
async fn a_smaller_model_guesses_where_that_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let file = |name: &str, seed| {
        let path = dir.path().join(name);
        std::fs::write(&path, crate::tiny::model(40, seed)).unwrap();
        path.to_str().unwrap().to_string()
    };
    let (large, small) = (file("large.gguf", 3), file("small.gguf", 5));
    let prompt: Vec<u64> = (3..30).collect();
    let mut plain: Option<(Value, u64)> = None;
    // By the name of an installed model, and by its file.
    for (draft, guesses) in [(None, false), (Some("Small"), true), (Some(&*small), true), (Some("lost.gguf"), false)] {
        let drafts = draft.map_or(json!({}), |draft| json!({"large": draft, "unheard-of": "x"}));
        let daemon = Daemon::with(&dir.path().join("state"), &json!({"models": {"drafts": drafts}}), &[]);
        for model in [&large, &small] {
            stdout(&daemon.run(&["model", "pull", model]));
        }
        let body = json!({"model": "large", "prompt": prompt, "max_tokens": 30, "temperature": 0});
        let answer = daemon.ask("/v1/completions", &body).await["choices"][0].clone();
        let tenant = daemon.status()["placement"]["tenants"][0].clone();
        let claim = tenant["predicted"]["ram"].as_u64().unwrap();
        let command = std::fs::read_to_string(format!("/proc/{}/cmdline", daemon.worker())).unwrap();
        assert_eq!(command.contains(&format!("--draft\0{small}\0")), guesses, "{command:?}");
        let (expected, alone) = plain.get_or_insert((answer.clone(), claim));
        assert_eq!(answer, *expected, "with {draft:?}");
        // Of the same shape it takes as much.
        assert_eq!(claim, *alone * if guesses { 2 } else { 1 }, "with {draft:?}");
        let broken = stdout(&daemon.run(&["model", "list"]));
        assert_eq!(broken.contains("large (draft)"), draft == Some("lost.gguf"), "{broken}");
        let warned = daemon.log().contains("models.drafts names a model that is not installed");
        assert_eq!(warned, draft.is_some());
        assert_eq!(daemon.stop().0, Some(0));
    }
}

#[tokio::test]
async fn a_file_that_shrinks_under_its_worker_ends_the_worker_alone() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::with(&dir.path().join("state"), &json!({}), &[]);
    let file = dir.path().join("shrinks.gguf");
    std::fs::write(&file, crate::tiny::model(400, 3)).unwrap();
    stdout(&daemon.run(&["model", "pull", file.to_str().unwrap()]));
    let body = json!({"model": "shrinks", "prompt": "t1", "max_tokens": 4});
    daemon.ask("/v1/completions", &body).await;

    // The worker reads its weights where they lie.
    std::fs::File::options().write(true).open(&file).unwrap().set_len(4096).unwrap();
    let broken = daemon.post("/v1/completions", &body).send().await.unwrap();
    let (status, told) = (broken.status(), broken.text().await.unwrap());
    assert!(status.is_server_error() && told.contains("SIGBUS"), "{status}: {told}");

    // The next start tells what the file is now, and everything else goes on.
    let again = daemon.post("/v1/completions", &body).send().await.unwrap();
    let (status, told) = (again.status(), again.text().await.unwrap());
    assert!(!status.is_success() && told.contains("shrinks.gguf"), "{status}: {told}");
    let other = dir.path().join("other.gguf");
    std::fs::write(&other, crate::tiny::model(400, 4)).unwrap();
    stdout(&daemon.run(&["model", "pull", other.to_str().unwrap()]));
    daemon.ask("/v1/completions", &json!({"model": "other", "prompt": "t1", "max_tokens": 4})).await;
}
