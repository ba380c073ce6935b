use super::super::*;
use crate::config::{self, Config, Mode};
use ledger::{Entry, Event};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// A gate for pages over a table of names, where `here.example` is this machine and may be reached.
fn gate(mode: Mode) -> Egress {
    gate_with(mode, |_| {})
}

fn gate_with(mode: Mode, change: impl FnOnce(&mut Policy)) -> Egress {
    let mut config = Config::default();
    config.egress.url_fetches = config::Gate::of(mode);
    config.egress.lan = vec!["here.example".into(), "silent.example".into()];
    let addresses = |address: &str| vec![address.parse::<IpAddr>().unwrap()];
    let table = HashMap::from([
        ("here.example".to_owned(), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
        ("silent.example".to_owned(), vec![IpAddr::V4(Ipv4Addr::LOCALHOST)]),
        ("rebound.example".to_owned(), [addresses("1.1.1.1"), addresses("192.168.1.1")].concat()),
    ]);
    let mut policy = Policy::new(&config).unwrap();
    change(&mut policy);
    Egress::in_memory(policy, Resolver::Fixed(table))
}

fn wish(host: &str, port: u16) -> Wish {
    Wish::new(Class::UrlFetch, Initiator::Owner, host, port, "a test").unwrap()
}

/// A server that sends back what it gets; returns its port.
async fn echo() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut read, mut write) = stream.split();
                tokio::io::copy(&mut read, &mut write).await
            });
        }
    });
    port
}

/// What the ledger holds, from the first row on; what was noted before is written.
async fn events(egress: &Egress) -> Vec<Event> {
    let ledger = egress.ledger().unwrap();
    ledger.append(Event::Online, None).await.unwrap();
    let mut rows = ledger.rows(None, 1000).await.unwrap();
    rows.reverse();
    let mut events: Vec<Event> =
        rows.iter().map(|row| row.entry()).map(|entry: Result<Entry, _>| entry.unwrap().event).collect();
    events.pop();
    assert_eq!(ledger.verify().await.problem, None);
    events
}

fn kinds(events: &[Event]) -> Vec<&'static str> {
    events.iter().map(Event::kind).collect()
}

async fn asked(egress: &Egress) -> Question {
    let mut changes = egress.changes();
    loop {
        if let Some(question) = egress.questions().first() {
            return question.clone();
        }
        changes.changed().await.unwrap();
    }
}

#[tokio::test]
async fn what_is_on_is_dialled_counted_and_written_down() {
    let (egress, port) = (gate(Mode::On), echo().await);
    let permit = egress.admit(wish("Here.Example.", port)).await.unwrap();
    let mut flow = egress.dial(permit).await.unwrap();
    flow.write_all(b"hello").await.unwrap();
    let mut answer = [0; 5];
    flow.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"hello");
    assert_eq!((egress.view().flows[0].bytes_out, egress.view().flows[0].row), (5, 2));
    let dialled = flow.address().unwrap().ip();
    drop(flow);
    assert!(egress.view().flows.is_empty());
    let events = events(&egress).await;
    assert_eq!(kinds(&events), ["looked_up", "opened", "closed"]);
    let Event::Opened { contact, address, .. } = &events[1] else { panic!("{events:?}") };
    assert_eq!((contact.host.as_str(), contact.basis, *address), ("here.example", Some(Basis::Policy), Some(dialled)));
    assert_eq!(events[2], Event::Closed { opened: 2, bytes_out: 5, bytes_in: 5, how: "ended".into() });
}

#[tokio::test]
async fn what_is_off_is_refused_before_anything_leaves() {
    let egress = gate(Mode::Off);
    let refusal = egress.admit(wish("here.example", 1)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Off(Class::UrlFetch));
    egress.admit(wish("here.example", 1)).await.unwrap_err();
    // No name was looked up, and the same refusal is one row.
    assert_eq!(kinds(&events(&egress).await), ["refused"]);
}

#[tokio::test]
async fn a_name_that_leads_into_the_house_is_refused() {
    let egress = gate(Mode::On);
    for host in ["rebound.example", "127.0.0.1", "10.0.0.1", "::ffff:192.168.0.1", "169.254.169.254"] {
        let permit = egress.admit(wish(host, 80)).await.unwrap();
        let error = egress.dial(permit).await.unwrap_err();
        assert!(matches!(error, Error::NotOutside { .. }), "{host}: {error}");
    }
    assert!(!kinds(&events(&egress).await).contains(&"opened"));
}

