use super::*;
use crate::egress::mirror::{Answer, Asked, Mirror as Server};
use crate::egress::{Class, Egress, Initiator, Policy, Resolver};
use crate::engine::gguf::{Kind, Writer};
use crate::models::catalogue::Wheels;
use crate::models::{Progress, hex};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::PathBuf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zip::write::SimpleFileOptions;

mod hub;
#[path = "../../../tests/it/tiny.rs"]
mod tiny;
mod wheels;

const PATH: &str = "/m.gguf";
const CUT: usize = 100_000;

/// A folder, and a server to fetch into it from.
struct Bench {
    server: Server,
    dir: tempfile::TempDir,
    pins: Pins,
}

impl Bench {
    async fn new() -> Self {
        Self { server: Server::start().await, dir: tempfile::tempdir().unwrap(), pins: Pins::new() }
    }

    /// An order of what lies under [`PATH`].
    fn web(&self) -> Order {
        order(vec![Mirror::Https(self.server.url(PATH))])
    }

    fn whole(&self) -> PathBuf {
        self.dir.path().join("m.gguf")
    }

    async fn fetch(&self, order: &Order) -> Result<Fetched, Error> {
        let (progress, _) = watch::channel(Progress::new("test"));
        self.fetch_with(order, progress, CancellationToken::new()).await
    }

    /// Fetches without waiting long between attempts.
    async fn fetch_with(
        &self,
        order: &Order,
        progress: watch::Sender<Progress>,
        cancel: CancellationToken,
    ) -> Result<Fetched, Error> {
        let config = config::Models {
            huggingface: self.server.base.clone(),
            python_index: Some(self.server.url("/simple")),
            ..config::Models::default()
        };
        let downloader = Downloader { pause: Duration::from_millis(1), ..Downloader::new(&config, outside()) };
        let there = self.whole().exists();
        let fetched = downloader.fetch(order, &self.pins, &self.whole(), &Report::new(progress, cancel)).await;
        assert_eq!(self.whole().exists(), there, "nothing gets its final name before it is kept");
        fetched
    }

    /// Fetches, cuts the connection when the server has stopped, and lets it go on.
    async fn fetch_through_a_cut(&self, order: &Order) -> Result<Fetched, Error> {
        let cut = async {
            self.server.stopped().await;
            self.server.cut();
        };
        tokio::join!(self.fetch(order), cut).0
    }

    /// Fetches until the server has stopped, and gives up then.
    async fn fetch_and_give_up(&self, order: &Order) {
        let (sender, mut progress) = watch::channel(Progress::new("test"));
        let cancel = CancellationToken::new();
        let give_up = async {
            self.server.stopped().await;
            progress.wait_for(|progress| progress.done > 0).await.unwrap();
            cancel.cancel();
        };
        let (fetched, ()) = tokio::join!(self.fetch_with(order, sender, cancel.clone()), give_up);
        assert!(matches!(fetched, Err(Error::Cancelled)), "{fetched:?}");
    }

    /// Keeps what was fetched, and reads it.
    async fn kept(&self, fetched: Result<Fetched, Error>) -> Vec<u8> {
        fetched.unwrap().keep(&self.whole()).await.unwrap();
        assert_eq!(self.files(), ["m.gguf"]);
        std::fs::read(self.whole()).unwrap()
    }

    /// The error of a fetch that left nothing behind.
    async fn refused(&self, order: &Order) -> Error {
        let error = self.fetch(order).await.unwrap_err();
        assert_eq!(self.files(), [""; 0], "{error}");
        error
    }

    fn files(&self) -> Vec<String> {
        let name = |entry: std::io::Result<std::fs::DirEntry>| entry.unwrap().file_name().into_string().unwrap();
        let mut files: Vec<String> = std::fs::read_dir(self.dir.path()).unwrap().map(name).collect();
        files.sort();
        files
    }

    /// Where the requests of [`PATH`] since the last time began.
    fn ranges(&self) -> Vec<Option<usize>> {
        self.server.asked().into_iter().filter(|asked| asked.path == PATH).map(|asked| asked.from).collect()
    }
}

/// A way out that may reach the server.
fn outside() -> Outside {
    let mut config = config::Config::default();
    config.egress.model_downloads = config::Gate::of(config::Mode::On);
    config.egress.lan = vec!["127.0.0.1".into()];
    let egress = Egress::in_memory(Policy::new(&config).unwrap(), Resolver::System);
    egress.outside(Class::ModelDownload, Initiator::Owner, "a test")
}

fn order(mirrors: Vec<Mirror>) -> Order {
    Order { name: "m".into(), file: "m.gguf".into(), bytes: None, sha256: None, mirrors }
}

