use super::*;
use crate::egress::consent::Scope;
use crate::egress::policy::Basis;
use crate::egress::wish::{Class, Initiator};
use futures_util::TryStreamExt;
use proptest::prelude::*;
use sha2::{Digest, Sha256};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, Executor};
use std::path::Path;

fn contact(host: &str) -> Contact {
    Contact {
        class: Class::Stack,
        initiator: Initiator::Stack { stack: "s".into(), service: "web".into() },
        host: host.into(),
        port: 443,
        basis: Some(Basis::Consent(7)),
        what: "a test".into(),
    }
}

fn opened(host: &str, text: Option<&str>) -> Event {
    let sent = text.map(|text| hex(&Sha256::digest(text)));
    let address = Some("1.1.1.1".parse().unwrap());
    Event::Opened { contact: contact(host), address, looked_up: None, sent, text: text.is_some() }
}

fn decision() -> Decision {
    let scope = Scope { class: Class::Stack, host: "*.a.example".parse().unwrap(), port: None, initiator: None };
    Decision { scope, lasting: Lasting::Always }
}

/// A closed ledger with rows of most kinds in it, and a text that was kept beside one.
async fn house() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path()).await.unwrap();
    ledger.append(Event::Allowed(decision()), None).await.unwrap();
    ledger.append(Event::LookedUp(contact("a.example")), None).await.unwrap();
    let text = "what is the capital of France?";
    ledger.append(opened("a.example", Some(text)), Some(text.into())).await.unwrap();
    ledger.append(opened("b.example", Some("gone")), Some("gone".into())).await.unwrap();
    ledger.note(Event::Closed { opened: 3, bytes_out: 2, bytes_in: 3, how: "ended".into() });
    assert!(ledger.erase(4).await.unwrap() && !ledger.erase(4).await.unwrap());
    ledger.append(Event::Refused { contact: contact("c.example"), reason: "no".into() }, None).await.unwrap();
    ledger.append(Event::Revoked { decision: 1 }, None).await.unwrap();
    ledger.append(Event::Offline, None).await.unwrap();
    ledger.close().await;
    dir
}

const ROWS: u64 = 9;

/// What is wrong with the ledger of a folder.
async fn problem(dir: &Path) -> Option<String> {
    match verify_file(dir).await {
        Ok(report) => report.problem,
        Err(error) => Some(error.to_string()),
    }
}

