//! Files of Hugging Face's hub.

use super::*;

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
