use super::*;
use crate::engine::kernels::cuda::need::Needs;
use crate::engine::quant::Format;
use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use rustix::process::{Pid, Signal, kill_process};

/// Workers of a program that stands in for `sovereign` and behaves as the model file's name says.
fn worker(dir: &Path, file: &str) -> Worker {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/worker.sh");
    let config = Config::load(None, Some(dir)).unwrap();
    let native = Native { grace: Duration::from_millis(200), ..Native::with_program(&config, &program) };
    Worker::new(Arc::new(native), Arc::new(ModelSpec::for_tests(file)))
}

async fn start(worker: &Worker) -> Result<Running, StartError> {
    worker.start(&grant(), &CancellationToken::new(), &|_| (), None).await
}

fn grant() -> Grant {
    let setting = Setting { gpu: None, context: 4096, kv: None };
    Grant { variant: Variant { setting, claim: Claim::default(), slots: 1, rests: Vec::new() } }
}

const GPU: &str = "GPU-0a1b2c3d-0e4f-5061-7283-94a5b6c7d8e9";

fn cards() -> Vec<Card> {
    vec![Card { uuid: GPU.into(), memory: 8_188 << 20, capability: Some((12, 0)) }]
}

/// A model that a card can serve.
fn able(dir: &Path, change: impl FnOnce(&mut Native, &mut ModelSpec)) -> Worker {
    let Worker { native, spec } = worker(dir, "good");
    let (mut native, mut spec) = (Arc::into_inner(native).unwrap(), Arc::into_inner(spec).unwrap());
    let mut needs = Needs { width: 256, queries: 256, keys: 64, hidden: 512, head: 64, layers: 2, ..Needs::default() };
    (needs.kv_heads, needs.vocabulary) = (1, 1000);
    needs.add_matrix(Format::Q4K, 1000, 256);
    spec.on_card = Some(needs);
    change(&mut native, &mut spec);
    Worker::new(Arc::new(native), Arc::new(spec))
}

#[test]
fn cards_come_first_and_the_processor_is_always_there() {
    let dir = tempfile::tempdir().unwrap();
    let check = |worker: Worker, cards: &[Card], expected: &[(bool, usize, usize, Option<&str>, bool)]| {
        let variants = worker.variants(cards);
        let found = variants.iter().map(|variant| {
            let Setting { gpu, context, kv } = &variant.setting;
            assert_eq!(gpu.is_some(), variant.claim.on(GPU) > 0);
            (gpu.is_some(), *context, variant.slots, kv.as_deref(), !variant.rests.is_empty())
        });
        assert_eq!(found.collect::<Vec<_>>(), expected);
        // Later ones take no more.
        assert!(variants.is_sorted_by_key(|variant| std::cmp::Reverse(variant.claim.on(GPU))));
        for variant in variants.iter().filter(|variant| !variant.rests.is_empty()) {
            let [Rest { rung: Rung::Sleep, residue: asleep }, Rest { rung: Rung::Park, residue: parked }] =
                &variant.rests[..]
            else {
                panic!("it cannot rest")
            };
            assert!(asleep.on(GPU) < variant.claim.on(GPU) && asleep.ram > variant.claim.ram);
            assert!(parked.on(GPU) == 0 && parked.ram < variant.claim.ram);
        }
    };
    let cpu = (false, 4096, 2, None, false);
    let sizes = [(4096, 2, None), (4096, 1, None), (4096, 1, Some("fp8")), (2048, 1, Some("fp8"))];
    let of = |(context, slots, kv), rests| (true, context, slots, kv, rests);
    // Each as one that can rest, and as one that takes less of the host's memory.
    let all: Vec<_> = sizes.into_iter().flat_map(|size| [of(size, true), of(size, false)]).collect();
    let restless: Vec<_> = sizes.into_iter().map(|size| of(size, false)).collect();
    let with_cpu = [&all[..], &[cpu]].concat();
    check(able(dir.path(), |_, _| ()), &cards(), &with_cpu);
    check(able(dir.path(), |native, _| native.parked_memory = 0), &cards(), &[&restless[..], &[cpu]].concat());
    check(able(dir.path(), |_, _| ()), &[], &[cpu]);
    check(able(dir.path(), |native, _| native.device = EngineDevice::Cuda), &cards(), &all);
    check(able(dir.path(), |native, _| native.device = EngineDevice::Cuda), &[], &[cpu]);
    check(able(dir.path(), |native, _| native.device = EngineDevice::Cpu), &cards(), &[cpu]);
    check(able(dir.path(), |native, _| native.kernels = false), &cards(), &[cpu]);
    check(able(dir.path(), |_, spec| spec.on_card = None), &cards(), &[cpu]);
    check(able(dir.path(), |_, spec| spec.embeds = true), &cards(), &[cpu]);
    let adapter = AdapterSpec { name: "good:x".into(), path: "x".into() };
    check(able(dir.path(), |_, spec| spec.adapters.push(adapter)), &cards(), &[cpu]);
    let old = Card { capability: Some((7, 5)), ..cards().remove(0) };
    check(able(dir.path(), |_, _| ()), &[old], &[cpu]);
    let missing = Card { memory: 0, ..cards().remove(0) };
    check(able(dir.path(), |_, _| ()), &[missing], &[cpu]);
}

