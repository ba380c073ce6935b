use super::*;
use crate::egress::consent::{Lasting, Scope};
use crate::egress::wish::Initiator;
use proptest::prelude::*;

#[test]
fn patterns_mean_hosts() {
    let check = |pattern: &str, host: &str, expected: bool| {
        assert_eq!(pattern.parse::<Pattern>().unwrap().matches(host), expected, "{pattern} {host}");
    };
    check("a.example", "a.example", true);
    check("A.Example.", "a.example", true);
    check("a.example", "b.a.example", false);
    check("*.a.example", "b.a.example", true);
    check("*.a.example", "c.b.a.example", true);
    check("*.a.example", "a.example", false);
    check("*.a.example", "ba.example", false);
    check("*", "anything", true);
    for nothing in ["", "*.", "**", "a*", "*a", "a b", "*.*.b"] {
        assert!(nothing.parse::<Pattern>().is_err(), "{nothing}");
    }
}

#[test]
fn the_configuration_names_its_key() {
    let mut config = Config::default();
    config.egress.stacks.hosts = vec!["no host".into()];
    assert!(Policy::new(&config).unwrap_err().starts_with("egress.stacks.hosts: "), "{:?}", Policy::new(&config));
    let mut config = Config::default();
    config.models.python_index = Some("http://mirror.lan:8080/simple".into());
    config.egress.lan = vec!["192.168.1.7".into()];
    let policy = Policy::new(&config).unwrap();
    assert!(policy.is_lan("mirror.lan") && policy.is_lan("192.168.1.7") && policy.is_lan("huggingface.co"));
    assert!(!policy.is_lan("elsewhere.lan") && !policy.is_lan("files.pythonhosted.org"));
    config.models.python_index = Some("https://pypi.org/simple".into());
    let policy = Policy::new(&config).unwrap();
    assert!(policy.is_lan("pypi.org") && policy.is_lan("files.pythonhosted.org"), "an index and where its files lie");
}

fn host() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a.example", "b.a.example", "c.example", "10.0.0.1"]).prop_map(Into::into)
}

fn pattern() -> impl Strategy<Value = Pattern> {
    let patterns = vec!["a.example", "*.a.example", "c.example", "*", "10.0.0.1"];
    prop::sample::select(patterns).prop_map(|pattern| pattern.parse().unwrap())
}

fn initiator() -> impl Strategy<Value = Initiator> {
    let stack = |stack: &str| Initiator::Stack { stack: stack.into(), service: "web".into() };
    prop::sample::select(vec![Initiator::Owner, Initiator::Daemon, stack("a"), stack("b")])
}

fn class() -> impl Strategy<Value = Class> {
    prop::sample::select(vec![Class::ModelDownload, Class::Stack])
}

fn wish() -> impl Strategy<Value = Wish> {
    let port = prop::sample::select(vec![80, 443]);
    (class(), initiator(), host(), port)
        .prop_map(|(class, initiator, host, port)| Wish::new(class, initiator, &host, port, "a test").unwrap())
}

/// A decision; one that holds once may be about the wish of this number.
fn consent(id: u64) -> impl Strategy<Value = (Consent, Option<usize>)> {
    let scope = (class(), pattern(), prop::option::of(Just(443)), prop::option::of(initiator()));
    let lasting = prop::sample::select(vec![None, Some(-1), Some(0), Some(1)]);
    (scope, any::<bool>(), lasting, prop::option::of(0..2_usize)).prop_map(
        move |((class, host, port, initiator), allow, until, once)| {
            let scope = Scope { class, host, port, initiator };
            let lasting = until.map_or(Lasting::Always, Lasting::Until);
            (Consent { id, given: 0, scope, allow, lasting }, once)
        },
    )
}

proptest! {
    #[test]
    fn nothing_passes_unless_it_was_allowed(
        wish in wish(),
        other in wish(),
        offline: bool,
        mode in prop::sample::select(vec![Mode::Off, Mode::Ask, Mode::On]),
        hosts in prop::collection::vec(pattern(), 0..2),
        consents in (0..5_u64).prop_flat_map(|n| (0..n).map(consent).collect::<Vec<_>>()),
        quiet in prop::option::of(Just(Duration::from_secs(7))),
    ) {
        let wishes = [&wish, &other];
        let consents: Vec<Consent> = consents.into_iter().map(|(mut consent, once)| {
            if let Some(which) = once {
                consent.lasting = Lasting::Errands(vec![wishes[which].errand.downgrade()]);
            }
            consent
        }).collect();
        let gate = Gate { mode, hosts };
        let standing = Standing { offline, gate: &gate, consents: &consents, quiet, now: 0 };
        let verdict = decide(standing, &wish);
        let about = &wish;
        let covering = |allow| consents.iter().filter(move |consent| consent.allow == allow && consent.covers(about, 0));
        let listed = gate.hosts.is_empty() || gate.hosts.iter().any(|host| host.matches(&wish.host));
        match &verdict {
            Verdict::Allow(basis) => {
                prop_assert!(!offline && listed && quiet.is_none() && mode != Mode::Off && covering(false).count() == 0);
                match basis {
                    Basis::Policy => prop_assert_eq!(mode, Mode::On),
                    Basis::Consent(id) => prop_assert!(covering(true).any(|consent| consent.id == *id)),
                }
            }
            Verdict::Ask => {
                prop_assert!(!offline && listed && quiet.is_none());
                prop_assert!(mode == Mode::Ask && covering(true).count() == 0 && covering(false).count() == 0);
            }
            Verdict::Refuse(_) => {
                prop_assert!(offline || !listed || quiet.is_some() || mode == Mode::Off || covering(false).count() > 0);
            }
        }
        // Taking every consent away lets nothing through that was held back.
        let none: Vec<Consent> = consents.iter().filter(|consent| !consent.allow).cloned().collect();
        let without = decide(Standing { consents: &none, ..standing }, &wish);
        if !matches!(verdict, Verdict::Allow(_)) {
            prop_assert_eq!(without, verdict.clone());
        }
        // The switch is above everything.
        prop_assert_eq!(decide(Standing { offline: true, ..standing }, &wish), Verdict::Refuse(Reason::Offline));
    }

    #[test]
    fn a_decision_for_one_says_nothing_of_another(wish in wish(), other in wish(), (consent, _) in consent(1)) {
        let once = Consent { lasting: Lasting::Errands(vec![other.errand.downgrade()]), ..consent.clone() };
        prop_assert!(!once.covers(&wish, 0));
        if let Some(initiator) = &consent.scope.initiator {
            prop_assert!(!consent.covers(&wish, 0) || *initiator == wish.initiator);
        }
        prop_assert!(!consent.covers(&wish, 0) || consent.scope.class == wish.class);
    }
}