fn digest(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// About 300 kB.
fn model(seed: u64) -> Vec<u8> {
    tiny::model(1000, seed)
}

#[tokio::test]
async fn a_file_is_fetched_and_kept() {
    let bench = Bench::new().await;
    bench.server.put(PATH, Answer::file(model(1), "a"));
    let fetched = bench.fetch(&bench.web()).await;
    assert_eq!(fetched.as_ref().unwrap().sha256, digest(&model(1)));
    assert_eq!(fetched.as_ref().unwrap().labels, [bench.server.url(PATH)]);
    assert_eq!(bench.kept(fetched).await, model(1));
    assert_eq!(bench.ranges(), [None]);
}

#[tokio::test]
async fn a_connection_that_breaks_is_taken_up_where_it_broke() {
    let bench = Bench::new().await;
    bench.server.put(PATH, Answer::file(model(1), "a"));
    bench.server.once(PATH, Answer::file(model(1), "a").stops_after(CUT));
    let fetched = bench.fetch_through_a_cut(&bench.web()).await;
    assert_eq!(bench.kept(fetched).await, model(1));
    assert_eq!(bench.ranges(), [None, Some(CUT)]);
    assert_eq!(bench.server.sent(), model(1).len() as u64, "no byte was sent twice");
}

#[tokio::test]
async fn what_was_given_up_goes_on_later() {
    let bench = Bench::new().await;
    bench.server.put(PATH, Answer::file(model(1), "a"));
    bench.server.once(PATH, Answer::file(model(1), "a").stops_after(CUT));
    bench.fetch_and_give_up(&bench.web()).await;
    assert_eq!(bench.files(), ["m.gguf.partial", "m.gguf.partial.json"]);
    bench.server.sent();
    let fetched = bench.fetch(&bench.web()).await;
    assert_eq!(bench.kept(fetched).await, model(1));
    let [None, Some(from)] = bench.ranges()[..] else { panic!("the second request has a range") };
    assert!((1..=CUT).contains(&from));
    assert_eq!(bench.server.sent(), (model(1).len() - from) as u64);
}

#[tokio::test]
async fn a_file_that_changed_meanwhile_is_fetched_anew() {
    let check = async |now: Answer, ranges: &[Option<usize>]| {
        let bench = Bench::new().await;
        bench.server.put(PATH, now);
        bench.server.once(PATH, Answer::file(model(1), "a").stops_after(CUT));
        let fetched = bench.fetch_through_a_cut(&bench.web()).await;
        assert_eq!(bench.kept(fetched).await, model(2));
        assert_eq!(bench.ranges(), ranges);
    };
    let now = || Answer::file(model(2), "b");
    check(now(), &[None, Some(CUT)]).await;
    // A server that compares nothing, one that knows no ranges, and one whose file is shorter now.
    check(Answer { compares: false, ..now() }, &[None, Some(CUT), None]).await;
    check(Answer { ranges: false, ..now() }, &[None, Some(CUT)]).await;
    let gone = Answer { compares: false, body: model(2)[..CUT / 2].to_vec().into(), ..now() };
    let bench = Bench::new().await;
    bench.server.put(PATH, now());
    bench.server.once(PATH, Answer::file(model(1), "a").stops_after(CUT));
    bench.server.once(PATH, gone);
    let fetched = bench.fetch_through_a_cut(&bench.web()).await;
    assert_eq!(bench.kept(fetched).await, model(2));
    assert_eq!(bench.ranges(), [None, Some(CUT), None]);
}

#[tokio::test]
async fn without_a_proof_that_it_is_the_same_file_nothing_is_resumed() {
    let check = async |sha256: Option<String>, second: Option<usize>| {
        let bench = Bench::new().await;
        let nameless = Answer { headers: Vec::new(), ..Answer::file(model(1), "") };
        bench.server.put(PATH, nameless.clone());
        bench.server.once(PATH, nameless.stops_after(CUT));
        let fetched = bench.fetch_through_a_cut(&Order { sha256, ..bench.web() }).await;
        assert_eq!(bench.kept(fetched).await, model(1));
        assert_eq!(bench.ranges(), [None, second]);
    };
    check(None, None).await;
    check(Some(digest(&model(1))), Some(CUT)).await;
}

#[tokio::test]
async fn a_page_is_no_model_and_costs_nothing() {
    let bench = Bench::new().await;
    let page = Answer::text(200, "text/html", "<html>Log in to this hotel's network</html>");
    bench.server.put(PATH, page);
    let error = bench.refused(&bench.web()).await;
    assert!(matches!(error, Error::Magic { .. }), "{error}");

    bench.server.once(PATH, Answer::file(model(1), "a").stops_after(CUT));
    bench.fetch_and_give_up(&bench.web()).await;
    bench.fetch(&bench.web()).await.unwrap_err();
    bench.server.put(PATH, Answer::file(model(1), "a"));
    let fetched = bench.fetch(&bench.web()).await;
    assert_eq!(bench.kept(fetched).await, model(1));
    assert!(bench.ranges().last().unwrap().is_some(), "the page did not cost what had arrived");
}

#[tokio::test]
async fn lies_about_the_length_are_found_out() {
    let bench = Bench::new().await;
    let file = || Answer::file(model(1), "a");
    let actual = model(1).len();
    // Longer than it is: the rest never comes.
    bench.server.put(PATH, Answer { length: Some(actual + 10), ..file() });
    let error = bench.fetch(&bench.web()).await.unwrap_err();
    assert!(matches!(error, Error::Http { .. } | Error::Protocol { .. }), "{error}");
    // Shorter: the tensors run past its end.
    let bench = Bench::new().await;
    bench.server.put(PATH, Answer::file(model(1)[..actual - 1].to_vec(), "a"));
    let error = bench.refused(&bench.web()).await;
    assert!(error.to_string().contains("past the file's end"), "{error}");
    // Other than the catalogue knows: not a byte is read.
    bench.server.put(PATH, file());
    let error = bench.refused(&Order { bytes: Some(7), ..bench.web() }).await;
    assert!(matches!(error, Error::Length { expected: 7, .. }), "{error}");
    // More than any disk holds.
    bench.server.put(PATH, Answer { length: Some(1 << 60), ..file() });
    let error = bench.refused(&bench.web()).await;
    assert!(matches!(error, Error::Space { needed, .. } if needed == 1 << 60), "{error}");
}

#[tokio::test]
async fn other_bytes_than_expected_are_not_kept() {
    let mut bench = Bench::new().await;
    bench.server.put(PATH, Answer::file(model(1), "a"));
    let error = bench.refused(&Order { sha256: Some(digest(&model(2))), ..bench.web() }).await;
    assert!(matches!(error, Error::Digest { .. }), "{error}");
    // Nor those that differ from the first pull's.
    bench.pins.insert(bench.server.url(PATH), digest(&model(2)));
    let error = bench.refused(&bench.web()).await;
    assert!(error.to_string().contains(&digest(&model(2))), "{error}");
}

#[tokio::test]
async fn what_cannot_be_served_is_refused_by_its_first_megabyte() {
    let check = async |mut file: Vec<u8>, version: u8, expected: &str| {
        let bench = Bench::new().await;
        file[4] = version;
        bench.server.put(PATH, Answer::file(file, "a").stops_after(2 << 20));
        // The server stops for good: only a verdict on what has come ends this.
        let error = bench.refused(&bench.web()).await;
        assert!(matches!(error, Error::Gguf { .. }) && error.to_string().contains(expected), "{error}");
    };
    check(tiny::model(16_000, 1), 9, "version 9").await;
    check(tiny::of("mamba", 16_000, 1), 3, "mamba").await;
}

#[tokio::test]
async fn refusals_are_told_and_only_those_that_may_pass_are_repeated() {
    let check = async |answers: &[u16], requests: usize, expected: &str| {
        let bench = Bench::new().await;
        bench.server.put(PATH, Answer::file(model(1), "a"));
        for status in answers {
            bench.server.once(PATH, Answer::text(*status, "text/plain", "come\nback"));
        }
        match bench.fetch(&bench.web()).await {
            Ok(_) => assert_eq!(expected, ""),
            Err(error) => assert!(error.to_string().ends_with(expected) && !expected.is_empty(), "{error}"),
        }
        assert_eq!(bench.ranges().len(), requests, "{answers:?}");
    };
    check(&[404], 1, "answered 404 Not Found: comeback").await;
    check(&[503, 429], 3, "").await;
    check(&[503; 9], 3, "answered 503 Service Unavailable: comeback").await;
}

#[tokio::test]
async fn the_next_mirror_is_asked_when_one_fails() {
    let bench = Bench::new().await;
    bench.server.put("/good", Answer::file(model(1), "a"));
    let mirror = |path: &str| Mirror::Https(bench.server.url(path));
    let error = bench.refused(&order(vec![mirror("/gone"), mirror("/lost")])).await.to_string();
    assert!(error.contains("/gone answered 404") && error.contains("/lost answered 404"), "{error}");
    let fetched = bench.fetch(&order(vec![mirror("/gone"), mirror("/good")])).await;
    assert_eq!(fetched.as_ref().unwrap().from, bench.server.url("/good"));
    assert_eq!(bench.kept(fetched).await, model(1));
}

#[tokio::test]
async fn redirects_are_followed() {
    let bench = Bench::new().await;
    bench.server.put(PATH, Answer::moved("/there?signature=SECRET"));
    bench.server.put("/there", Answer::file(model(1), "a"));
    let fetched = bench.fetch(&bench.web()).await;
    assert_eq!(bench.kept(fetched).await, model(1));
}

#[tokio::test]
async fn a_file_that_lies_there_already_is_the_ordered_one_or_in_the_way() {
    let bench = Bench::new().await;
    std::fs::write(bench.whole(), model(1)).unwrap();
    let fetched = bench.fetch(&Order { sha256: Some(digest(&model(1))), ..bench.web() }).await;
    assert_eq!(bench.kept(fetched).await, model(1));
    for sha256 in [None, Some(digest(&model(2)))] {
        let error = bench.fetch(&Order { sha256, ..bench.web() }).await.unwrap_err();
        assert!(matches!(error, Error::Exists { .. }), "{error}");
    }
    assert_eq!(bench.server.asked(), []);
}
