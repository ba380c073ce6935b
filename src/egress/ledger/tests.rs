use super::*;
use crate::egress::wish::{Class, Initiator};

fn opened(host: &str) -> Event {
    let contact = Contact {
        class: Class::Stack,
        initiator: Initiator::Stack { stack: "s".into(), service: "web".into() },
        host: host.into(),
        port: 443,
        basis: Some(crate::egress::policy::Basis::Consent(7)),
        what: "a test".into(),
    };
    Event::Opened { contact, address: Some("1.1.1.1".parse().unwrap()), sent: None, text: false }
}

#[tokio::test]
async fn what_is_written_is_found_again() {
    let dir = tempfile::tempdir().unwrap();
    let (ledger, decisions) = Ledger::open(dir.path()).await.unwrap();
    assert!(decisions.is_empty());
    assert_eq!(ledger.append(opened("a.example"), None).await.unwrap(), 1);
    ledger.note(Event::Closed { opened: 1, bytes_out: 2, bytes_in: 3, how: "ended".into() });
    assert_eq!(ledger.append(Event::Offline, None).await.unwrap(), 3);
    let report = ledger.verify().await;
    assert_eq!((report.rows, report.connections, report.problem), (3, 1, None));
    ledger.close().await;
    assert_eq!(verify_file(dir.path()).await.unwrap().head, report.head);
    let (ledger, decisions) = Ledger::open(dir.path()).await.unwrap();
    assert_eq!(decisions.len(), 1);
    assert_eq!(ledger.append(opened("b.example"), None).await.unwrap(), 4);
    let rows = ledger.rows(None, 10).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.seq).collect::<Vec<_>>(), [4, 3, 2, 1]);
}
