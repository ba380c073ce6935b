//! The daemon's placement with native workers on cards: NVIDIA's library and the worker program are stand-ins.

use crate::nvml::{Card, Driver};
use crate::placement::spec;
use sovereign::config::{self, Config};
use sovereign::engine::kernels::cuda::need::Needs;
use sovereign::engine::quant::Format;
use sovereign::gpu::{Probe, Reading};
use sovereign::models::ModelSpec;
use sovereign::placement::{
    Learned, Lease, Limits, Observation, Placement, Policy, Sight, Status, TenantState, TenantStatus,
};
use sovereign::runtime::native::Native;
use sovereign::runtime::{Claim, Runtime, Setting};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

const GPU: &str = "GPU-0a1b2c3d-0e4f-5061-7283-94a5b6c7d8e9";
const GIB: u64 = 1 << 30;
const SOON: Duration = Duration::from_secs(20);

/// Reads the card again and again.
async fn look(mut probe: Probe, publish: watch::Sender<Arc<Observation>>) {
    while !publish.is_closed() {
        let at = Instant::now();
        let reading = Reading { at, cards: probe.read() };
        publish.send_replace(Arc::new(Observation::of(16 * GIB, 0, &reading)));
        sleep(Duration::from_millis(20)).await;
    }
}

/// A model of half a gigabyte that a card can serve, by a worker that behaves as the file's name says.
fn model(folder: &Path, name: &str) -> Arc<ModelSpec> {
    let file = folder.join(format!("{name}.gguf"));
    std::fs::write(&file, "").unwrap();
    let mut needs = Needs { width: 4096, queries: 4096, keys: 1024, hidden: 14336, ..Needs::default() };
    (needs.head, needs.kv_heads, needs.layers, needs.vocabulary) = (128, 8, 32, 32_000);
    (0..10).for_each(|_| needs.add_matrix(Format::Q4K, 14336, 4096));
    Arc::new(ModelSpec { file, on_card: Some(needs), ..(*spec(name)).clone() })
}

/// Placement of workers whose program is a stand-in, on a card of 8 GiB.
struct House {
    placement: Placement,
    shutdown: CancellationToken,
    _driver: Driver,
}

impl House {
    async fn open(folder: &Path, limits: Limits) -> House {
        let driver = Driver::new(vec![Card::new(GPU, 8 * GIB)]);
        let probe = Probe::new(&config::Gpu { nvml_library: Some(driver.library()), ..config::Gpu::default() });
        let (publish, observations) = watch::channel(Arc::new(Observation::fixed(&Claim::default())));
        tokio::spawn(look(probe, publish));
        let config = Config::load(None, Some(folder)).unwrap();
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/worker.sh");
        let runtime = Runtime::Native(Arc::new(Native::with_program(&config, &program)));
        let (policy, learned, sight) = (Policy::default(), Learned::default(), Sight::with(observations));
        let shutdown = CancellationToken::new();
        let placement = Placement::with_runtime(runtime, policy, learned, limits, sight, shutdown.clone());
        let mut status = placement.status();
        timeout(SOON, status.wait_for(|status| status.budget.on(GPU) > 0)).await.unwrap().unwrap();
        House { placement, shutdown, _driver: driver }
    }

    async fn lease(&self, model: &Arc<ModelSpec>) -> Lease {
        timeout(SOON, self.placement.acquire(model.clone())).await.unwrap().unwrap()
    }

    /// The only tenant, once it is as expected.
    async fn tenant(&self, expected: impl Fn(&TenantStatus) -> bool) -> TenantStatus {
        let mut status = self.placement.status();
        let is = |status: &Arc<Status>| matches!(&status.tenants[..], [tenant] if expected(tenant));
        timeout(SOON, status.wait_for(is)).await.unwrap().unwrap().tenants[0].clone()
    }

    async fn close(self) {
        self.shutdown.cancel();
        // The loop ends when all have.
        timeout(SOON, self.placement.stopped()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_card_that_fails_leads_to_the_processor() {
    let folder = tempfile::tempdir().unwrap();
    let house = House::open(folder.path(), Limits::default()).await;
    let placement = &house.placement;
    let model = model(folder.path(), "falls");
    let mut status = placement.status();

    let lease = house.lease(&model).await;
    assert_eq!((lease.endpoint().runtime, lease.endpoint().context), ("native-cuda", 4096));
    // The ledger holds what the worker was told that it may take.
    let told = std::fs::read_to_string(folder.path().join("falls.gguf.log")).unwrap();
    let running = placement.status().borrow().tenants[0].clone();
    let setting = Setting { gpu: Some(GPU.into()), context: 4096, kv: None };
    assert_eq!((running.setting, &running.granted), (setting, &running.predicted));
    let (on_card, device) = (running.granted.on(GPU), format!("--device cuda:{GPU} "));
    assert!(told.contains(&device) && told.contains(&format!("--vram-limit {on_card}")), "{told}");
    assert!((GIB / 2..3 * GIB).contains(&on_card), "{on_card}");

    // The card fails under it.
    std::fs::remove_file(&model.file).unwrap();
    let ended = |status: &Arc<Status>| status.tenants.is_empty();
    timeout(SOON, status.wait_for(ended)).await.unwrap().unwrap();
    drop(lease);
    let lease = house.lease(&model).await;
    assert_eq!((lease.endpoint().runtime, lease.endpoint().context), ("native-cpu", 4096));
    let told = std::fs::read_to_string(folder.path().join("falls.gguf.log")).unwrap();
    assert!(told.lines().last().unwrap().contains("--device cpu "), "{told}");
    assert_eq!(placement.status().borrow().tenants[0].granted.on(GPU), 0);
    drop(lease);
    house.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_parked_model_starts_from_the_weights_that_its_worker_left() {
    let folder = tempfile::tempdir().unwrap();
    let limits = Limits { keep_alive: Duration::ZERO, ..Limits::default() };
    let house = House::open(folder.path(), limits).await;
    let model = model(folder.path(), "parks");
    let lease = house.lease(&model).await;
    // The stand-in is mute: what it is asked is answered here.
    let socket = tokio::net::UnixListener::bind(folder.path().join("run/0.sock")).unwrap();
    let routes = axum::Router::new().route("/park", axum::routing::post(async || ""));
    tokio::spawn(async move { axum::serve(socket, routes).await });
    drop(lease);
    let parked = house.tenant(|tenant| tenant.state == TenantState::Parked).await;
    // Nothing of the card, and less of the host than while it answers.
    let answers = house.lease(&model).await;
    let running = house.tenant(|tenant| tenant.state == TenantState::Ready).await;
    assert_eq!((parked.granted.on(GPU), answers.endpoint().runtime), (0, "native-cuda"));
    assert!((GIB / 8..running.granted.ram).contains(&parked.granted.ram), "{parked:?} {running:?}");
    let log = std::fs::read_to_string(folder.path().join("parks.gguf.log")).unwrap();
    assert_eq!(log.lines().collect::<Vec<_>>(), ["finds ", "finds weights"]);
    drop(answers);
    house.close().await;
}
