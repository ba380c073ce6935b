//! Hugging Face: what a revision of a file is, before it is fetched.

use super::range::{number, refused, text};
use super::report::Report;
use crate::egress::{Outside, Url, header};
use crate::models::Error;
use crate::models::catalogue::{self, HubFile};

/// Renames of a repository that are followed.
const MOVES: usize = 5;

/// What the hub says of a file.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The file at the commit that its revision means now.
    pub(super) file: HubFile,
    /// Its address at that commit.
    pub(super) url: Url,
    /// Its digest. A file that is too small for the hub's large file storage has none.
    pub(super) sha256: Option<String>,
    /// Its length.
    pub(super) bytes: Option<u64>,
}

/// Asks the hub at `endpoint` for a file. No redirect is followed: what we want to know stands in the hub's own answer, and
/// a redirect to another host leads to the bytes.
///
/// # Errors
/// When it does not have the file, or does not give it to us.
pub(super) async fn resolve(
    outside: &Outside,
    endpoint: &str,
    token: Option<&str>,
    file: &HubFile,
    report: &Report,
) -> Result<Resolved, Error> {
    let label = file.label();
    let mut url = address(endpoint, file)?;
    for _ in 0..=MOVES {
        let mut request = outside.head(url.clone()).unredirected().header(header::ACCEPT_ENCODING, "identity");
        if let Some(token) = token {
            request = request.bearer_auth(token);
        }
        let answer = report.unless_cancelled(async { request.send().await.map_err(Error::http(&label)) }).await?;
        let status = answer.status();
        let commit = text(&answer, "x-repo-commit");
        let to = text(&answer, header::LOCATION.as_str());
        // A repository that was renamed is told by a relative redirect.
        if let Some(moved) = to.filter(|to| status.is_redirection() && to.starts_with('/') && !to.starts_with("//")) {
            url = url.join(&moved).map_err(|error| Error::protocol(&label, error.to_string()))?;
            continue;
        }
        if !status.is_success() && !status.is_redirection() {
            let code = text(&answer, "x-error-code").unwrap_or_default();
            let error = refused(&label, status, answer).await;
            return Err(explained(error, &code, endpoint, file));
        }
        let revision = match commit {
            Some(commit) if commit.len() == 40 && commit.bytes().all(|byte| byte.is_ascii_hexdigit()) => commit,
            _ => return Err(Error::protocol(&label, "it does not say which commit it serves")),
        };
        let unquoted = |tag: String| tag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
        let sha256 = text(&answer, "x-linked-etag").map(unquoted).filter(|tag| catalogue::is_digest(tag));
        let bytes = match number(&answer, "x-linked-size") {
            Some(bytes) => Some(bytes),
            None if status.is_success() => number(&answer, header::CONTENT_LENGTH.as_str()),
            None => None,
        };
        let pinned = HubFile { revision, ..file.clone() };
        return Ok(Resolved { url: address(endpoint, &pinned)?, file: pinned, sha256, bytes });
    }
    Err(Error::protocol(&label, "the repository was moved too often"))
}

/// `endpoint/owner/name/resolve/revision/path`, every part escaped.
fn address(endpoint: &str, file: &HubFile) -> Result<Url, Error> {
    let wrong = |problem: String| Error::Source { text: endpoint.into(), reason: problem };
    let mut url: Url = endpoint.parse().map_err(|error| wrong(format!("models.huggingface is no address: {error}")))?;
    url.path_segments_mut()
        .map_err(|()| wrong("models.huggingface is no address of a server".into()))?
        .pop_if_empty()
        .extend(file.repo.split('/'))
        .push("resolve")
        .push(&file.revision)
        .extend(file.file.split('/'));
    Ok(url)
}

/// The hub's refusal with what to do about it.
fn explained(error: Error, code: &str, endpoint: &str, file: &HubFile) -> Error {
    let advice = match code {
        "GatedRepo" => format!(
            "its owner wants your consent first: accept the terms at {}/{}, then start the daemon with HF_TOKEN set to \
             a token of yours that may read gated repositories",
            endpoint.trim_end_matches('/'),
            file.repo
        ),
        "RepoNotFound" => "there is no such repository, or it is private and HF_TOKEN is not set".into(),
        "RevisionNotFound" => format!("the repository has no revision {:?}", file.revision),
        "EntryNotFound" => "the repository has no such file".into(),
        _ => return error,
    };
    match error {
        Error::Status { from, status, .. } => Error::Status { from, status, said: Some(advice) },
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_escaped() {
        let check = |endpoint: &str, revision: &str, path: &str, expected: &str| {
            let file = HubFile { repo: "o/r".into(), revision: revision.into(), file: path.into() };
            assert_eq!(address(endpoint, &file).unwrap().as_str(), expected);
        };
        check("https://huggingface.co", "main", "m.gguf", "https://huggingface.co/o/r/resolve/main/m.gguf");
        check(
            "https://host/hub/",
            "refs/pr/1",
            "sub/m 1.gguf",
            "https://host/hub/o/r/resolve/refs%2Fpr%2F1/sub/m%201.gguf",
        );
        check("https://host", "a?b#c", "m%.gguf", "https://host/o/r/resolve/a%3Fb%23c/m%25.gguf");
    }
}