#[tokio::test]
async fn the_owner_is_asked_and_remembered() {
    let (egress, port) = (gate(Mode::Ask), echo().await);
    let owner = async {
        let question = asked(&egress).await;
        assert_eq!((question.host.as_str(), question.what.as_str()), ("here.example", "a test"));
        egress.answer(question.id, Answer { allow: true, period: Period::Once }).await.unwrap()
    };
    let once = wish("here.example", port);
    let (permit, _) = tokio::join!(egress.admit(once.clone()), owner);
    drop(egress.dial(permit.unwrap()).await.unwrap());
    // The same undertaking may again, another one must ask again: that one is refused.
    egress.admit(once).await.unwrap();
    let owner = async {
        let question = asked(&egress).await;
        egress.answer(question.id, Answer { allow: false, period: Period::Once }).await.unwrap()
    };
    let (refused, _) = tokio::join!(egress.admit(wish("here.example", port)), owner);
    assert_eq!(refused.unwrap_err().reason, Reason::Declined);
    // For an hour: no question any more.
    let owner = async {
        let question = asked(&egress).await;
        egress.answer(question.id, Answer { allow: true, period: Period::Seconds(3600) }).await.unwrap().unwrap()
    };
    let (permit, consent) = tokio::join!(egress.admit(wish("here.example", port)), owner);
    permit.unwrap();
    egress.admit(wish("here.example", port)).await.unwrap();
    egress.revoke(consent).await.unwrap();
    assert!(egress.view().consents.is_empty());
}

#[tokio::test]
async fn a_question_without_an_answer_says_where_to_give_it() {
    let egress = gate_with(Mode::Ask, |policy| policy.question_timeout = Duration::from_millis(5));
    let refusal = egress.admit(wish("here.example", 1)).await.unwrap_err();
    assert_eq!(refusal.reason, Reason::Unanswered(Duration::from_millis(5)));
    assert!(refusal.to_string().contains("`sovereign egress ask`"), "{refusal}");
    assert!(egress.questions().is_empty());
}

/// Whether a connection is dead: nothing comes but an error or the end.
async fn is_cut(flow: &mut Flow) -> Duration {
    let begun = Instant::now();
    let error = flow.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionAborted, "{error}");
    assert!(flow.write_all(b"more").await.is_err());
    begun.elapsed()
}

#[tokio::test]
async fn what_is_revoked_or_offline_is_cut_within_a_second() {
    let (egress, port) = (gate(Mode::Ask), echo().await);
    let scope = Scope { class: Class::UrlFetch, host: "here.example".parse().unwrap(), port: None, initiator: None };
    let always = Answer { allow: true, period: Period::Always };
    let consent = egress.decide(scope.clone(), always).await.unwrap();
    let dial = async || egress.dial(egress.admit(wish("here.example", port)).await.unwrap()).await.unwrap();
    let mut flow = dial().await;
    egress.revoke(consent).await.unwrap();
    assert!(is_cut(&mut flow).await.as_millis() < 1000);
    drop(flow);

    egress.decide(scope, always).await.unwrap();
    let mut flow = dial().await;
    egress.set_offline(true).await.unwrap();
    assert!(is_cut(&mut flow).await.as_millis() < 1000);
    drop(flow);
    assert_eq!(egress.admit(wish("here.example", port)).await.unwrap_err().reason, Reason::Offline);
    egress.set_offline(false).await.unwrap();
    let mut flow = dial().await;
    egress.set_mode(Class::UrlFetch, Mode::Off).await.unwrap();
    assert!(is_cut(&mut flow).await.as_millis() < 1000);
    drop(flow);
    let ends: Vec<String> = events(&egress)
        .await
        .into_iter()
        .filter_map(|event| match event {
            Event::Closed { how, .. } => Some(how),
            _ => None,
        })
        .collect();
    assert_eq!(ends, [Cut::Revoked, Cut::Offline, Cut::Forbidden].map(|cut| cut.to_string()));
}

#[tokio::test]
async fn a_connection_that_nobody_reads_is_cut_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (egress, port) = (gate(Mode::On), listener.local_addr().unwrap().port());
    let flow = egress.dial(egress.admit(wish("here.example", port)).await.unwrap()).await.unwrap();
    let (mut server, _) = listener.accept().await.unwrap();
    let begun = Instant::now();
    egress.set_offline(true).await.unwrap();
    // The peer sees it although this side does nothing.
    assert!(matches!(server.read(&mut [0]).await, Ok(0) | Err(_)));
    assert!(begun.elapsed().as_millis() < 1000);
    drop(flow);
}

/// The figure is a minute; here a quarter of a second stands for it.
#[tokio::test]
async fn an_unplugged_uplink_is_tried_once_a_minute_and_host() {
    assert_eq!(Policy::new(&Config::default()).unwrap().quiet, Duration::from_secs(60));
    let minute = Duration::from_millis(250);
    let egress = gate_with(Mode::On, |policy| policy.quiet = minute);
    // Bound and closed again: nothing listens there.
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let attempt = async || match egress.admit(wish("silent.example", port)).await {
        Ok(permit) => egress.dial(permit).await.map(drop),
        Err(refusal) => Err(refusal.into()),
    };
    let (begun, mut refused) = (Instant::now(), 0);
    while begun.elapsed() < 6 * minute {
        // A hundred at once, as often as they like.
        let all = futures_util::future::join_all((0..100).map(|_| attempt())).await;
        for error in all.into_iter().map(Result::unwrap_err) {
            refused += usize::from(matches!(error, Error::Refused(Refusal { reason: Reason::Quiet(_), .. })));
        }
    }
    let minutes = begun.elapsed().div_duration_f64(minute).ceil() as usize;
    let dialled = kinds(&events(&egress).await).into_iter().filter(|kind| *kind == "opened").count();
    assert!((3..=minutes).contains(&dialled) && refused > 1000, "{dialled} in {minutes}, {refused} refusals");
}
