//! `cargo bench --bench ledger`: rows a second that the ledger takes, each on the disk before its connection may begin.
//!
//! The figures are of the disk under `target/`.

use sovereign::egress::ledger::{Contact, Event, Ledger};
use sovereign::egress::{Basis, Class, Initiator};
use std::time::Instant;

/// Rows of each run.
const ROWS: usize = 100_000;

fn opened(number: usize) -> Event {
    let contact = Contact {
        class: Class::Stack,
        initiator: Initiator::Stack { stack: "assistant".into(), service: "web".into() },
        host: format!("host-{number}.example"),
        port: 443,
        basis: Some(Basis::Consent(1)),
        what: "CONNECT".into(),
    };
    Event::Opened { contact, address: Some([192, 0, 2, 1].into()), looked_up: None, sent: None, text: false }
}

async fn run(ledger: &Ledger, callers: usize, rows: usize) {
    let begun = Instant::now();
    let caller = |first: usize| {
        let ledger = ledger.clone();
        tokio::spawn(async move {
            for number in (first..rows).step_by(callers) {
                ledger.append(opened(number), None).await.expect("the disk takes it");
            }
        })
    };
    for caller in (0..callers).map(caller).collect::<Vec<_>>() {
        caller.await.expect("no caller panics");
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{callers:>5} connections at a time: {:>8.0} rows/s, each acknowledged after it was synced",
        rows as f64 / seconds
    );
}

fn main() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    runtime.block_on(async {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder can be made");
        let (ledger, _) = Ledger::open(dir.path()).await.expect("a ledger opens");
        run(&ledger, 1, ROWS / 500).await;
        run(&ledger, 64, ROWS / 10).await;
        run(&ledger, 1024, ROWS).await;
        run(&ledger, 4096, ROWS).await;
        let begun = Instant::now();
        let report = ledger.verify().await;
        assert_eq!(report.problem, None);
        let rate = report.rows as f64 / begun.elapsed().as_secs_f64();
        println!("verified {} rows at {rate:.0} rows/s", report.rows);
        ledger.close().await;
    });
}