#[tokio::test]
async fn what_is_written_is_found_again() {
    use std::os::unix::fs::PermissionsExt;
    let dir = house().await;
    let report = verify_file(dir.path()).await.unwrap();
    assert_eq!((report.rows, report.connections, report.texts, report.problem), (ROWS, 2, 1, None));
    for file in [FILE, HEAD_FILE] {
        let mode = std::fs::metadata(dir.path().join(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
    let (ledger, decisions) = Ledger::open(dir.path()).await.unwrap();
    let kinds: Vec<&str> = decisions.iter().map(|(_, entry)| entry.event.kind()).collect();
    assert_eq!(kinds, ["allowed", "revoked", "offline"]);
    assert_eq!(ledger.append(opened("d.example", None), None).await.unwrap(), ROWS + 1);
    let rows = ledger.rows(Some(4), 2).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [3, 2]);
    assert_eq!(ledger.verify().await.problem, None);
    ledger.close().await;
}

#[tokio::test]
async fn an_export_can_be_checked_by_others() {
    let dir = house().await;
    let (ledger, _) = Ledger::open(dir.path()).await.unwrap();
    let lines: Vec<String> = ledger.export().try_collect().await.unwrap();
    assert_eq!(lines.len() as u64, ROWS);
    let mut hash = entry::GENESIS;
    for (seq, line) in (1..).zip(&lines) {
        let line: serde_json::Value = serde_json::from_str(line).unwrap();
        // The entry as any JSON library writes it, without spaces and in its order.
        hash = entry::link(&hash, seq, &line["entry"].to_string());
        assert_eq!((&line["seq"], &line["hash"]), (&seq.into(), &hex(&hash).into()));
    }
    assert_eq!(ledger.verify().await.head, hex(&hash));
}

async fn connect(dir: &Path) -> SqliteConnection {
    SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(dir.join(FILE))).await.unwrap()
}

/// Every byte of every column, changed by itself.
#[tokio::test]
async fn a_changed_byte_is_found() {
    let dir = house().await;
    let mut file = connect(dir.path()).await;
    let columns =
        [("entry", "kind", "TEXT"), ("entry", "body", "TEXT"), ("entry", "hash", "BLOB"), ("text", "text", "TEXT")];
    let mut changed = 0;
    for (table, column, kind) in columns {
        let select = format!("SELECT seq, CAST({column} AS BLOB) FROM {table}");
        let cells: Vec<(i64, Vec<u8>)> =
            sqlx::query_as(sqlx::AssertSqlSafe(select)).fetch_all(&mut file).await.unwrap();
        for (seq, cell) in cells {
            let update = format!("UPDATE {table} SET {column} = CAST(? AS {kind}) WHERE seq = {seq}");
            for at in 0..cell.len() {
                let mut other = cell.clone();
                other[at] ^= 1 << (at % 8);
                for (bytes, well) in [(&other, false), (&cell, true)] {
                    let update = sqlx::query(sqlx::AssertSqlSafe(update.clone())).bind(&bytes[..]);
                    // What the file's own checks refuse cannot be written in the first place.
                    if update.execute(&mut file).await.is_ok() {
                        let problem = if well && at > 0 { None } else { problem(dir.path()).await };
                        assert_eq!(problem.is_none(), well, "{table}.{column} of {seq} at {at}: {problem:?}");
                        changed += usize::from(!well);
                    }
                }
            }
        }
    }
    assert!(changed > 1500, "{changed}");
}

/// Every change of the file itself, in a sample of places that is another one each time: it is found, or it changes nothing
/// that anybody reads.
#[tokio::test]
async fn a_changed_byte_of_the_file_is_found_or_means_nothing() {
    let dir = house().await;
    let read = async |dir: &Path| {
        let pool = db::read_only(&dir.join(FILE)).await.ok()?;
        let rows: Vec<Row> = store::all(&pool).try_collect().await.ok()?;
        let texts: Vec<(u64, String)> = store::texts(&pool).try_collect().await.ok()?;
        let decisions = store::decisions(&pool).await.ok()?;
        let closing = store::closing(&pool, &[3]).await.ok()?;
        Some((rows, texts, decisions, closing))
    };
    let whole = std::fs::read(dir.path().join(FILE)).unwrap();
    let known = read(dir.path()).await;
    assert!(known.is_some());
    let seed = jiff::Timestamp::now().as_nanosecond() as usize;
    println!("seed {seed}");
    let mut found = 0;
    for at in (seed % 31..whole.len()).step_by(31) {
        let mut other = whole.clone();
        other[at] ^= 1 << (seed % 8);
        std::fs::write(dir.path().join(FILE), other).unwrap();
        match problem(dir.path()).await {
            Some(_) => found += 1,
            None => assert_eq!(read(dir.path()).await, known, "a change at {at} was not found"),
        }
    }
    assert!(found > 20, "{found}");
}

#[tokio::test]
async fn rows_that_are_gone_swapped_or_added_are_found() {
    let check = async |sql: &'static str, expected: &str| {
        let dir = house().await;
        connect(dir.path()).await.execute(sql).await.unwrap();
        let problem = problem(dir.path()).await.unwrap_or_default();
        assert!(problem.contains(expected), "{sql}: {problem:?}");
    };
    check("DELETE FROM entry WHERE seq = 5", "row 5 is missing").await;
    check("DELETE FROM entry WHERE seq = 1", "row 1 is missing").await;
    check("DELETE FROM entry WHERE seq > 6", "the end was cut off: 6 rows are there, and there were 9").await;
    check("DELETE FROM text; DELETE FROM entry", "the end was cut off").await;
    check("UPDATE entry SET seq = 100 WHERE seq = 9", "row 9 is missing").await;
    check(
        "UPDATE entry SET body = (SELECT body FROM entry WHERE seq = 8), kind = 'revoked' WHERE seq = 7",
        "row 7 was changed",
    )
    .await;
    let swap = "UPDATE entry SET seq = 99 WHERE seq = 8; UPDATE entry SET seq = 8 WHERE seq = 9; \
                UPDATE entry SET seq = 9 WHERE seq = 99";
    check(swap, "row 8 was changed").await;
    check("INSERT INTO entry SELECT 10, kind, body, hash FROM entry WHERE seq = 9", "row 10 was changed").await;
    check("DELETE FROM text", "the text beside row 3 is gone").await;
    check("INSERT INTO text VALUES (9, 'x')", "a text beside row 9").await;
    check("UPDATE text SET text = 'x'", "not what was sent").await;
}

