//! `/metrics`, read as strictly as Prometheus does.

use crate::nvml::{Card, Driver, Memory, Process, Xid};
use axum::Router;
use axum::body::Body;
use axum::extract::ConnectInfo;
use axum::http::{Request, Response, StatusCode};
use serde_json::json;
use sovereign::app::App;
use sovereign::config::Config;
use sovereign::db::usage::Row;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tower::ServiceExt;

const MIB: u64 = 1 << 20;
const SOON: Duration = Duration::from_secs(20);

type Labels = BTreeMap<String, String>;

/// Figures by family.
#[derive(Debug, Default)]
struct Scrape {
    kinds: BTreeMap<String, String>,
    figures: Vec<(String, Labels, f64)>,
}

impl Scrape {
    /// Reads the text format; panics at what Prometheus would refuse, or would take and should not have to.
    fn parse(text: &str) -> Self {
        assert!(text.ends_with('\n'), "the last line has no end");
        let mut scrape = Self::default();
        let (mut family, mut seen) = (String::new(), BTreeSet::new());
        for line in text.lines() {
            if let Some(help) = line.strip_prefix("# HELP ") {
                let (name, help) = help.split_once(' ').expect(line);
                assert!(is_name(name, true) && !help.is_empty(), "{line}");
                family = name.into();
            } else if let Some(kind) = line.strip_prefix("# TYPE ") {
                let (name, kind) = kind.split_once(' ').expect(line);
                assert!(name == family && ["counter", "gauge"].contains(&kind), "{line}");
                assert!(scrape.kinds.insert(name.into(), kind.into()).is_none(), "{name} is told of twice");
            } else {
                let (name, labels, value) = figure(line);
                assert!(name == family && scrape.kinds.contains_key(&name), "{line} is not of {family}");
                assert!(seen.insert((name.clone(), labels.clone())), "{line} is told of twice");
                scrape.figures.push((name, labels, value));
            }
        }
        for name in scrape.kinds.keys() {
            assert!(scrape.figures.iter().any(|(figure, ..)| figure == name), "{name} has no figures");
        }
        scrape
    }

    /// The one figure of a family whose labels contain these.
    #[track_caller]
    fn get(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let is = |figure: &Labels| labels.iter().all(|(label, value)| figure.get(*label).is_some_and(|v| v == value));
        let found: Vec<f64> =
            self.figures.iter().filter(|(n, l, _)| n == name && is(l)).map(|(.., value)| *value).collect();
        assert_eq!(found.len(), 1, "{name} {labels:?} in {:#?}", self.figures);
        found[0]
    }
}

fn is_name(name: &str, colons: bool) -> bool {
    let is = |c: char| c.is_ascii_alphanumeric() || c == '_' || (colons && c == ':');
    name.chars().all(is) && name.chars().next().is_some_and(|first| !first.is_ascii_digit())
}

/// `name{label="value",...} 1.5`.
fn figure(line: &str) -> (String, Labels, f64) {
    let end = line.find(['{', ' ']).expect(line);
    let (name, mut rest) = line.split_at(end);
    assert!(is_name(name, true), "{line}");
    let mut labels = Labels::new();
    if let Some(inner) = rest.strip_prefix('{') {
        rest = inner;
        loop {
            let (label, value) = rest.split_once("=\"").expect(line);
            assert!(is_name(label, false), "{line}");
            let (value, after) = quoted(value, line);
            assert!(labels.insert(label.into(), value).is_none(), "{line}");
            match after.strip_prefix(',') {
                Some(next) => rest = next,
                None => break rest = after.strip_prefix('}').expect(line),
            }
        }
    }
    let value: f64 = rest.strip_prefix(' ').expect(line).parse().expect(line);
    assert!(value.is_finite(), "{line}");
    (name.into(), labels, value)
}

