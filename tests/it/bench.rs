//! `sovereign bench` and `sovereign eval`, as a person types them.

use crate::tiny;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// A folder of its own for a test, which is taken away at its end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sovereign-bench-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sovereign(arguments: &[&str], files: &[(&str, &Path)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sovereign"));
    command.args(arguments);
    for (option, path) in files {
        if option.is_empty() {
            command.arg(path);
        } else {
            command.arg(option).arg(path);
        }
    }
    command.output().unwrap()
}

fn told(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn json(output: &Output) -> Value {
    serde_json::from_str(&told(output)).unwrap()
}

fn measure(model: &Path) -> Value {
    let arguments =
        ["bench", "engine", "--threads", "1", "--prompt", "8", "--gen", "4", "--depth", "16,0", "--streams", "1,2"];
    json(&sovereign(&[&arguments[..], &["--repeat", "2", "--json"]].concat(), &[("--model", model)]))
}

#[test]
fn a_bench_tells_what_it_measured() {
    let folder = Folder::new("engine");
    let model = folder.write("tiny.gguf", tiny::model(300, 1));
    let report = measure(&model);
    assert_eq!(report["schema"], 1);
    assert_eq!(report["machine"]["threads"], 1);
    assert_eq!(report["model"]["architecture"], "llama");
    let rows = report["results"].as_array().unwrap();
    let keys: Vec<_> = rows
        .iter()
        .map(|row| (row["test"].as_str().unwrap(), row["depth"].as_u64(), row["streams"].as_u64()))
        .collect();
    let of =
        |depth| [("prefill", Some(depth), Some(1)), ("decode", Some(depth), Some(1)), ("decode", Some(depth), Some(2))];
    assert_eq!(keys, [of(0), of(16)].concat());
    for row in rows {
        assert!(row["tokens_per_second"].as_f64().unwrap() > 0.0, "{row}");
        assert!(row["bytes_per_token"].as_f64().unwrap() > 0.0, "{row}");
        assert_eq!(row["roofline_fraction"].is_number(), cfg!(target_arch = "x86_64"), "{row}");
    }
    let bytes = |at: usize| rows[at]["bytes_per_token"].as_f64().unwrap();
    assert!(bytes(2) < bytes(1), "two streams share the weights");
    assert!(bytes(4) > bytes(1), "what lies in the cache is read");
}

#[test]
fn reports_are_compared_and_watched() {
    let folder = Folder::new("compare");
    let model = folder.write("tiny.gguf", tiny::model(300, 1));
    let mut report = measure(&model);
    let before = folder.write("before.json", report.to_string());
    for row in report["results"].as_array_mut().unwrap() {
        row["tokens_per_second"] = (row["tokens_per_second"].as_f64().unwrap() * 2.0).into();
    }
    let after = folder.write("after.json", report.to_string());
    let table = told(&sovereign(&["bench", "compare"], &[("", &before), ("", &after)]));
    assert_eq!(table.lines().filter(|line| line.ends_with("2.00")).count(), 6, "{table}");

    // What no machine reaches, and what every one does.
    let watch = |factor: f64, name: &str| {
        let mut report = report.clone();
        for row in report["results"].as_array_mut().unwrap() {
            row["tokens_per_second"] = (row["tokens_per_second"].as_f64().unwrap() * factor).into();
        }
        let baseline = folder.write(name, report.to_string());
        sovereign(&["bench", "canary"], &[("", &baseline)])
    };
    assert_eq!(watch(1e6, "high.json").status.code(), Some(1));
    assert_eq!(watch(1e-6, "low.json").status.code(), Some(0));

    let other = folder.write("other.json", r#"{"schema": 9}"#);
    let refused = sovereign(&["bench", "compare"], &[("", &before), ("", &other)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("a report of version 9"), "{refused:?}");
}

#[test]
fn predictions_are_those_that_were_saved() {
    let folder = Folder::new("eval");
    let model = folder.write("tiny.gguf", tiny::model(300, 1));
    let text = folder.write("text.txt", (0..120).map(|at| format!("t{} ", at * 7 % 300)).collect::<String>());
    let saved = folder.0.join("saved");
    let arguments = ["eval", "perplexity", "--ctx", "32", "--chunks", "3", "--json", "--threads", "1"];
    let own = json(&sovereign(&arguments, &[("--model", &model), ("--text", &text), ("--save", &saved)]));
    assert_eq!((own["chunks"].as_u64(), own["tokens"].as_u64()), (Some(3), Some(3 * 15)));

    let arguments = ["eval", "kld", "--json", "--threads", "1"];
    let same = json(&sovereign(&arguments, &[("--model", &model), ("--reference", &saved), ("--text", &text)]));
    let number = |figures: &Value, name: &str| figures[name].as_f64().unwrap();
    assert!(number(&same, "kld").abs() < 1e-4, "{same}");
    assert_eq!(same["same_top"], 1.0);
    assert_eq!(same["perplexity"], own["perplexity"]);

    let another = folder.write("another.gguf", tiny::model(300, 2));
    let other = json(&sovereign(&arguments, &[("--model", &another), ("--reference", &saved)]));
    assert!(number(&other, "kld") > 100.0 * number(&same, "kld").abs() + 1e-6, "{other}");

    let larger = folder.write("larger.gguf", tiny::model(310, 1));
    let refused = sovereign(&arguments, &[("--model", &larger), ("--reference", &saved)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("310"), "{refused:?}");
    let changed = folder.write("changed.txt", "t1 ".repeat(200));
    let refused = sovereign(&arguments, &[("--model", &model), ("--reference", &saved), ("--text", &changed)]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another text"), "{refused:?}");
}