#[tokio::test]
async fn a_ledger_that_was_written_anew_is_found_by_its_head() {
    let (dir, other) = (house().await, house().await);
    // A chain that is sound in itself, in the place of the real one.
    std::fs::copy(other.path().join(FILE), dir.path().join(FILE)).unwrap();
    let found = problem(dir.path()).await.unwrap();
    assert!(found.contains("written anew"), "{found}");
    let error = Ledger::open(dir.path()).await.unwrap_err().to_string();
    assert!(error.contains("was changed") && error.contains("`sovereign egress verify`"), "{error}");
    // Every byte of the head counts, and so does its absence.
    let head = std::fs::read(other.path().join(HEAD_FILE)).unwrap();
    for at in 0..head.len() {
        let mut changed = head.clone();
        changed[at] ^= 1;
        std::fs::write(other.path().join(HEAD_FILE), changed).unwrap();
        assert!(problem(other.path()).await.is_some(), "{at}");
    }
    std::fs::remove_file(other.path().join(HEAD_FILE)).unwrap();
    assert!(problem(other.path()).await.unwrap().contains("gone"));
    assert!(Ledger::open(other.path()).await.is_err());
}

#[tokio::test]
async fn a_head_that_lags_behind_is_no_damage() {
    let dir = house().await;
    let head = std::fs::read(dir.path().join(HEAD_FILE)).unwrap();
    let (ledger, _) = Ledger::open(dir.path()).await.unwrap();
    ledger.append(Event::Online, None).await.unwrap();
    ledger.close().await;
    // The power went between the row and the head.
    std::fs::write(dir.path().join(HEAD_FILE), head).unwrap();
    let (ledger, _) = Ledger::open(dir.path()).await.unwrap();
    assert_eq!(ledger.append(Event::Offline, None).await.unwrap(), ROWS + 2);
    assert_eq!(ledger.verify().await.problem, None);
}

#[tokio::test]
async fn many_at_once_are_one_chain() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, _) = Ledger::open(dir.path()).await.unwrap();
    let append = |n: u64| ledger.append(opened(&format!("{n}.example"), None), None);
    let numbers = futures_util::future::join_all((0..2000).map(append)).await;
    let mut numbers: Vec<u64> = numbers.into_iter().map(Result::unwrap).collect();
    numbers.sort_unstable();
    assert!(numbers.into_iter().eq(1..=2000));
    let report = ledger.verify().await;
    assert_eq!((report.rows, report.problem), (2000, None));
}

fn event() -> impl Strategy<Value = Event> {
    let text = "\\PC{0,20}";
    prop_oneof![
        (text, any::<u64>(), any::<u64>()).prop_map(|(how, out, come)| Event::Closed {
            opened: out,
            bytes_out: out,
            bytes_in: come,
            how
        }),
        text.prop_map(|what| Event::LookedUp(Contact { what, ..contact("a.example") })),
        text.prop_map(|reason| Event::Refused { contact: contact("a.example"), reason }),
        Just(Event::Allowed(decision())),
        Just(Event::Online),
    ]
}

proptest! {
    /// What is read is what was written, and no other body has its hash.
    #[test]
    fn bodies_read_as_they_are_written(event in event(), other in event(), at: i64, count in 0..u64::MAX - 1) {
        let head = Head { count, hash: [7; 32] };
        let entry = Entry { at, event };
        let row = head.next(&entry).unwrap();
        prop_assert_eq!(row.entry().unwrap(), entry.clone());
        prop_assert_eq!(row.kind.as_str(), entry.event.kind());
        let other = head.next(&Entry { at, event: other }).unwrap();
        prop_assert_eq!(row.hash == other.hash, row.body == other.body);
        prop_assert_eq!(entry::unhex(&hex(&row.hash)), Some(row.hash));
    }
}