/// A label's value up to its closing quote, and what follows.
fn quoted<'a>(text: &'a str, line: &str) -> (String, &'a str) {
    let (mut value, mut chars) = (String::new(), text.char_indices());
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.push(match chars.next().expect(line).1 {
                'n' => '\n',
                c @ ('\\' | '"') => c,
                c => panic!("{line}: \\{c} means nothing"),
            }),
            c => value.push(c),
        }
    }
    panic!("{line}: a quote is open");
}

async fn start(folder: &Path, driver: &Driver, gateway: serde_json::Value) -> (App, Router) {
    let file = folder.join("config.yaml");
    let docker = format!("unix://{}/no-docker.sock", folder.display());
    let config = json!({"gpu": {"nvml_library": driver.library()}, "docker": {"host": docker}, "gateway": gateway});
    std::fs::write(&file, config.to_string()).unwrap();
    let app = App::start(Config::load(Some(&file), Some(folder)).unwrap()).await.unwrap();
    let router = sovereign::daemon::tcp(&app);
    (app, router)
}

async fn get(router: &Router, peer: &str, key: Option<&str>) -> Response<Body> {
    let mut request = Request::builder().uri("/metrics").header("host", "192.168.7.1:8808");
    if let Some(key) = key {
        request = request.header("authorization", format!("Bearer {key}"));
    }
    let mut request = request.body(Body::empty()).unwrap();
    request.extensions_mut().insert(ConnectInfo(peer.parse::<SocketAddr>().unwrap()));
    router.clone().oneshot(request).await.unwrap()
}

