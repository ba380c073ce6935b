use super::*;
use std::collections::BTreeMap;

fn container(service: &str, address: &str, phase: Phase) -> Container {
    let labels = [(docker::PROXY, "10.1.0.1:8809"), (docker::EGRESS, "a.example *.b.example:22")];
    Container {
        id: service.into(),
        stack: "s".into(),
        service: service.into(),
        image: "image".into(),
        phase,
        health: None,
        restarts: 0,
        started_at: None,
        config: String::new(),
        ports: Vec::new(),
        addresses: vec![address.parse().unwrap()],
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
    }
}

#[test]
fn one_proxy_serves_a_stacks_network() {
    let mut without = container("c", "10.2.0.2", Phase::Running);
    without.labels.clear();
    let all = [container("a", "10.1.0.2", Phase::Created), container("b", "10.1.0.3", Phase::Running), without];
    let expected = BTreeMap::from([("10.1.0.1:8809".parse().unwrap(), Target("s".into()))]);
    assert_eq!(wanted(&all), (expected, BTreeMap::new()));
    assert_eq!(wanted(&[container("a", "10.1.0.2", Phase::Removing)]).0, BTreeMap::new());
}

#[test]
fn guests_are_known_by_their_addresses() {
    let old = container("old", "10.1.0.2", Phase::Exited(0));
    let all = [old, container("a", "10.1.0.2", Phase::Running), container("b", "10.1.0.3", Phase::Running)];
    let who = |stack: &str, address: &str| guest(&all, stack, address.parse().unwrap()).map(|guest| guest.service);
    assert_eq!(who("s", "10.1.0.2").as_deref(), Some("a"));
    assert_eq!(who("s", "::ffff:10.1.0.3").as_deref(), Some("b"));
    assert_eq!(who("s", "10.1.0.4"), None);
    assert_eq!(who("t", "10.1.0.2"), None);
    let listed = guest(&all, "s", "10.1.0.3".parse().unwrap()).unwrap().allowed;
    assert!(
        listed.iter().any(|one| one.covers("x.b.example", 22)) && listed.iter().any(|one| one.covers("a.example", 443))
    );
    assert!(!listed.iter().any(|one| one.covers("a.example", 22)));
}

#[test]
fn answers_say_why() {
    let text = Answer { retry: Some(7), ..Answer::new(503, "not now") }.text();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "Sovereign: not now\n");
    assert!(
        head.starts_with("HTTP/1.1 503 Service Unavailable\r\n") && head.contains("\r\nRetry-After: 7\r\n"),
        "{head}"
    );
    assert!(head.contains(&format!("\r\nContent-Length: {}\r\n", body.len())), "{head}");
}
