use super::*;
use crate::engine::grammar::Source;
use crate::engine::grammar::tests::grammars;
use crate::engine::tokenizer::Special;
use proptest::prelude::*;

fn sampler(params: Params) -> Sampler {
    Sampler::new(Params { seed: Some(params.seed.unwrap_or(7)), ..params }, &[], 100, None).unwrap()
}

/// How often each token is drawn in 4,000 draws that do not remember.
fn draws(params: Params, logits: &[f32]) -> Vec<usize> {
    let mut counts = vec![0; logits.len()];
    let mut sampler = sampler(params);
    for _ in 0..4000 {
        counts[sampler.sample(logits).unwrap().token as usize] += 1;
    }
    counts
}

/// Logits of these probabilities.
fn logits(probabilities: &[f32]) -> Vec<f32> {
    probabilities.iter().map(|probability| probability.ln() + 3.0).collect()
}

#[track_caller]
fn check_shares(counts: &[usize], expected: &[f32]) {
    let sum: usize = counts.iter().sum();
    for (token, (&count, &share)) in counts.iter().zip(expected).enumerate() {
        let got = count as f32 / sum as f32;
        // Four standard deviations, and none where a token is excluded.
        let tolerance = 4.0 * (share * (1.0 - share) / sum as f32).sqrt();
        assert!((got - share).abs() <= tolerance, "token {token}: {got} instead of {share} in {counts:?}");
    }
}

#[test]
fn temperature_zero_takes_the_most_probable_and_of_equals_the_first() {
    let greedy = || sampler(Params { temperature: 0.0, ..Params::default() });
    assert_eq!(greedy().sample(&[0.5, 2.0, 2.0, -1.0]).unwrap().token, 1);
    assert_eq!(greedy().sample(&[-5.0]).unwrap().token, 0);
}

#[test]
fn draws_follow_the_distribution() {
    let row = logits(&[0.5, 0.3, 0.15, 0.05]);
    check_shares(&draws(Params::default(), &row), &[0.5, 0.3, 0.15, 0.05]);
    // A temperature of 1/2 squares probabilities.
    let squares = [0.25, 0.09, 0.0225, 0.0025].map(|square| square / 0.365);
    check_shares(&draws(Params { temperature: 0.5, ..Params::default() }, &row), &squares);
}

#[test]
fn top_k_top_p_and_min_p_exclude() {
    let row = logits(&[0.05, 0.5, 0.3, 0.15]);
    let params = Params::default();
    check_shares(&draws(Params { top_k: 2, ..params.clone() }, &row), &[0.0, 0.625, 0.375, 0.0]);
    check_shares(&draws(Params { top_p: 0.75, ..params.clone() }, &row), &[0.0, 0.625, 0.375, 0.0]);
    check_shares(&draws(Params { top_p: 0.0, ..params.clone() }, &row), &[0.0, 1.0, 0.0, 0.0]);
    check_shares(&draws(Params { min_p: 0.2, ..params.clone() }, &row), &[0.0, 0.526_3, 0.315_8, 0.157_9]);
    check_shares(&draws(Params { top_k: 3, top_p: 0.6, ..params }, &row), &[0.0, 0.625, 0.375, 0.0]);
}

#[test]
fn penalties_look_at_the_answer_and_repetition_at_the_prompt_too() {
    let next = |params: Params, prompt: &[Token], logits: &[f32]| {
        let mut sampler = Sampler::new(Params { temperature: 0.0, ..params }, prompt, 100, None).unwrap();
        (0..4).map(|_| sampler.sample(logits).unwrap().token).collect::<Vec<_>>()
    };
    let params = Params::default();
    let row = [2.0, 1.8, 1.3, -1.0];
    assert_eq!(next(Params { presence_penalty: 0.5, ..params.clone() }, &[0], &row), [0, 1, 0, 0]);
    assert_eq!(next(Params { frequency_penalty: 0.5, ..params.clone() }, &[0], &row), [0, 1, 0, 1]);
    assert_eq!(next(Params { repetition_penalty: 1.25, ..params.clone() }, &[0], &row), [1, 0, 0, 0]);
    assert_eq!(next(Params { logit_bias: vec![(3, 4.0), (99, 1.0)], ..params }, &[], &row), [3, 3, 3, 3]);
}

#[test]
fn a_seed_reproduces_an_answer() {
    let row: Vec<f32> = (0..1000).map(|token| (token % 17) as f32 / 4.0).collect();
    let answer = |seed| {
        let mut sampler = sampler(Params { seed: Some(seed), top_p: 0.9, ..Params::default() });
        (0..20).map(|_| sampler.sample(&row).unwrap().token).collect::<Vec<_>>()
    };
    assert_eq!(answer(1), answer(1));
    assert_ne!(answer(1), answer(2));
}

