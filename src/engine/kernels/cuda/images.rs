//! The compiled kernels, as `build.rs` left them.

/// The kernels of a source file, compiled.
pub struct Image {
    /// The source's name.
    pub name: &'static str,
    /// What they are for, by the compiler's name.
    pub target: &'static str,
    /// A cubin, or PTX with a zero at its end.
    pub bytes: &'static [u8],
}

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Target {
    /// Compute capabilities with the same number before the point and at least this one behind it: `sm_86`.
    Cubin(i32, i32),
    /// This compute capability alone, with what only it can do: `sm_90a`.
    Exact(i32, i32),
    /// This compute capability and all later ones; the driver translates: `compute_80`.
    Ptx(i32, i32),
}

impl Target {
    /// The target of this name.
    fn parse(name: &str) -> Option<Target> {
        // The last digit stands behind the point.
        let capability = |digits: &str| digits.parse().ok().map(|number: i32| (number / 10, number % 10));
        if let Some(digits) = name.strip_prefix("compute_") {
            return capability(digits).map(|(major, minor)| Target::Ptx(major, minor));
        }
        let digits = name.strip_prefix("sm_")?;
        match digits.strip_suffix('a') {
            Some(digits) => capability(digits).map(|(major, minor)| Target::Exact(major, minor)),
            None => capability(digits).map(|(major, minor)| Target::Cubin(major, minor)),
        }
    }

    /// How well this suits a card; nothing if it doesn't run there.
    fn fit(self, card: (i32, i32)) -> Option<(u8, i32)> {
        match self {
            Target::Exact(major, minor) => (card == (major, minor)).then_some((2, minor)),
            Target::Cubin(major, minor) => (card.0 == major && card.1 >= minor).then_some((1, minor)),
            Target::Ptx(major, minor) => (card >= (major, minor)).then_some((0, minor)),
        }
    }
}

include!(concat!(env!("OUT_DIR"), "/cuda_images.rs"));

/// How well an image of this target suits a card; nothing if it doesn't run there.
fn fit(target: &str, card: (i32, i32)) -> Option<(u8, i32)> {
    Target::parse(target)?.fit(card)
}

/// Which of the kernels.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Choice {
    /// Those that suit a card best.
    #[default]
    Best,
    /// Those that run on any: what is only so for one kind of card cannot be what is wrong with them.
    Generic,
}

/// How well the images of a choice suit a card.
fn chosen(card: (i32, i32), choice: Choice) -> Option<(u8, i32)> {
    let fits = IMAGES.iter().filter_map(|image| fit(image.target, card));
    match choice {
        Choice::Best => fits.max(),
        Choice::Generic => fits.min(),
    }
}

/// The images of a choice for a card.
pub fn select(card: (i32, i32), choice: Choice) -> Option<Vec<&'static Image>> {
    let chosen = chosen(card, choice)?;
    Some(IMAGES.iter().filter(|image| fit(image.target, card) == Some(chosen)).collect())
}

/// The compute capability that the images of a choice can use of a card: those for any know nothing of what came later.
pub fn usable(card: (i32, i32), choice: Choice) -> (i32, i32) {
    match chosen(card, choice) {
        Some((0, _)) => card.min((8, 9)),
        _ => card,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(card: (i32, i32), expected: Option<&str>) {
        const TARGETS: [&str; 6] = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_120a", "compute_80"];
        let best =
            TARGETS.into_iter().filter(|target| fit(target, card).is_some()).max_by_key(|target| fit(target, card));
        assert_eq!(best, expected, "{card:?}");
    }

    #[test]
    fn each_card_gets_what_suits_it_best() {
        check((7, 5), None);
        check((8, 0), Some("sm_80"));
        check((8, 6), Some("sm_86"));
        check((8, 7), Some("sm_86"));
        check((8, 9), Some("sm_89"));
        check((9, 0), Some("sm_90a"));
        check((10, 0), Some("compute_80"));
        check((12, 0), Some("sm_120a"));
        check((12, 1), Some("compute_80"));
    }
}