#[tokio::test]
async fn cards_and_answers_are_told_in_prometheus_format() {
    let driver = Driver::new(vec![
        Card {
            name: "NVIDIA \"RTX\" \\ 5060".into(),
            memory: Some(Memory { total: 8151 * MIB, reserved: 228 * MIB, other: 100 * MIB }),
            utilisation: Some((38, 12)),
            power: Some(87_400),
            energy: Some(123_456_789_012),
            clocks: Some((2_497, 14_001)),
            encoder: None,
            processes: Some(vec![Process {
                pid: 4_000_000_000,
                bytes: Some(2_000 * MIB),
                computes: true,
                draws: false,
            }]),
            ..Card::new("GPU-1", 0)
        },
        Card::silent("GPU-2"),
    ]);
    let folder = tempfile::tempdir().unwrap();
    let (app, router) = start(folder.path(), &driver, json!({})).await;
    let mut samples = app.gpu.samples();
    let cards = |sample: &sovereign::gpu::Sample| sample.cards.len() == 2;
    tokio::time::timeout(SOON, samples.wait_for(|sample| cards(sample))).await.expect("no card is seen").unwrap();
    driver.change(|script| script.xids.push(Xid { uuid: "GPU-1".into(), code: 31 }));
    let told = |sample: &sovereign::gpu::Sample| sample.cards.iter().any(|card| !card.xids.is_empty());
    tokio::time::timeout(SOON, samples.wait_for(|sample| told(sample))).await.expect("no error is seen").unwrap();
    for (status, completion_tokens) in [(200, 30), (200, 12), (429, 0)] {
        app.usage.record(Row {
            at: 1,
            api_key_id: None,
            model: "gem\"ma\n3".into(),
            runtime: "native",
            prompt_tokens: 7,
            completion_tokens,
            first_token_ms: None,
            total_ms: 1,
            status,
        });
    }

    let answer = get(&router, "127.0.0.1:40000", None).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let scrape = Scrape::parse(std::str::from_utf8(&body).unwrap());
    let first = [("gpu", "0"), ("UUID", "GPU-1"), ("device", "nvidia0"), ("modelName", "NVIDIA \"RTX\" \\ 5060")];
    let check = |name: &str, kind: &str, expected: f64| {
        assert_eq!((scrape.get(name, &first), scrape.kinds[name].as_str()), (expected, kind), "{name}");
    };
    check("DCGM_FI_DEV_FB_USED", "gauge", 2_100.0);
    check("DCGM_FI_DEV_FB_FREE", "gauge", 5_823.0);
    check("DCGM_FI_DEV_FB_RESERVED", "gauge", 228.0);
    check("DCGM_FI_DEV_GPU_UTIL", "gauge", 38.0);
    check("DCGM_FI_DEV_MEM_COPY_UTIL", "gauge", 12.0);
    check("DCGM_FI_DEV_POWER_USAGE", "gauge", 87.4);
    check("DCGM_FI_DEV_TOTAL_ENERGY_CONSUMPTION", "counter", 123_456_789_012.0);
    check("DCGM_FI_DEV_GPU_TEMP", "gauge", 35.0);
    check("DCGM_FI_DEV_SM_CLOCK", "gauge", 2_497.0);
    check("DCGM_FI_DEV_MEM_CLOCK", "gauge", 14_001.0);
    check("DCGM_FI_DEV_XID_ERRORS", "gauge", 31.0);
    check("DCGM_FI_DEV_PCIE_REPLAY_COUNTER", "counter", 0.0);
    check("DCGM_FI_DEV_DEC_UTIL", "gauge", 0.0);
    check("sovereign_gpu_up", "gauge", 1.0);
    // What a card does not support is absent, not zero.
    assert!(!scrape.kinds.contains_key("DCGM_FI_DEV_ENC_UTIL"));
    let of_second: Vec<&str> =
        scrape.figures.iter().filter(|(_, l, _)| l.get("UUID").is_some_and(|u| u == "GPU-2")).map(|f| &*f.0).collect();
    assert_eq!(of_second, ["DCGM_FI_DEV_XID_ERRORS", "sovereign_gpu_up"]);
    let held = |kind| scrape.get("sovereign_gpu_held_bytes", &[("UUID", "GPU-1"), ("kind", kind)]);
    assert_eq!((held("host"), held("rest")), ((2_000 * MIB) as f64, (100 * MIB) as f64));

    let model = ("model", "gem\"ma\n3");
    assert_eq!(scrape.get("sovereign_requests_total", &[model, ("status", "200")]), 2.0);
    assert_eq!(scrape.get("sovereign_requests_total", &[model, ("status", "429")]), 1.0);
    assert_eq!(scrape.get("sovereign_tokens_total", &[model, ("kind", "prompt")]), 21.0);
    assert_eq!(scrape.get("sovereign_tokens_total", &[model, ("kind", "generated")]), 42.0);
    assert!(scrape.get("sovereign_budget_bytes", &[("of", "host")]) > 0.0);
    assert!(scrape.get("sovereign_budget_bytes", &[("of", "GPU-1")]) > 0.0);
    assert!(scrape.get("sovereign_host_memory_bytes", &[]) > 0.0);
    app.close().await;
}

#[tokio::test]
async fn who_may_ask_may_read_it() {
    let driver = Driver::new(Vec::new());
    let folder = tempfile::tempdir().unwrap();
    let (app, router) = start(folder.path(), &driver, json!({})).await;
    let (_, secret) = app.keys.create("prometheus").await.unwrap();
    let lan = "192.168.7.7:40000";
    let status = |peer, key| {
        let router = router.clone();
        async move { get(&router, peer, key).await.status() }
    };
    assert_eq!(status(lan, None).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(lan, Some("sk-sov-wrong")).await, StatusCode::UNAUTHORIZED);
    assert_eq!(status(lan, Some(&secret)).await, StatusCode::OK);
    assert_eq!(status("127.0.0.1:40000", None).await, StatusCode::OK);
    app.close().await;

    let folder = tempfile::tempdir().unwrap();
    let (app, router) = start(folder.path(), &driver, json!({"open_metrics": true})).await;
    assert_eq!(get(&router, lan, None).await.status(), StatusCode::OK);
    app.close().await;
}