#[test]
fn a_worker_is_told_its_card_and_its_limit() {
    let dir = tempfile::tempdir().unwrap();
    let worker = able(dir.path(), |native, _| native.threads = Some(3));
    let check = |at: usize, expected: &[&str], without: &str| {
        let variant = &worker.variants(&cards())[at];
        let command = worker.command(Path::new("/s"), variant);
        let words: Vec<&str> = command.as_std().get_args().filter_map(|word| word.to_str()).collect();
        let limit = variant.claim.on(GPU).to_string();
        for pair in expected.iter().map(|pair| pair.replace("LIMIT", &limit)) {
            let (name, value) = pair.split_once(' ').unwrap();
            assert!(words.windows(2).any(|words| words == [name, value]), "{pair} is not in {words:?}");
        }
        assert!(!words.contains(&without), "{words:?}");
    };
    let device = format!("--device cuda:{GPU}");
    check(0, &[&device, "--vram-limit LIMIT", "--ctx 4096", "--slots 2", "--listen unix:/s"], "--threads");
    check(7, &[&device, "--vram-limit LIMIT", "--ctx 2048", "--slots 1", "--kv fp8"], "--threads");
    check(8, &["--device cpu", "--ctx 4096", "--slots 2", "--threads 3"], "--vram-limit");
}

#[tokio::test]
async fn a_card_that_failed_is_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let error = start(&worker(dir.path(), "cardless")).await.unwrap_err();
    assert_eq!(error, StartError::CardFailed("the card failed (exit status: 3)".into()));
}

#[tokio::test]
async fn rests_are_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("worker.sock");
    let asleep = post(async || "");
    let full = post(async || (StatusCode::SERVICE_UNAVAILABLE, "the card is full"));
    let unheld = post(async || (StatusCode::BAD_REQUEST, "nobody holds its memory"));
    let routes = Router::new().route("/sleep", asleep).route("/wake_up", full).route("/park", unheld);
    let listener = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move { axum::serve(listener, routes).await });
    let address = Address::Unix(path);
    assert_eq!(take(&address, Rung::Sleep).await, Ok(()));
    assert_eq!(take(&address, Rung::Park).await, Err("nobody holds its memory".into()));
    assert_eq!(take(&address, Rung::Free).await, Err("it cannot".into()));
    assert_eq!(wake(&address).await, Err("the card is full".into()));
}

fn is_alive(running: &Running) -> bool {
    let Attribution::Process(pid) = running.who else { panic!("not a process") };
    Path::new(&format!("/proc/{pid}")).exists()
}

#[tokio::test]
async fn starts_and_stops() {
    let dir = tempfile::tempdir().unwrap();
    let check = async |file: &str, ends: &[&str]| {
        let mut running = start(&worker(dir.path(), file)).await.unwrap();
        assert!(is_alive(&running));
        let exit = running.stop().await;
        assert!(!is_alive(&running));
        assert!(ends.iter().any(|end| exit.reason.contains(end)), "{}", exit.reason);
    };
    // The signal and the end of its stdin race.
    check("good", &["exit status: 0", "signal: 15"]).await;
    check("stubborn", &["signal: 9"]).await;
}

#[tokio::test]
async fn a_failed_start_tells_the_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let check = async |file: &str, words: &str| {
        let error = start(&worker(dir.path(), file)).await.unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
    };
    check("bad", "reading\ngeneral.architecture is missing (exit status: 2)").await;
    check("mute", "without a word (exit status: 1)").await;
}

#[tokio::test]
async fn a_worker_that_is_killed_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let mut running = start(&worker(dir.path(), "good")).await.unwrap();
    let Attribution::Process(pid) = running.who else { panic!("not a process") };
    kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
    let exit = running.exits.wait().await;
    assert!(exit.reason.contains("signal: 9"), "{}", exit.reason);
}

#[tokio::test]
async fn a_start_can_be_given_up() {
    let dir = tempfile::tempdir().unwrap();
    let stop = CancellationToken::new();
    let worker = worker(dir.path(), "hangs");
    let grant = grant();
    let (result, ()) = tokio::join!(worker.start(&grant, &stop, &|_| (), None), async { stop.cancel() });
    assert_eq!(result.unwrap_err(), StartError::Stopped);
}

#[tokio::test]
async fn a_program_that_is_missing_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let config = Config::load(None, Some(dir.path())).unwrap();
    let native = Native::with_program(&config, Path::new("/nowhere/sovereign"));
    let error = start(&Worker::new(Arc::new(native), Arc::new(ModelSpec::for_tests("good")))).await.unwrap_err();
    assert!(error.to_string().starts_with("cannot start a worker: "), "{error}");
}
