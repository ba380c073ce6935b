//! Names of models: how they are compared, derived from file names, and guessed at.

use super::Error;
use std::cmp::Reverse;

/// The longest name, in bytes: with what is appended to it while it downloads, it is still a file name.
const LONGEST: usize = 120;

/// The form in which names are compared: lower case, without the `:latest` that Ollama's clients append.
pub(super) fn normal(name: &str) -> String {
    let name = name.trim().to_ascii_lowercase();
    name.strip_suffix(":latest").map(str::to_owned).unwrap_or(name)
}

/// The name that a model gets from the file that a stranger named. Whatever could mean something to a file system or a
/// URL becomes a dash.
///
/// # Errors
/// When nothing is left.
pub(super) fn from_file(file: &str) -> Result<String, Error> {
    let stem = match file.len().checked_sub(".gguf".len()) {
        Some(at) if file.is_char_boundary(at) && file[at..].eq_ignore_ascii_case(".gguf") => &file[..at],
        _ => file,
    };
    let mut name = String::with_capacity(stem.len());
    for c in stem.chars().map(|c| c.to_ascii_lowercase()) {
        match c {
            'a'..='z' | '0'..='9' | '_' | '.' => name.push(c),
            _ if name.ends_with('-') => {}
            _ => name.push('-'),
        }
    }
    name.truncate(LONGEST);
    let name = name.trim_matches(['-', '.', '_']);
    if name.is_empty() {
        return Err(Error::Source { text: file.into(), reason: "no name for a model can be made of it".into() });
    }
    Ok(name.to_owned())
}

/// Up to three of `known` that `name` may have meant, the likeliest first.
pub(super) fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Vec<String> {
    let name = normal(name);
    let mut near: Vec<(u32, &str)> = known
        .map(|known| {
            let known_normal = normal(known);
            let likeness = strsim::jaro_winkler(&name, &known_normal);
            // A part of a long name is what people remember of it.
            let contained = name.len() >= 3 && known_normal.contains(&name);
            (if contained { 1000 } else { (likeness * 1000.0) as u32 }, known)
        })
        .filter(|(likeness, _)| *likeness >= 700)
        .collect();
    near.sort_by_key(|(likeness, known)| (Reverse(*likeness), *known));
    near.into_iter().take(3).map(|(_, known)| known.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_become_harmless() {
        let check = |file: &str, expected: Option<&str>| {
            assert_eq!(from_file(file).ok().as_deref(), expected, "{file:?}");
        };
        check("Qwen2.5-7B-Instruct-Q4_K_M.GGUF", Some("qwen2.5-7b-instruct-q4_k_m"));
        check("../../etc/passwd", Some("etc-passwd"));
        check("..", None);
        check(".gguf", None);
        check("", None);
        check("a\0b\\c/d e.gguf", Some("a-b-c-d-e"));
        check("größe.gguf", Some("gr-e"));
        check(&"x".repeat(500), Some(&"x".repeat(LONGEST)));
        check("模型", None);
    }

    #[test]
    fn names_compare_without_case_and_latest() {
        assert_eq!(normal(" Gemma-3-270M:latest"), "gemma-3-270m");
        assert_eq!(normal("llama3.1:8b"), "llama3.1:8b");
    }

    #[test]
    fn guesses_are_few_and_near() {
        let known = ["gemma-3-270m", "gemma-3-4b-it", "qwen2.5-7b-instruct", "mistral-7b"];
        let check = |name: &str, expected: &[&str]| assert_eq!(nearest(name, known.into_iter()), expected, "{name}");
        check("gema-3-270m", &["gemma-3-270m", "gemma-3-4b-it"]);
        check("instruct", &["qwen2.5-7b-instruct"]);
        check("zzz", &[]);
    }
}