#[test]
fn logprobs_are_the_models_own() {
    let row = logits(&[0.05, 0.5, 0.3, 0.15]);
    let params = Params { temperature: 0.0, logit_bias: vec![(3, 50.0)], top_logprobs: Some(2), ..Params::default() };
    let choice = sampler(params).sample(&row).unwrap();
    let logprobs = choice.logprobs.unwrap();
    assert_eq!(choice.token, 3);
    assert!((logprobs.chosen - 0.15f32.ln()).abs() < 1e-5);
    assert_eq!(logprobs.top.iter().map(|&(token, _)| token).collect::<Vec<_>>(), [1, 2]);
    assert!((logprobs.top[0].1 - 0.5f32.ln()).abs() < 1e-5);
    assert!(super::logprobs(&row, 4, 1).unwrap_err().to_string().contains("no token 4"));
}

#[test]
fn what_is_no_number_is_an_error() {
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let error = sampler(Params::default()).sample(&[1.0, bad]).unwrap_err();
        assert!(matches!(error, Error::NotFinite(_)), "{error}");
    }
    assert!(sampler(Params::default()).sample(&[]).is_err());
}

#[test]
fn parameters_out_of_range_are_named() {
    let check = |params: Params, name: &str| {
        let message = Sampler::new(params, &[], 100, None).unwrap_err().to_string();
        assert!(message.starts_with(name), "{message}");
    };
    check(Params { temperature: -0.1, ..Params::default() }, "temperature");
    check(Params { temperature: f32::NAN, ..Params::default() }, "temperature");
    check(Params { top_p: 1.5, ..Params::default() }, "top_p");
    check(Params { min_p: -1.0, ..Params::default() }, "min_p");
    check(Params { repetition_penalty: 0.0, ..Params::default() }, "repetition_penalty");
    check(Params { logit_bias: vec![(1, f32::INFINITY)], ..Params::default() }, "a logit_bias");
}

proptest! {
    /// Selecting the top is the same as sorting everything.
    #[test]
    fn selections_agree_with_sorting(
        row in proptest::collection::vec(-20.0f32..20.0, 1..700),
        top in 0usize..64,
        mass in 0.0f32..1.0,
    ) {
        let mut sorted: Vec<(f32, Token)> = (0..).zip(&row).map(|(token, &logit)| (logit, token)).collect();
        let mut kept = sorted.clone();
        sorted.sort_by(by_probability);

        let told = measure(&row, 0, top).top;
        let expected = sorted.iter().take(top).map(|&(_, token)| token).collect::<Vec<_>>();
        prop_assert_eq!(told.iter().map(|&(token, _)| token).collect::<Vec<_>>(), expected);

        keep_mass(&mut kept, mass, sorted[0].0);
        prop_assert_eq!(&sorted[..kept.len()], &kept[..]);
    }

    #[test]
    fn any_finite_row_gives_a_token(
        row in proptest::collection::vec(-1e30f32..1e30, 1..50),
        temperature in 0.0f32..2.0,
        top_k in 0usize..60,
        top_p in 0.0f32..=1.0,
        min_p in 0.0f32..=1.0,
    ) {
        let params = Params { temperature, top_k, top_p, min_p, ..Params::default() };
        let token = sampler(params).sample(&row).unwrap().token;
        prop_assert!((token as usize) < row.len());
    }
}

#[test]
fn what_follows_a_mark_is_constrained_to_its_end() {
    let grammars = grammars();
    let tokenizer = grammars.tokenizer();
    let mark = tokenizer.token("<|call|>").unwrap();
    let grammar = grammars.compile(&Source::Regex("[xy]z".into())).unwrap();
    let said = |once: bool, wanted: &str| {
        let params = Params { temperature: 0.0, ..Params::default() };
        let opened = Opened { mark, grammar: grammar.clone(), once };
        let mut sampler = Sampler::new(params, &[], 100, None).unwrap().after(Some(opened));
        let mut said = String::new();
        for token in tokenizer.encode(wanted, Special::Parse, false) {
            let mut row = vec![0.0; tokenizer.len()];
            row[token as usize] = 1.0;
            let chosen = sampler.sample(&row).unwrap().token;
            said.push_str(&String::from_utf8_lossy(tokenizer.name(chosen)));
            if sampler.is_complete() {
                said.push('.');
                break;
            }
        }
        said
    };
    assert_eq!(said(false, "uz<|call|>yzuz"), "uz<|call|>yzuz");
    assert_eq!(said(false, "uz<|call|>uuuz<|call|>yu"), "uz<|call|>xzuz<|call|>yz");
    assert_eq!(said(true, "uz<|call|>uuuz"), "uz<|call|>xz.");
}
