use super::report::SCHEMA;
use super::*;

fn row(test: Test, depth: usize, tokens_per_second: f64) -> Measurement {
    Measurement {
        test,
        tokens: 128,
        depth,
        streams: 1,
        tokens_per_second,
        spread: 0.01,
        bytes_per_token: 1e9,
        roofline: Some(200.0),
        roofline_fraction: Some(tokens_per_second / 200.0),
    }
}

fn report(results: Vec<Measurement>) -> Report {
    Report {
        schema: SCHEMA,
        sovereign: "0.1.0".into(),
        date: "2026-11-24T00:00:00Z".into(),
        machine: Machine::here(1, "cpu".into(), false),
        model: Measured {
            file: "m.gguf".into(),
            architecture: "llama".into(),
            quantisation: "Q4_K_M".into(),
            parameters: 1,
            bytes: 1,
        },
        protocol: Protocol::default(),
        load_seconds: 0.5,
        results,
    }
}

#[test]
fn a_report_is_read_as_it_was_written() {
    let report = report(vec![row(Test::Decode, 0, 100.0)]);
    let text = serde_json::to_string(&report).unwrap();
    assert_eq!(Report::parse(&text), Ok(report));
}

#[test]
fn reports_of_other_versions_are_refused() {
    let text = serde_json::to_string(&report(Vec::new())).unwrap();
    let check = |text: &str, expected: &str| {
        let error = Report::parse(text).unwrap_err();
        assert!(error.contains(expected), "{error}");
    };
    check(&text.replacen("\"schema\":1", "\"schema\":2", 1), "version 2; this program reads version 1");
    check("{}", "missing field `schema`");
    check("nonsense", "no report");
}

#[test]
fn figures_are_compared_with_their_like() {
    let before = report(vec![row(Test::Decode, 0, 100.0), row(Test::Prefill, 0, 400.0), row(Test::Decode, 4096, 50.0)]);
    let after = report(vec![row(Test::Decode, 4096, 60.0), row(Test::Decode, 0, 80.0)]);
    let changes: Vec<_> = compare(&before, &after).iter().map(|change| (change.before.depth, change.ratio())).collect();
    assert_eq!(changes, [(0, 0.8), (4096, 1.2)]);
}

#[test]
fn a_protocol_is_put_in_order() {
    let protocol = Protocol { depths: vec![4096, 0, 4096], streams: vec![8, 1], ..Protocol::default() }.sorted();
    assert_eq!((&protocol.depths[..], &protocol.streams[..]), (&[0, 4096][..], &[1, 8][..]));
    assert_eq!((protocol.context(), protocol.slots()), (4096 + 512, 8));
}

#[test]
fn a_sweep_takes_as_long_as_its_bytes() {
    let machine = Machine::here(2, "cpu".into(), true);
    let speed = machine.read_bytes_per_second.unwrap();
    // A processor of this century, and none of the next.
    assert!((1e8..1e13).contains(&speed), "{speed} bytes/s");
    if let Some(Peak { int8, float32 }) = machine.operations_per_second {
        assert!((1e8..1e15).contains(&float32) && (1e8..1e15).contains(&int8), "{int8}, {float32} operations/s");
    }
    assert_eq!(machine.operations_per_second.is_some(), cfg!(target_arch = "x86_64"));
    assert!(machine.memory > 1 << 28 && machine.cores > 0, "{machine:?}");
}

#[test]
fn the_longer_of_reading_and_computing_bounds() {
    let mut machine = Machine::here(1, "cpu".into(), false);
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/architectures/llama-2.gguf");
    let header = crate::engine::gguf::Gguf::header(Path::new(path)).unwrap();
    let hyper = crate::engine::model::Hyper::of(&header).unwrap();
    let work = work::Work::of(&header, &hyper);
    assert_eq!(work.prefill(0, 8, 256).roofline(&machine), None);
    (machine.read_bytes_per_second, machine.operations_per_second) =
        (Some(1e9), Some(Peak { int8: 1e9, float32: 1e9 }));
    // In floats: two layers of 4 * 32 * 32 + 3 * 32 * 48 weights, attention over the half of eight positions in two layers
    // of 32 queries, an eighth of the head's 96 * 32.
    let operations = 2.0 * 2.0 * (4.0 * 1024.0 + 3.0 * 1536.0) + 2.0 * 4.0 * 32.0 * 4.0 + 2.0 * 3072.0 / 8.0;
    let found = work.prefill(0, 8, 256).roofline(&machine).unwrap();
    assert!((found - 1e9 / operations).abs() < 1.0, "{found}, {operations}");
    // With fast enough instructions it is the bytes: a stream's share of the weights, and its keys and values.
    machine.operations_per_second = Some(Peak { int8: 1e15, float32: 1e15 });
    let found = work.decode(16, 8, 2).roofline(&machine).unwrap();
    let bytes = work.bytes as f64 / 2.0 + 20.0 * hyper.kv_bytes() as f64;
    assert!((found - 1e9 / bytes).abs() < 1.0, "{found}, {bytes}");
}
