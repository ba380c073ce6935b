//! The compiled kernels, as `build.rs` left them.

use std::fmt;

/// The kernels of a source file, compiled.
pub struct Image {
    /// The source's name.
    pub name: &'static str,
    /// What they are for.
    pub target: Target,
    /// A cubin, or PTX with a zero at its end.
    pub bytes: &'static [u8],
}

/// What kernels are compiled for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// Compute capabilities with the same number before the point and at least this one behind it.
    Cubin(i32, i32),
    /// This compute capability alone, with what only it can do.
    Exact(i32, i32),
    /// This compute capability and all later ones; the driver translates.
    Ptx(i32, i32),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::Cubin(major, minor) => write!(f, "sm_{major}{minor}"),
            Target::Exact(major, minor) => write!(f, "sm_{major}{minor}a"),
            Target::Ptx(major, minor) => write!(f, "compute_{major}{minor}"),
        }
    }
}

impl Target {
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

/// The images that suit a card best.
pub fn select(card: (i32, i32)) -> Option<Vec<&'static Image>> {
    let best = IMAGES.iter().filter_map(|image| image.target.fit(card)).max()?;
    Some(IMAGES.iter().filter(|image| image.target.fit(card) == Some(best)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(card: (i32, i32), expected: Option<&str>) {
        const TARGETS: [Target; 6] = [
            Target::Cubin(8, 0),
            Target::Cubin(8, 6),
            Target::Cubin(8, 9),
            Target::Exact(9, 0),
            Target::Exact(12, 0),
            Target::Ptx(8, 0),
        ];
        let best =
            TARGETS.into_iter().filter(|target| target.fit(card).is_some()).max_by_key(|target| target.fit(card));
        assert_eq!(best.map(|target| target.to_string()).as_deref(), expected, "{card:?}");
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
